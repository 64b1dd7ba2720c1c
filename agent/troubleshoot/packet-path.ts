/** What packets meet on their way from this node to a peer's pods: its nodes, the tunnel, the size that fits, a pod from a pod. */
import type { DiagnosisStep } from '../../mesh/diagnosis/diagnosis.ts';
import { problemOf } from '../../mesh/diagnosis/problem.ts';
import { createStepList, type StepResult } from '../../mesh/diagnosis/step-list.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
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
const BUDGET_MS = 12_000;

/** What a look needs. */
export interface PacketPathOptions {
  readonly peer: string;
  /** Undefined: the cluster is not known, so nothing of it is. */
  readonly clusterId: number | undefined;
  /** An address of each of its nodes. */
  readonly nodes: readonly IpAddress[];
  /** What the kernel knows of addresses. */
  readonly rows: () => Iterable<IpcacheEntry>;
  /** A pod of this node; undefined: there is none. */
  readonly local: { readonly name: string; readonly netns: string } | undefined;
  /** Largest packet that fits into the tunnel; undefined: nothing is tunnelled. */
  readonly mtu: number | undefined;
  readonly probe: Probe;
  readonly echo: Echo;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** A pod that can be asked, with the node that it is on. */
interface Target {
  readonly pod: IpAddress;
  readonly node: IpAddress;
}

/** Makes the steps `underlay`, `tunnel`, `mtu` and `pod`. Rejects only when `signal` aborts. */
export async function followPackets(options: PacketPathOptions): Promise<readonly DiagnosisStep[]> {
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(BUDGET_MS)]);
  const look = { ...options, signal };
  const list = createStepList(options.clock);
  const nodes = options.nodes.slice(0, MOST_NODES);
  let reached: readonly IpAddress[] = [];
  await list.next('underlay', async () => {
    const answers = await Promise.all(nodes.map((node) => options.probe(node, signal)));
    reached = nodes.filter((_, index) => answers[index] === 'answered');
    return judgeUnderlay(look, { nodes, reached });
  });
  let good: Target | undefined;
  await list.next('tunnel', async () => {
    const { answered, result } = await tryTunnel(look, reached);
    good = answered;
    return result;
  });
  await list.next('mtu', () => tryMtu(look, good));
  await list.next('pod', () => tryFromPod(look, good));
  options.signal.throwIfAborted();
  return list.steps;
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
  reached: readonly IpAddress[],
): Promise<{ answered: Target | undefined; result: StepResult }> {
  const { peer, clusterId, rows, echo, signal } = options;
  const skip = (why: string) => ({ answered: undefined, result: { seen: [why], isSkipped: true } });
  if (clusterId === undefined) return skip('the cluster is not known here');
  const targets = pickTargets(rows(), clusterId);
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

async function tryFromPod(
  { peer, local, echo, signal }: PacketPathOptions,
  target: Target | undefined,
): Promise<StepResult> {
  if (target === undefined || local === undefined) {
    return { seen: ['no pod of this node can ask'], isSkipped: true };
  }
  const answer = await echo(target.pod, { netns: local.netns, signal });
  if (answer === 'no-program') return { seen: ['there is no `nsenter`'], isSkipped: true };
  const seen = [
    `pod ${local.name} ${answer === 'answered' ? 'reaches' : 'does not reach'} ${target.pod}`,
  ];
  if (answer === 'answered') return { seen };
  const problem = problemOf('policy-denies', {
    subject: `peer ${peer}`,
    cause: `pod ${local.name} gets no echo from ${target.pod}, and this node does: a policy of one of the two may forbid it`,
    values: { from: local.name, to: target.pod },
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
