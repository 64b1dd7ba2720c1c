/** What packets meet on their way from this node to a peer's pods: its nodes, the tunnel, the size that fits. */
import { problemOf } from '../../mesh/diagnosis/problem.ts';
import type { StepList, StepResult } from '../../mesh/diagnosis/step-list.ts';
import { type IpAddress, ipFamily, parseIpAddress } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import type { Probe } from '../withdrawal/probe.ts';
import type { Echo } from './echo.ts';

/** Nodes that are asked, of as many as there are: what is wrong with all is wrong with some. */
const MOST_NODES = 5;
/** Pods of a node that are asked: one may be down, or closed by a policy. */
const MOST_PODS = 3;
/** What a packet is made smaller by until it fits, in bytes. */
const SMALLER_BY = [20, 50, 100, 150, 250, 400, 700];

/** What a look needs. */
export interface PacketPathOptions {
  readonly peer: string;
  /** Undefined: the cluster is not known, so nothing of it is. */
  readonly clusterId: number | undefined;
  /** An address of each of its nodes. */
  readonly nodes: readonly IpAddress[];
  /** What the kernel knows of addresses. */
  readonly rows: () => Iterable<IpcacheEntry>;
  /** Largest packet that fits into the tunnel; undefined: nothing is tunnelled. */
  readonly mtu: number | undefined;
  readonly probe: Probe;
  readonly echo: Echo;
  readonly signal: AbortSignal;
}

/** A pod that can be asked, with the node that it is on. */
export interface Target {
  readonly pod: IpAddress;
  readonly node: IpAddress;
}

/** Adds the steps `underlay`, `tunnel` and `mtu`. Returns a pod of the peer, one that answers if there is one. */
export async function followPackets(
  list: StepList,
  options: PacketPathOptions,
): Promise<Target | undefined> {
  const { clusterId, rows, probe, signal } = options;
  const nodes = options.nodes.slice(0, MOST_NODES);
  let reached: readonly IpAddress[] = [];
  await list.next('underlay', async () => {
    const answers = await Promise.all(nodes.map((node) => probe(node, signal)));
    reached = nodes.filter((_, index) => answers[index] === 'answered');
    return judgeUnderlay(options, { nodes, reached });
  });
  const targets = clusterId === undefined ? [] : pickTargets(rows(), clusterId);
  let good: Target | undefined;
  await list.next('tunnel', async () => {
    const { answered, result } = await tryTunnel(options, { targets, reached });
    good = answered;
    return result;
  });
  await list.next('mtu', () => tryMtu(options, good));
  return good ?? targets[0];
}

function judgeUnderlay(
  { peer, clusterId }: PacketPathOptions,
  found: { readonly nodes: readonly IpAddress[]; readonly reached: readonly IpAddress[] },
): StepResult {
  const { nodes, reached } = found;
  if (clusterId === undefined || nodes.length === 0) {
    return { seen: ['no node of it is known here'], isSkipped: true };
  }
  const silent = nodes.filter((node) => !reached.includes(node));
  const seen = [
    ...reached.map((node) => `node ${node} answers`),
    ...silent.map((node) => `node ${node} does not answer`),
  ];
  const [first] = silent;
  if (first === undefined) return { seen };
  const problem = problemOf('underlay-blocked', {
    subject: `peer ${peer}`,
    cause:
      reached.length === 0
        ? `none of its nodes answers this node: ${silent.join(', ')}`
        : `of its nodes ${silent.join(', ')} do not answer this node`,
    values: { address: first },
  });
  return { seen, problem: reached.length === 0 ? problem : { ...problem, severity: 'warning' } };
}

async function tryTunnel(
  options: PacketPathOptions,
  {
    targets,
    reached,
  }: { readonly targets: readonly Target[]; readonly reached: readonly IpAddress[] },
): Promise<{ answered: Target | undefined; result: StepResult }> {
  const { peer, clusterId, echo, signal } = options;
  const skip = (why: string) => ({ answered: undefined, result: { seen: [why], isSkipped: true } });
  if (clusterId === undefined) return skip('the cluster is not known here');
  if (targets.length === 0) return skip('no pod of it is reached by the tunnel');
  const answers = await Promise.all(targets.map(({ pod }) => echo(pod, { signal })));
  if (answers.includes('no-program')) return skip('there is no `ping` on this machine');
  const good = targets.filter((_, index) => answers[index] === 'answered');
  const nodes = [...new Set(targets.map(({ node }) => node))];
  const dead = nodes.filter((node) => !good.some((target) => target.node === node));
  const seen = targets.map(
    ({ pod, node }, index) =>
      `${pod} on node ${node}: ${answers[index] === 'answered' ? 'answers' : 'does not answer'} through the tunnel`,
  );
  const [first] = dead;
  if (first === undefined) return { answered: good[0], result: { seen } };
  const answersItself = reached.some((node) => dead.includes(node));
  const problem = problemOf('vxlan-blocked', {
    subject: `peer ${peer}`,
    cause: `nothing comes back through the tunnel from node ${dead.join(', ')}${answersItself ? ', which itself answers' : ''}: UDP 8472 (or --tunnel-port) is dropped on the way, or no agent runs there`,
    values: { address: first },
  });
  const isAllDead = good.length === 0;
  return {
    answered: good[0],
    result: { seen, problem: isAllDead ? problem : { ...problem, severity: 'warning' } },
  };
}

async function tryMtu(options: PacketPathOptions, target: Target | undefined): Promise<StepResult> {
  const { peer, mtu, echo, signal } = options;
  if (target === undefined || mtu === undefined) {
    return { seen: ['there is nobody to ask'], isSkipped: true };
  }
  const sizes = [mtu, ...SMALLER_BY.map((less) => mtu - less)];
  const answers = await Promise.all(sizes.map((bytes) => echo(target.pod, { bytes, signal })));
  const fitting = sizes.filter((_, index) => answers[index] === 'answered');
  const [largest] = fitting;
  const seen = [
    `packets of ${mtu} bytes, as large as pods send them, ${answers[0] === 'answered' ? 'arrive' : 'do not arrive'} at ${target.pod}`,
  ];
  if (largest === mtu) return { seen };
  const problem = problemOf('mtu-small', {
    subject: `peer ${peer}`,
    cause: `packets of ${mtu} bytes do not arrive at ${target.pod}, and small ones do: the largest that was seen to arrive is ${largest ?? `less than ${sizes.at(-1)}`} bytes`,
    values: { address: target.node },
  });
  return { seen, problem };
}

/** Some pods of each of some nodes. */
function pickTargets(rows: Iterable<IpcacheEntry>, clusterId: number): Target[] {
  const byNode = new Map<IpAddress, Target[]>();
  for (const { prefix, tunnelEndpoint, clusterId: origin } of rows) {
    if (origin !== clusterId || tunnelEndpoint === undefined) continue;
    const [address = '', length = ''] = prefix.split('/');
    const pod = parseIpAddress(address);
    if (Number(length) !== (ipFamily(pod) === 4 ? 32 : 128)) continue;
    const known = byNode.get(tunnelEndpoint) ?? [];
    if (known.length >= MOST_PODS) continue;
    if (known.length === 0 && byNode.size >= MOST_NODES) continue;
    byNode.set(tunnelEndpoint, [...known, { pod, node: tunnelEndpoint }]);
  }
  return [...byNode.values()].flat();
}
