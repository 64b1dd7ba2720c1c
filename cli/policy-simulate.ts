/**
 * `clustermesh policy simulate`: what a change of policies would change, asked of the agent that has the cluster's identities,
 * or worked out from files.
 */
import { createOfflineView, type OfflineMesh } from '../agent/policy/offline-view.ts';
import {
  answerSimulation,
  type ChangeInfo,
  type ClassInfo,
  type FlowChange,
  type SimulateAnswer,
  type SimulateRequest,
} from '../agent/policy/simulate-answer.ts';
import type { RecordedFlow } from '../agent/policy/simulate-flows.ts';
import type { VerdictInfo } from '../agent/policy/sources-of-verdict-info.ts';
import { TraceError } from '../agent/policy/trace-error.ts';
import { portText } from '../agent/policy/trace-port.ts';
import type { LocalPolicy } from '../mesh/wire/local-policy.ts';
import { WireError } from '../mesh/wire/wire-error.ts';
import { CliError } from './cli-error.ts';
import type { AgentName, PolicyAgents } from './policy-agents.ts';
import { renderRows } from './policy-output.ts';
import { ruleLine, shortLabels } from './policy-reason.ts';
import { partyText } from './policy-trace-text.ts';

/** An agent takes questions of 4 MiB; a flow with its labels is about one KiB. */
const FLOWS_A_QUESTION = 1500;

/** Asks for a simulation, with the flows in as many questions as it takes. */
export async function simulateChange(
  agents: PolicyAgents,
  change: {
    readonly cluster: string | undefined;
    readonly manifests: readonly LocalPolicy[];
    readonly deleted: readonly string[];
    readonly flows: readonly RecordedFlow[];
  },
): Promise<SimulateAnswer> {
  const { manifests, deleted, flows } = change;
  const agent = oneAgent(agents, change.cluster);
  const ask = (some: readonly RecordedFlow[], withPairs: boolean): Promise<SimulateAnswer> =>
    agents.simulate(agent, { manifests, deleted, flows: some, withPairs });
  let answer = await ask(flows.slice(0, FLOWS_A_QUESTION), true);
  for (let at = FLOWS_A_QUESTION; at < flows.length; at += FLOWS_A_QUESTION) {
    const more = await ask(flows.slice(at, at + FLOWS_A_QUESTION), false);
    answer = {
      ...answer,
      flowChanges: [...answer.flowChanges, ...more.flowChanges],
      flowsJudged: answer.flowsJudged + more.flowsJudged,
      flowsOfOthers: answer.flowsOfOthers + more.flowsOfOthers,
    };
  }
  return answer;
}

/** Simulates for a mesh of files. Throws CliError `usage` for what they do not say, and for a name that is none. */
export function simulateOffline(
  change: Pick<SimulateRequest, 'manifests' | 'deleted'>,
  mesh: OfflineMesh,
): SimulateAnswer {
  try {
    const running = answerSimulation(
      { ...change, flows: [], withPairs: true },
      createOfflineView(mesh),
      { clusterName: mesh.cluster, defaultLocalCluster: mesh.defaultLocalCluster },
    );
    // Nobody else has anything to do meanwhile.
    for (;;) {
      const step = running.next();
      if (step.done) return step.value;
    }
  } catch (cause) {
    if (!(cause instanceof TraceError) && !(cause instanceof WireError)) throw cause;
    throw new CliError('usage', cause.message, { cause });
  }
}

/** Policies are a cluster's: any of its agents knows them all. */
function oneAgent({ names }: PolicyAgents, wanted: string | undefined): AgentName {
  const clusters = [...new Set(names.map(({ cluster }) => cluster))];
  const [only] = clusters;
  if (wanted === undefined && clusters.length > 1) {
    throw new CliError('usage', `give --cluster: the agents asked are of ${clusters.join(', ')}`);
  }
  const agent = names.find(({ cluster }) => cluster === (wanted ?? only));
  if (agent !== undefined) return agent;
  throw new CliError(
    'usage',
    `--cluster ${wanted}: the agents asked are of ${clusters.join(', ')}`,
  );
}

/** Whether something that is allowed would be denied (`denied`), or the contrary (`allowed`). */
export function changesTo(answer: SimulateAnswer, verdict: 'allowed' | 'denied'): boolean {
  return [...answer.changes, ...answer.flowChanges].some(({ after }) => after.verdict === verdict);
}

/** What would change, as text. */
export function renderSimulation(answer: SimulateAnswer): string {
  const objects = answer.objects.map(({ name, becomes }) => `${name}: ${becomesText(becomes)}\n`);
  const changes = renderRows(
    ['DIRECTION', 'OF', 'PEER', 'PORT', 'NOW', 'THEN', 'BECAUSE'],
    answer.changes.map((change) => [
      change.direction,
      classText(change.subject),
      classText(change.peer),
      change.ports.length === 0 ? 'any' : change.ports.join('\n'),
      change.before.verdict,
      change.after.verdict,
      becauseText(change),
    ]),
  );
  const flows = renderRows(
    ['FLOW', 'PORT', 'DIRECTION', 'NOW', 'THEN', 'BECAUSE'],
    answer.flowChanges.map((change) => [
      `${partyText(change.flow.from)} -> ${partyText(change.flow.to)}`,
      portText(change.flow),
      change.direction,
      change.before.verdict,
      change.after.verdict,
      becauseText(change),
    ]),
  );
  const seen =
    answer.flowsJudged + answer.flowsOfOthers === 0
      ? ''
      : `${answer.flowsJudged} recorded flows were judged${answer.flowsOfOthers === 0 ? '' : `, ${answer.flowsOfOthers} are of other clusters alone`}\n`;
  const nothing = `no verdict of cluster ${answer.cluster} would change\n`;
  const isNothing = answer.changes.length + answer.flowChanges.length === 0;
  return [...objects, isNothing ? nothing : '', changes, flows, seen].join('');
}

function becomesText(becomes: SimulateAnswer['objects'][number]['becomes']): string {
  return becomes === 'kept'
    ? 'cannot be read, so that the version there is stays in force'
    : becomes;
}

function becauseText({ before, after }: Pick<ChangeInfo | FlowChange, 'before' | 'after'>): string {
  return after.verdict === 'denied'
    ? ruleText(after)
    : `${ruleText(after)}\nbefore: ${ruleText(before)}`;
}

function ruleText(says: VerdictInfo): string {
  switch (says.because) {
    case 'rule':
      return says.rules.map(ruleLine).join('\n');
    case 'no-rule':
      return `no rule allows it; closed by ${says.policies.join(', ')}`;
    case 'isolated':
      return `closed until it can be read: ${says.policies.join(', ')}`;
    case 'mode-always':
      return 'no policy allows it (--enable-policy always)';
    case 'not-enforced':
      return 'no policy closes this direction';
    case 'mode-never':
      return 'policies are switched off';
    case 'own-node':
      return 'the own node reaches every pod';
    case 'not-of-mesh':
    case 'always-open':
      return 'policies of nodes are not about it';
    default:
      return says.because satisfies never;
  }
}

function classText({ labels, cluster, kind, address, count }: ClassInfo): string {
  if (kind === 'world') {
    if (address !== undefined) return `world, such as ${address}`;
    // One is of IPv4 or IPv6 alone.
    return count > 1 ? 'world' : labels.join().replace('reserved:', '');
  }
  const where = cluster === undefined ? '' : ` (${cluster})`;
  const others = count > 1 ? `\nand ${count - 1} identities like it` : '';
  return `${shortLabels(labels)}${where}${others}`;
}
