/**
 * Two nodes, the first with two pods and a client in a namespace outside; traffic processes in all of them, none of them
 * in the cgroup that the agents translate for. So every call to a service is translated packet by packet.
 */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parseNumericIdentity } from '../../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import type { DatapathOptions, EndpointEntry, FrontendEntry } from '../desired.ts';
import type { DatapathAnswer } from './datapath-process.ts';
import {
  type DatapathProcess,
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  type TestNode,
} from './nodes.ts';
import { testPrefix } from './program-run.ts';
import type { TrafficAnswer, TrafficRequest } from './traffic-process.ts';

const run = promisify(execFile);

/** A process that serves and calls in a namespace. */
export interface TrafficProcess extends AsyncDisposable {
  request(request: TrafficRequest): Promise<TrafficAnswer>;
}

/** The places of the rig by what they are to the client pod. */
export type Place = 'client' | 'local' | 'remote' | 'outside' | 'node';

export interface ServiceRig extends AsyncDisposable {
  readonly processes: Readonly<Record<Place, TrafficProcess>>;
  readonly addresses: Readonly<Record<Place, Readonly<Record<4 | 6, string>>>>;
  /** Name of the namespace of a place. */
  namespaceOf(place: Place): string;
  /** Writes frontends of the first node. */
  serve(rows: readonly FrontendEntry[]): Promise<DatapathAnswer>;
}

const OUTSIDE_DEVICE = 'outside0';
const LOCAL_INTERFACE = 'pod1';
const LOCAL_IDENTITY = 0x10000 + 301;

/** Addresses of the rig's places. `node`: the first one itself. */
const ADDRESSES = {
  client: { 4: '10.1.0.2', 6: 'fd01::2' },
  local: { 4: '10.1.0.3', 6: 'fd01::3' },
  remote: { 4: '10.2.0.2', 6: 'fd02::2' },
  outside: { 4: '198.51.100.2', 6: '2001:db8::2' },
  node: { 4: '192.0.2.1', 6: 'fd00::1' },
} as const;

/** Makes the rig; servers named like their places listen on port 8080 everywhere. Disposing removes everything. */
export async function openServiceRig(options: Partial<DatapathOptions> = {}): Promise<ServiceRig> {
  const lab = await openTestNodes();
  const owned: AsyncDisposable[] = [lab];
  const close = async (): Promise<void> => {
    for (const part of owned.splice(0).reverse()) await part[Symbol.asyncDispose]();
  };
  try {
    return await makeRig(lab.nodes, { options, owned, close });
  } catch (error) {
    await close();
    throw error;
  }
}

async function makeRig(
  [one, two]: readonly [TestNode, TestNode],
  rig: {
    readonly options: Partial<DatapathOptions>;
    readonly owned: AsyncDisposable[];
    readonly close: () => Promise<void>;
  },
): Promise<ServiceRig> {
  const { owned } = rig;
  const own = <Part extends AsyncDisposable>(part: Part): Part => {
    owned.push(part);
    return part;
  };
  const base = one.namespace.replace(/-n1$/, '');
  const namespaces: Record<Place, string> = {
    client: one.podNamespace,
    local: `${base}-q1`,
    remote: two.podNamespace,
    outside: `${base}-o1`,
    node: one.namespace,
  };
  for (const name of [namespaces.local, namespaces.outside]) {
    ip(['netns', 'add', name]);
    own({
      async [Symbol.asyncDispose]() {
        await run('ip', ['netns', 'delete', name]);
      },
    });
  }
  for (const node of [one, two]) {
    enableForwarding(node.namespace);
    // Larger than what fits into the tunnel: path MTU discovery has to work.
    inNamespace(node.podNamespace, 'link', 'set', 'dev', 'eth0', 'mtu', '1500');
  }
  addLocalPod(one, namespaces.local);
  addOutside(one, namespaces.outside);

  const first = own(await openDatapathProcess(one, rig.options));
  const second = own(await openDatapathProcess(two));
  fail(first.opened);
  fail(second.opened);
  await connectNodes(one, two, { first, second, local: namespaces.local });
  const open = (place: Place): TrafficProcess => own(openTrafficProcess(namespaces[place]));
  const processes = {
    client: open('client'),
    local: open('local'),
    remote: open('remote'),
    outside: open('outside'),
    node: open('node'),
  };
  const places: readonly Place[] = ['client', 'local', 'remote', 'outside', 'node'];
  await Promise.all(
    places.map((name) => {
      const addresses = Object.values(ADDRESSES[name]);
      return processes[name].request({ kind: 'serve', name, addresses, port: 8080 });
    }),
  );
  return {
    processes,
    addresses: ADDRESSES,
    namespaceOf: (place) => namespaces[place],
    serve: (services) => first.request({ services }),
    [Symbol.asyncDispose]: rig.close,
  };
}

async function connectNodes(
  one: TestNode,
  two: TestNode,
  { first, second, local }: { first: DatapathProcess; second: DatapathProcess; local: string },
): Promise<void> {
  const localPod: EndpointEntry = {
    ...one.endpoint(),
    endpointId: 8,
    addresses: [parseIpAddress(ADDRESSES.local[4]), parseIpAddress(ADDRESSES.local[6])],
    ifindex: linkOf(one.namespace, LOCAL_INTERFACE).ifindex,
    hostInterface: LOCAL_INTERFACE,
    mac: linkOf(local, 'eth0').address,
    identity: parseNumericIdentity(LOCAL_IDENTITY),
  };
  fail(
    await first.request({
      attach: [HOST_INTERFACE, LOCAL_INTERFACE],
      endpoints: [one.endpoint(), localPod],
      ipcache: [...prefixesOf(two), ...nodePrefixes(two)],
    }),
  );
  fail(
    await second.request({
      attach: [HOST_INTERFACE],
      endpoints: [two.endpoint()],
      ipcache: [
        ...prefixesOf(one),
        ...nodePrefixes(one),
        testPrefix(`${ADDRESSES.local[4]}/32`, LOCAL_IDENTITY, {
          tunnelEndpoint: '192.0.2.1',
          clusterId: 1,
        }),
        testPrefix(`${ADDRESSES.local[6]}/128`, LOCAL_IDENTITY, {
          tunnelEndpoint: 'fd00::1',
          clusterId: 1,
        }),
      ],
    }),
  );
}

