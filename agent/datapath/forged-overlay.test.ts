/** Packets of a real VXLAN device that is nobody's agent, sent to a node: who gets in. */
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { kernelSkipReason } from './testing/bpffs.ts';
import type { DatapathAnswer } from './testing/datapath-process.ts';
import {
  type DatapathProcess,
  HOST_INTERFACE,
  openDatapathProcess,
  openTestNodes,
  runIn,
  type TestNode,
} from './testing/nodes.ts';
import { testPrefix } from './testing/program-run.ts';

const skip = kernelSkipReason();
const PEER = 0x20000 + 300;
const THIRD = 0x30000 + 300;
/** Of what the device sends by itself as it comes up. */
const OWN_NOISE = 'unsupported-protocol';

/** What the forger's device says, and what becomes of its pings in each mode. */
interface Forgery {
  readonly name: string;
  readonly vni: number;
  /** Last part of the outer source. */
  readonly outer: number;
  /** The inner source. */
  readonly inner: Readonly<Record<4 | 6, string>>;
  readonly cluster: string;
  /** Default: the same. */
  readonly strict?: string;
}

const POD = { 4: '10.2.0.7', 6: 'fd02::7' } as const;
const FORGERIES: readonly Forgery[] = [
  {
    name: 'a known pod behind its node',
    vni: PEER,
    outer: 2,
    inner: POD,
    cluster: 'forwarded',
    strict: 'forwarded',
  },
  {
    name: 'a pod that is not known yet',
    vni: PEER,
    outer: 2,
    inner: { 4: '10.2.0.99', 6: 'fd02::99' },
    cluster: 'forwarded',
    strict: 'overlay-source-unknown',
  },
  {
    name: 'a stranger',
    vni: PEER,
    outer: 66,
    inner: POD,
    cluster: 'overlay-node-unknown',
  },
  {
    name: 'a known node under the identity of another cluster',
    vni: THIRD,
    outer: 2,
    inner: POD,
    cluster: 'overlay-cluster-mismatch',
  },
  {
    name: "a known node in another cluster's name",
    vni: PEER,
    outer: 2,
    inner: { 4: '10.3.0.7', 6: 'fd03::7' },
    cluster: 'overlay-source-cluster',
  },
  {
    name: "a known node in our own pod's name",
    vni: PEER,
    outer: 2,
    inner: { 4: '10.1.0.3', 6: 'fd01::3' },
    cluster: 'overlay-source-ours',
  },
  {
    name: 'a known node in the name of our node',
    vni: 6,
    outer: 2,
    inner: { 4: '10.1.0.254', 6: 'fd01::254' },
    cluster: 'overlay-source-ours',
  },
  {
    name: 'a reserved identity that no node sends',
    vni: 3,
    outer: 2,
    inner: POD,
    cluster: 'invalid-identity',
  },
];

test('mesh_from_overlay: forged packets of a real device', { skip }, async (t) => {
  await using lab = await openTestNodes();
  const [one, two] = lab.nodes;
  for (const address of ['192.0.2.66/24', 'fd00::66/64']) {
    const add = ['ip', 'address', 'add', address, 'dev', 'underlay'];
    await runIn(two.namespace, address.includes(':') ? [...add, 'nodad'] : add);
  }
  for (const mode of ['cluster', 'strict'] as const) {
    await using agent = await openDatapathProcess(one, { overlaySourceCheck: mode });
    await agent.request(stateOf(one));
    // What is refused anyway need not be forged twice.
    const some = FORGERIES.filter(
      (forgery) => mode === 'cluster' || forgery.cluster === 'forwarded',
    );
    for (const forgery of some) {
      for (const family of [4, 6] as const) {
        const reason = await forge({ one, two, agent, forgery, family });
        t.equal(
          reason,
          `${forgery[mode] ?? forgery.cluster} ingress`,
          `${mode}, IPv${family}: ${forgery.name}`,
        );
      }
    }
  }
});

function stateOf(one: TestNode) {
  const inner = ['10.1.0.254/32', 'fd01::254/128'];
  return {
    attach: [HOST_INTERFACE],
    endpoints: [
      one.endpoint(),
      one.endpoint({ endpointId: 8, addresses: ['10.1.0.3', 'fd01::3'].map(parseIpAddress) }),
    ],
    ipcache: [
      ...inner.map((prefix) => testPrefix(prefix, 1)),
      testPrefix('192.0.2.2/32', 6, { clusterId: 2 }),
      testPrefix('fd00::2/128', 6, { clusterId: 2 }),
      testPrefix('10.2.0.7/32', PEER, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
      testPrefix('fd02::7/128', PEER, { tunnelEndpoint: 'fd00::2', clusterId: 2 }),
      testPrefix('10.3.0.7/32', THIRD, { tunnelEndpoint: '192.0.2.3', clusterId: 3 }),
      testPrefix('fd03::7/128', THIRD, { tunnelEndpoint: 'fd00::3', clusterId: 3 }),
    ],
  };
}

/** Sends one echo request through a VXLAN device made for it; what the node counted it under. */
async function forge({
  one,
  two,
  agent,
  forgery,
  family,
}: {
  readonly one: TestNode;
  readonly two: TestNode;
  readonly agent: DatapathProcess;
  readonly forgery: Forgery;
  readonly family: 4 | 6;
}): Promise<string | undefined> {
  const underlay = family === 4 ? '192.0.2.' : 'fd00::';
  const inner = forgery.inner[family];
  const target = family === 4 ? one.podIp : one.podIp6;
  const address = family === 4 ? [`${inner}/32`] : [`${inner}/128`, 'nodad'];
  const vxlan = ['type', 'vxlan', 'id', String(forgery.vni), 'dstport', '8472', 'nolearning'];
  const ends = ['local', `${underlay}${forgery.outer}`, 'remote', `${underlay}1`];
  const before = counters(await agent.request({}));
  const commands = [
    ['link', 'add', 'forged', ...vxlan, ...ends],
    ['link', 'set', 'dev', 'forged', 'addrgenmode', 'none', 'up'],
    ['address', 'add', ...address, 'dev', 'forged'],
    ['route', 'add', target, 'dev', 'forged'],
    ['neigh', 'add', target, 'lladdr', '02:00:00:00:00:01', 'dev', 'forged'],
  ];
  const script = [
    ...commands.map((command) => `ip ${command.join(' ')} || exit 9`),
    `ping -q -c 1 -W 0.01 -I ${inner} ${target}`,
    'ip link delete dev forged',
  ];
  const { code, output } = await runIn(two.namespace, ['sh', '-c', script.join('; ')]);
  if (code === 9) throw new Error(output);
  let found: string | undefined;
  while (found === undefined) {
    const after = counters(await agent.request({}));
    found = Object.keys(after).find(
      (name) =>
        name.endsWith(' ingress') && !name.startsWith(OWN_NOISE) && after[name] !== before[name],
    );
  }
  return found;
}

function counters(answer: DatapathAnswer): Readonly<Record<string, number>> {
  if ('error' in answer) throw new Error(answer.error);
  return answer.counters;
}
