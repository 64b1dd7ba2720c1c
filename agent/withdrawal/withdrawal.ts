import type { Mesh } from '../../mesh/remote/mesh.ts';
import type { PeerLife } from '../../mesh/remote/peer.ts';
import type { BackendUse } from '../../mesh/remote/peer-state.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { decideUse, drainUse, type WithdrawMode } from './decision.ts';
import type { Drains } from './drains.ts';
import type { KnownNodes } from './known-nodes.ts';
import { createPathRecord, type PathRecord } from './path-record.ts';
import type { Probe } from './probe.ts';

/** How often everybody's life is looked at, at least. */
const LOOK_MS = 1000;
/** Nodes of a silent cluster that are asked in one round: the cost does not grow with its size. */
const NODES_PER_ROUND = 3;
/** Limits of the time between two rounds; within them, several fit into the time before withdrawal. */
const ROUND_MS = { min: 200, max: 10_000 } as const;
const ROUNDS_BEFORE_WITHDRAWAL = 4;

const NONE: BackendUse = { level: 'none', reason: '' };

/** Watches over the backends of peers: who is silent, whose nodes are gone, whom an operator has drained. */
export interface Withdrawal {
  /** Runs until `signal` aborts; takes nothing back then. */
  run(signal: AbortSignal): Promise<void>;
  /** Looks again now: somebody was drained or undrained. */
  touch(): void;
  /** What is odd about it, for people. */
  notes(): readonly string[];
}

interface Watched {
  readonly clusterId: ClusterId;
  judged: BackendUse;
  told: BackendUse;
  path: PathRecord<IpAddress> | undefined;
}

/** What a withdrawal works on. */
export interface WithdrawalOptions {
  readonly mesh: Pick<Mesh, 'lives' | 'setUse'>;
  /** Carries a decision out; with `always` even the last backends of a service go. */
  readonly setWithdrawn: (
    clusterId: ClusterId,
    level: BackendUse['level'],
    options: { readonly always: boolean },
  ) => void;
  readonly nodes: Pick<KnownNodes, 'of'>;
  readonly probe: Probe;
  readonly drains: Pick<Drains, 'has' | 'list'>;
  readonly mode: WithdrawMode;
  /** Silence of a control plane after which backends may go, in milliseconds; 0: never. */
  readonly ttlMs: number;
  /** Silence after which a cluster is stale, in milliseconds: the time between the two is for probing. */
  readonly staleAfterMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes a watch that has not begun. */
export function createWithdrawal(options: WithdrawalOptions): Withdrawal {
  const { mesh, nodes, probe, mode, ttlMs, clock, logger } = options;
  const watched = new Map<ClusterName, Watched>();
  const bell = createBell();
  const lookMs = Math.min(LOOK_MS, options.staleAfterMs / 4);
  const roundMs = Math.min(
    ROUND_MS.max,
    Math.max(ROUND_MS.min, (ttlMs - options.staleAfterMs) / ROUNDS_BEFORE_WITHDRAWAL),
  );

  const tell = (name: ClusterName, entry: Watched, use: BackendUse): void => {
    const { level, reason } = entry.told;
    if (use.level === level && use.reason === reason) return;
    entry.told = use;
    if (use.level !== level) {
      options.setWithdrawn(entry.clusterId, use.level, { always: mode === 'always' });
      const log = use.level === 'none' ? logger.info : logger.warn;
      log.call(logger, { cluster: name, ...use }, 'use of the backends of a cluster changed');
    }
    mesh.setUse(name, use);
  };

  const judge = (life: PeerLife): void => {
    const { name, clusterId } = life;
    let entry = watched.get(name);
    if (entry !== undefined && entry.clusterId !== clusterId) {
      forget(name, entry);
      entry = undefined;
    }
    if (clusterId === undefined) return;
    entry ??= { clusterId, judged: NONE, told: NONE, path: undefined };
    watched.set(name, entry);
    if (life.isStale && ttlMs > 0 && mode !== 'never') entry.path ??= createPathRecord();
    else entry.path = undefined;
    const path = entry.path?.verdict() ?? { kind: 'unknown' };
    entry.judged = decideUse({ life, path, before: entry.judged, mode, ttlMs });
    tell(name, entry, options.drains.has(name) ? drainUse(entry.judged) : entry.judged);
  };

  const forget = (name: ClusterName, entry: Watched): void => {
    tell(name, entry, NONE);
    watched.delete(name);
  };

  const look = (): void => {
    const lives = mesh.lives();
    const present = new Set(lives.map(({ name }) => name));
    for (const life of lives) judge(life);
    for (const [name, entry] of watched) if (!present.has(name)) forget(name, entry);
  };

  /** Asks a few nodes of each silent cluster. */
  const askRound = async (signal: AbortSignal): Promise<void> => {
    const rounds = [...watched.values()].flatMap(({ clusterId, path }) =>
      path === undefined ? [] : [{ clusterId, path }],
    );
    await Promise.all(
      rounds.map(async ({ clusterId, path }) => {
        const all = nodes.of(clusterId);
        const asked = path.choose(all, NODES_PER_ROUND);
        const answers = await Promise.all(asked.map((address) => probe(address, signal)));
        if (signal.aborted) return;
        const answered = asked.filter((_, index) => answers[index] === 'answered');
        path.note({ asked, answered, known: all.length });
      }),
    );
  };

  const followLives = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => bell.ring(), { once: true });
    while (!signal.aborted) {
      bell.clear();
      look();
      await bell.wait(lookMs, clock);
    }
  };

  const askAround = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      // Each at its own time: the agents of a cluster do not all ask at once.
      const pause = roundMs * (0.75 + Math.random() / 4);
      await clock.sleep(pause, signal).catch(() => undefined);
      if (!signal.aborted) await askRound(signal);
    }
  };

  return {
    touch: () => bell.ring(),
    notes() {
      const peers = new Set(mesh.lives().map(({ name }) => name));
      return options.drains
        .list()
        .filter(({ cluster }) => !peers.has(cluster))
        .map(
          ({ cluster, since }) =>
            `cluster ${cluster} is drained since ${new Date(since).toISOString()} and is no peer of this agent: undrain it, or it will be drained when it comes back`,
        );
    },
    async run(signal) {
      await Promise.all([followLives(signal), askAround(signal)]);
    },
  };
}