/** IPv4 over the IPv4 underlay, IPv6 over the IPv6 one. */
function prefixesOf(node: TestNode) {
  const clusterId = node.number;
  return [
    testPrefix(`${node.podIp}/32`, node.identity, {
      tunnelEndpoint: `192.0.2.${clusterId}`,
      clusterId,
    }),
    testPrefix(`${node.podIp6}/128`, node.identity, {
      tunnelEndpoint: `fd00::${clusterId}`,
      clusterId,
    }),
  ];
}

function nodePrefixes(node: TestNode) {
  const clusterId = node.number;
  return [
    testPrefix(`192.0.2.${clusterId}/32`, 6, { clusterId }),
    testPrefix(`fd00::${clusterId}/128`, 6, { clusterId }),
  ];
}

function addLocalPod(node: TestNode, namespace: string): void {
  const inNode = (...args: string[]): void => inNamespace(node.namespace, ...args);
  const inPod = (...args: string[]): void => inNamespace(namespace, ...args);
  inNode(
    'link',
    'add',
    LOCAL_INTERFACE,
    'type',
    'veth',
    'peer',
    'name',
    'eth0',
    'netns',
    namespace,
  );
  inNode('link', 'set', 'dev', LOCAL_INTERFACE, 'up');
  inPod('link', 'set', 'dev', 'lo', 'up');
  inPod('link', 'set', 'dev', 'eth0', 'up');
  for (const [address, bits, gateway] of [
    [ADDRESSES.local[4], '32', '10.1.0.1'],
    [ADDRESSES.local[6], '128', 'fd01::1'],
  ] as const) {
    inNode('address', 'add', `${gateway}/${bits}`, 'dev', LOCAL_INTERFACE);
    inNode('route', 'add', `${address}/${bits}`, 'dev', LOCAL_INTERFACE);
    inPod(
      'address',
      'add',
      `${address}/${bits}`,
      'dev',
      'eth0',
      ...(bits === '128' ? ['nodad'] : []),
    );
    inPod('route', 'add', gateway, 'dev', 'eth0');
    inPod('route', 'add', 'default', 'via', gateway, 'dev', 'eth0');
  }
}

function addOutside(node: TestNode, namespace: string): void {
  const inNode = (...args: string[]): void => inNamespace(node.namespace, ...args);
  const inOutside = (...args: string[]): void => inNamespace(namespace, ...args);
  inNode('link', 'add', OUTSIDE_DEVICE, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
  inNode('link', 'set', 'dev', OUTSIDE_DEVICE, 'up');
  inOutside('link', 'set', 'dev', 'lo', 'up');
  inOutside('link', 'set', 'dev', 'eth0', 'up');
  for (const [own, other, bits] of [
    ['198.51.100.1', ADDRESSES.outside[4], '24'],
    ['2001:db8::1', ADDRESSES.outside[6], '64'],
  ] as const) {
    const flags = bits === '64' ? ['nodad'] : [];
    inNode('address', 'add', `${own}/${bits}`, 'dev', OUTSIDE_DEVICE, ...flags);
    inOutside('address', 'add', `${other}/${bits}`, 'dev', 'eth0', ...flags);
    inOutside('route', 'add', 'default', 'via', own, 'dev', 'eth0');
  }
}

function enableForwarding(namespace: string): void {
  const settings = [
    'net.ipv4.ip_forward=1',
    'net.ipv6.conf.all.forwarding=1',
    'net.ipv4.conf.all.rp_filter=1',
  ];
  execFileSync('nsenter', [`--net=/run/netns/${namespace}`, 'sysctl', '-qw', ...settings]);
}

/** Starts a traffic process in a namespace. */
export function openTrafficProcess(namespace: string): TrafficProcess {
  const script = fileURLToPath(new URL('./traffic-process.js', import.meta.url));
  const child = spawn('nsenter', [`--net=/run/netns/${namespace}`, process.execPath, script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const closed = new Promise((resolve) => child.on('close', resolve));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async request(request) {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const { value, done } = await lines.next();
      if (done) throw new Error(`the traffic process in ${namespace} ended`);
      const answer: TrafficAnswer = JSON.parse(value);
      return answer;
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await closed;
    },
  };
}

function linkOf(namespace: string, device: string): { ifindex: number; address: string } {
  const text = execFileSync('ip', ['-n', namespace, '-json', 'link', 'show', 'dev', device], {
    encoding: 'utf8',
  });
  const [link]: { ifindex: number; address: string }[] = JSON.parse(text);
  if (link === undefined) throw new Error(`no ${device} in ${namespace}`);
  return link;
}

function inNamespace(namespace: string, ...args: string[]): void {
  ip(['-n', namespace, ...args]);
}

function ip(args: readonly string[]): void {
  execFileSync('ip', args);
}

function fail(answer: DatapathAnswer): void {
  if ('error' in answer) throw new Error(answer.error);
}
