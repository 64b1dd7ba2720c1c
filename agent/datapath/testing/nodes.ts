/** Nodes of network namespaces, joined by one underlay link, each with a pod behind a veth; and agents' processes in them. */
import { execFile, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parseNumericIdentity } from '../../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import type { DatapathOptions, EndpointEntry } from '../desired.ts';
import { OBJECT_DIR, openTestBpffs } from './bpffs.ts';
import { openTestCgroup, type TestCgroup } from './cgroup.ts';
import type {
  DatapathAnswer,
  DatapathProcessOptions,
  DatapathRequest,
} from './datapath-process.ts';

const run = promisify(execFile);

/** One of two nodes; its number is in all its addresses. */
export interface TestNode {
  readonly number: 1 | 2;
  readonly namespace: string;
  readonly podNamespace: string;
  readonly cgroup: TestCgroup;
  readonly options: DatapathOptions;
  readonly podIp: string;
  readonly podIp6: string;
  readonly identity: number;
  /** The pod as the agent would write it; read anew, since interface indexes change. */
  endpoint(fields?: Partial<EndpointEntry>): EndpointEntry;
}

export interface TestNodes extends AsyncDisposable {
  readonly nodes: readonly [TestNode, TestNode];
}

/** An agent's process in a node. */
export interface DatapathProcess extends AsyncDisposable {
  readonly pid: number | undefined;
  readonly opened: DatapathAnswer;
  request(request: DatapathRequest): Promise<DatapathAnswer>;
  kill(): Promise<void>;
}

export const HOST_INTERFACE = 'pod.0';

/** Makes the namespaces. Disposing removes them, their bpffs and cgroups. */
export async function openTestNodes(): Promise<TestNodes> {
  const name = `ist${randomBytes(3).toString('hex')}`;
  const bpffs = await openTestBpffs('nodes');
  const nodes = [makeNode(1, name, bpffs.path), makeNode(2, name, bpffs.path)] as const;
  const close = async (): Promise<void> => {
    for (const node of nodes) {
      for (const namespace of [node.namespace, node.podNamespace]) {
        await run('ip', ['netns', 'delete', namespace]).catch(() => undefined);
      }
      await node.cgroup[Symbol.asyncDispose]();
    }
    await bpffs[Symbol.asyncDispose]();
  };
  try {
    for (const node of nodes) {
      ip(['netns', 'add', node.namespace]);
      ip(['netns', 'add', node.podNamespace]);
    }
    const [one, two] = nodes;
    const underlay = ['link', 'add', 'underlay', 'type', 'veth', 'peer', 'name', 'underlay'];
    ip(['-n', one.namespace, ...underlay, 'netns', two.namespace]);
    for (const node of nodes) connectPod(node);
  } catch (error) {
    await close();
    throw error;
  }
  return { nodes, [Symbol.asyncDispose]: close };
}

function makeNode(number: 1 | 2, name: string, bpffs: string): TestNode {
  const namespace = `${name}-n${number}`;
  const podNamespace = `${name}-p${number}`;
  const cgroup = openTestCgroup();
  const identity = number * 0x10000 + 300;
  const podIp = `10.${number}.0.2`;
  const podIp6 = `fd0${number}::2`;
  return {
    number,
    namespace,
    podNamespace,
    cgroup,
    podIp,
    podIp6,
    identity,
    options: {
      bpfRoot: join(bpffs, `node${number}`),
      cgroupRoot: cgroup.path,
      objectDir: OBJECT_DIR,
      tunnelDevice: 'isthmus_vxlan',
      tunnelPort: 8472,
      clusterId: number,
      maxConnectedClusters: 255,
      nodeIps: [parseIpAddress(`192.0.2.${number}`), parseIpAddress(`fd00::${number}`)],
    },
    endpoint: (fields = {}) => ({
      endpointId: 7,
      addresses: [parseIpAddress(podIp), parseIpAddress(podIp6)],
      ifindex: linkField(namespace, HOST_INTERFACE, 'ifindex', Number),
      hostInterface: HOST_INTERFACE,
      mac: linkField(podNamespace, 'eth0', 'address', String),
      identity: parseNumericIdentity(identity),
      ingressEnforced: false,
      egressEnforced: false,
      audit: false,
      ...fields,
    }),
  };
}

/** Underlay addresses, and the pod's veth with the routes that the ptp plugin makes. */
function connectPod(node: TestNode): void {
  const inNode = (...args: string[]): void => ip(['-n', node.namespace, ...args]);
  inNode('address', 'add', `192.0.2.${node.number}/24`, 'dev', 'underlay');
  inNode('address', 'add', `fd00::${node.number}/64`, 'dev', 'underlay', 'nodad');
  inNode('link', 'set', 'dev', 'underlay', 'up');
  inNode('link', 'set', 'dev', 'lo', 'up');
  addPodLink(node);
}

