/** A mirror among others on the same etcd: it waits for its turn, mirrors while it leads, and says how it is. */

import { type LeaderLock, openLeaderLock } from './leader.ts';
import { type Mirror, type MirrorOptions, startMirror } from './mirror.ts';
import { describePeer, isMirrored, type MirroredPeer } from './peer-view.ts';
import { createReadiness } from './readiness.ts';

/** What a mirror among others is told. */
export interface KvstoremeshOptions extends MirrorOptions {
  /** How long readiness waits for a peer that does not connect, in milliseconds. */
  readonly perClusterReadyTimeoutMs: number;
  /** How long readiness waits at all, in milliseconds. */
  readonly globalReadyTimeoutMs: number;
  /** Seconds after which another mirror leads when this one dies. Default: 25, as Cilium's. */
  readonly lockTtlSeconds?: number;
}

/** Whether this mirror leads. */
export type LeaderState = 'campaigning' | 'standby' | 'leading';

/** A mirror, to be run. */
export interface Kvstoremesh {
  /** Runs until `signal` aborts. Keys stay when it ends; the lock is given back. */
  run(signal: AbortSignal): Promise<void>;
  /** What readiness waits for; empty when it is ready. */
  readonly missing: readonly string[];
  readonly leader: LeaderState;
  /** Peers as they are read and written; empty on standby. */
  readonly peers: readonly MirroredPeer[];
  /** State for people, as JSON. */
  describe(): unknown;
  /** The peers as in Cilium's `GET /cluster`. */
  describePeers(): readonly unknown[];
}

/** Makes a mirror; it does nothing until `run`. */
export function createKvstoremesh(options: KvstoremeshOptions): Kvstoremesh {
  const { store, own, clock, logger } = options;
  const readiness = createReadiness({
    perClusterTimeoutMs: options.perClusterReadyTimeoutMs,
    globalTimeoutMs: options.globalReadyTimeoutMs,
    clock,
  });
  let leader: LeaderState = 'campaigning';
  let mirror: Mirror | undefined;

  const dropMirror = async (): Promise<void> => {
    const dropped = mirror;
    mirror = undefined;
    await dropped?.[Symbol.asyncDispose]();
  };
  const setLeader = (next: LeaderState): void => {
    if (next === leader) return;
    leader = next;
    logger.info({ state: next }, 'part in the election of the mirror changed');
  };
  const lead = async (lock: LeaderLock, signal: AbortSignal): Promise<void> => {
    let dropping: Promise<void> | undefined;
    const term = await lock.campaign({
      signal,
      onStandby: () => {
        setLeader('standby');
        // Another one writes now: what we know of etcd is outdated.
        dropping = (dropping ?? Promise.resolve()).then(dropMirror);
      },
    });
    await dropping;
    setLeader('leading');
    try {
      mirror ??= await startMirror(options, AbortSignal.any([signal, term.over]));
      await mirror.write(term, signal);
    } catch (error) {
      if (!signal.aborted && !term.over.aborted) throw error;
    }
    if (!signal.aborted) {
      setLeader('campaigning');
      logger.warn('lock of the mirror was lost, it is asked for again');
    }
  };

  const peers = (): readonly MirroredPeer[] => mirror?.peers ?? [];
  return {
    async run(signal) {
      try {
        await using lock = await openLeaderLock(store, {
          clock,
          logger,
          signal,
          ...(options.lockTtlSeconds === undefined ? {} : { ttlSeconds: options.lockTtlSeconds }),
        });
        try {
          while (!signal.aborted) await lead(lock, signal);
        } finally {
          await dropMirror();
        }
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    },
    get missing() {
      // Whoever stands by has nothing to wait for.
      if (leader === 'standby') return [];
      if (leader === 'campaigning' && mirror === undefined) {
        return ['the mirror has not asked for its turn yet'];
      }
      return readiness.waitingFor(
        mirror?.peers?.map((peer) => ({
          name: peer.source.name,
          isConnected: peer.source.config !== undefined,
          isMirrored: isMirrored(peer),
        })),
      );
    },
    get leader() {
      return leader;
    },
    get peers() {
      return peers();
    },
    describe: () => ({
      cluster: own,
      leader,
      peers: peers().map(describePeer),
      leaving: mirror?.leaving ?? [],
      notes: mirror?.notes ?? [],
    }),
    describePeers: () => peers().map(describePeer),
  };
}

/** Runs a mirror beside others in a process. Disposing ends it; `ended` rejects on a fault of its own. */
export function startKvstoremesh(
  mirror: Kvstoremesh,
  outer: AbortSignal,
): AsyncDisposable & { readonly ended: Promise<void> } {
  const stopping = new AbortController();
  const ended = mirror.run(AbortSignal.any([outer, stopping.signal]));
  // It is awaited by whoever started it, and when it is disposed of.
  ended.catch(() => undefined);
  return {
    ended,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await ended.catch(() => undefined);
    },
  };
}
