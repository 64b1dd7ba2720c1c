/** The way from here to a peer's control plane, followed step by step, and a verdict: what `clustermesh troubleshoot` does. */
import {
  ClientConfigError,
  type EtcdClientConfig,
  readEtcdClientConfig,
} from '../kvstore/client-config.ts';
import type { Clock } from '../runtime/clock.ts';
import type { PeerSight } from '../wire/agent-report.ts';
import { lookAtClock } from './clock-look.ts';
import { type Diagnosis, verdictOf } from './diagnosis.ts';
import { followEndpoints } from './endpoint-path.ts';
import { sightProblems } from './mesh-problems.ts';
import { type Problem, problemOf } from './problem.ts';
import { createStepList, type StepList, type StepResult } from './step-list.ts';
import { followStore, type OwnCluster } from './store-path.ts';

/** The whole of it ends in time for the 15 s that people are promised. */
const BUDGET_MS = 12_000;

/** What a diagnosis is given. */
export interface PeerPathOptions {
  readonly peer: string;
  /** The etcd client file by which the peer is reached. */
  readonly file: string;
  /** Who looks: `apiserver of alpha`. */
  readonly from: string;
  readonly own: OwnCluster | undefined;
  /** What the reader at this place says of the peer; undefined: none runs here. */
  readonly sight: PeerSight | undefined;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}

/** Follows it. Changes nothing. Rejects only when `signal` aborts. */
export async function diagnosePeer(options: PeerPathOptions): Promise<Diagnosis> {
  const { peer, file, from, own, sight, clock } = options;
  const budget = AbortSignal.any([options.signal, AbortSignal.timeout(BUDGET_MS)]);
  const list = createStepList(clock);
  let config: EtcdClientConfig | undefined;
  await list.next('config', async () => {
    try {
      config = await readEtcdClientConfig(file);
      return { seen: [`${file}: ${config.endpoints.join(', ')}`] };
    } catch (error) {
      if (!(error instanceof ClientConfigError)) throw error;
      return { seen: [], problem: fileProblem(peer, error) };
    }
  });
  const { endpoints = [], hostAliases = [], tls } = config ?? {};
  const way = { peer, endpoints, hostAliases, tls, clock, signal: budget };
  const { places, names } = await followEndpoints(list, way);
  await list.always('clock', () =>
    lookAtClock(peer, { places, tls, sight, clock, signal: budget }),
  );
  await followStore(list, { ...way, own, knownId: sight?.clusterId, serverNames: names });
  await addSight(list, { peer, sight, clock });
  options.signal.throwIfAborted();
  return { from, peer, steps: [...list.steps], verdict: verdictOf(peer, list.steps) };
}

/** The diagnosis of a peer that nobody has told us of. */
export function unknownPeer(
  from: string,
  { peer, known }: { readonly peer: string; readonly known: readonly string[] },
): Diagnosis {
  const seen = `peers here: ${known.length === 0 ? 'none' : known.join(', ')}`;
  const cause = `no such peer is configured here; ${seen}`;
  const problem = problemOf('peer-unknown', { subject: `peer ${peer}`, cause });
  const steps = [{ step: 'config', outcome: 'failed' as const, seen: [seen], problem, tookMs: 0 }];
  return { from, peer, steps, verdict: verdictOf(peer, steps) };
}

/** What the reader here says: it has seen the peer for longer than we have. */
async function addSight(
  list: StepList,
  { peer, sight, clock }: Pick<PeerPathOptions, 'peer' | 'sight' | 'clock'>,
): Promise<void> {
  await list.always('reader', () =>
    sight === undefined
      ? { seen: ['nobody reads it here'], isSkipped: true }
      : sightStep(peer, sight, clock.now()),
  );
}

/** A reader's sight of a peer, as a step tells it. */
export function sightStep(peer: string, sight: PeerSight, now: number): StepResult {
  const { state, reason, counts } = sight;
  const lag =
    sight.lagMs === undefined ? 'lag not known' : `lag ${sight.lagMs.p50}/${sight.lagMs.p99} ms`;
  const held = Object.entries(counts).map(([kind, count]) => `${count} ${kind}`);
  const seen = [
    `${state} since ${new Date(sight.since).toISOString()}${reason === '' ? '' : `: ${reason}`}`,
    `in use: ${held.length === 0 ? 'nothing' : held.join(', ')}; ${lag}`,
    ...sight.notes.map(({ message }) => message),
  ];
  const problems = sightProblems(peer, sight, now);
  return { seen, problem: problems.find(({ severity }) => severity === 'error') ?? problems[0] };
}

function fileProblem(peer: string, error: ClientConfigError): Problem {
  const isFile = error.code === 'unreadable' || error.code === 'bad-certificate';
  return problemOf(isFile ? 'own-certificate-missing' : 'peer-file-bad', {
    subject: `peer ${peer}`,
    cause: error.message,
    values: { peer, file: error.path },
  });
}