/** Makes the pod's veth; also again, after it was deleted. */
export function addPodLink(node: TestNode): void {
  const inNode = (...args: string[]): void => ip(['-n', node.namespace, ...args]);
  const inPod = (...args: string[]): void => ip(['-n', node.podNamespace, ...args]);
  const gateway = `10.${node.number}.0.1`;
  const gateway6 = `fd0${node.number}::1`;
  const peer = ['peer', 'name', 'eth0', 'netns', node.podNamespace];
  inNode('link', 'add', HOST_INTERFACE, 'type', 'veth', ...peer);
  inNode('address', 'add', `${gateway}/32`, 'dev', HOST_INTERFACE);
  inNode('address', 'add', `${gateway6}/128`, 'dev', HOST_INTERFACE, 'nodad');
  inNode('link', 'set', 'dev', HOST_INTERFACE, 'up');
  inNode('route', 'add', `${node.podIp}/32`, 'dev', HOST_INTERFACE);
  inNode('route', 'add', `${node.podIp6}/128`, 'dev', HOST_INTERFACE);
  inPod('link', 'set', 'dev', 'lo', 'up');
  inPod('link', 'set', 'dev', 'eth0', 'mtu', '1430', 'up');
  inPod('address', 'add', `${node.podIp}/32`, 'dev', 'eth0');
  inPod('address', 'add', `${node.podIp6}/128`, 'dev', 'eth0', 'nodad');
  for (const address of [gateway, gateway6]) {
    inPod('route', 'add', address, 'dev', 'eth0');
    inPod('route', 'add', 'default', 'via', address, 'dev', 'eth0');
  }
}

/** Starts a process that opens the node's datapath. */
export async function openDatapathProcess(
  node: TestNode,
  options: Partial<DatapathProcessOptions> = {},
): Promise<DatapathProcess> {
  const script = fileURLToPath(new URL('./datapath-process.js', import.meta.url));
  const child = spawn('nsenter', [`--net=/run/netns/${node.namespace}`, process.execPath, script], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const closed = new Promise((resolve) => child.on('close', resolve));
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (question: unknown): Promise<DatapathAnswer> => {
    child.stdin.write(`${JSON.stringify(question)}\n`);
    const { value, done } = await lines.next();
    if (done) throw new Error(`the datapath process of ${node.namespace} ended`);
    const answer: DatapathAnswer = JSON.parse(value);
    return answer;
  };
  return {
    // nsenter becomes the program.
    pid: child.pid,
    opened: await ask({ ...node.options, ...options }),
    request: ask,
    async kill() {
      child.kill('SIGKILL');
      await closed;
    },
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await closed;
    },
  };
}

/** Runs a command in a namespace; its exit code and output. */
export async function runIn(
  namespace: string,
  command: readonly string[],
): Promise<{ code: number; output: string }> {
  try {
    const args = [`--net=/run/netns/${namespace}`, ...command];
    const { stdout } = await run('nsenter', args, { timeout: 20_000 });
    return { code: 0, output: stdout };
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? Number(error.code) : -1;
    return { code, output: String(error) };
  }
}

/** Runs a shell command in a namespace. Throws what it said if it fails. */
export async function mustRunIn(namespace: string, command: string): Promise<void> {
  const { code, output } = await runIn(namespace, ['sh', '-c', command]);
  if (code !== 0) throw new Error(output);
}

/** What a process answered. Throws where that is an error. */
export function answered(
  answer: DatapathAnswer,
): Exclude<DatapathAnswer, { readonly error: string }> {
  if ('error' in answer) throw new Error(answer.error);
  return answer;
}

/** Counters of an agent's programs. */
export async function countersOf(
  agent: DatapathProcess,
): Promise<Readonly<Record<string, number>>> {
  return answered(await agent.request({})).counters;
}

function linkField<Value>(
  namespace: string,
  name: string,
  field: 'ifindex' | 'address',
  convert: (value: unknown) => Value,
): Value {
  const text = execFileSync('ip', ['-n', namespace, '-json', 'link', 'show', 'dev', name], {
    encoding: 'utf8',
  });
  const links: Record<string, unknown>[] = JSON.parse(text);
  return convert(links[0]?.[field]);
}

function ip(args: readonly string[]): void {
  execFileSync('ip', args);
}
