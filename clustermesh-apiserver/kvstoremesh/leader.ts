/**
 * Which of several mirrors on one etcd writes. It is Cilium's own lock (`clustermesh-apiserver/kvstoremesh/root.go` over etcd's
 * `concurrency.Mutex`): a key below `cilium/kvstoremesh-lock/` named after its owner's lease, the oldest of them leads. So a
 * mirror of Cilium and one of ours on the same etcd wait for each other. On top of it every write of ours names the lock as a
 * condition: one that comes late, after the lock went to another, changes nothing.
 */
import { type KvCompare, KvError, type KvLease, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { untilAnswered } from '../publish/until-answered.ts';

/** Locks of all mirrors. */
export const LEADER_LOCK_PREFIX = 'cilium/kvstoremesh-lock/';
/** Cilium's lease of locks (`pkg/kvstore`), in seconds. */
const LOCK_TTL_SECONDS = 25;
const RETRY_MS = 500;

/** The time for which this mirror leads. */
export interface LeaderTerm {
  /** To be a condition of every write. */
  readonly fence: KvCompare;
  /** Aborts when it is over. */
  readonly over: AbortSignal;
  /** To be called when the condition did not hold. */
  end(): void;
}

/** One mirror's part in the election. Disposing gives the lock back, so that another leads at once. */
export interface LeaderLock extends AsyncDisposable {
  /**
   * Waits until this mirror leads. `onStandby` is called when another one does. Rejects only when `signal` aborts.
   */
  campaign(options: { signal: AbortSignal; onStandby: () => void }): Promise<LeaderTerm>;
}

/** Takes part in the election. Waits for an etcd that does not answer. */
export async function openLeaderLock(
  store: KvStore,
  options: {
    readonly clock: Clock;
    readonly logger: Logger;
    readonly signal: AbortSignal;
    readonly ttlSeconds?: number;
    /** Where the locks are. Default those of mirrors. */
    readonly prefix?: string;
  },
): Promise<LeaderLock> {
  const { clock, logger, ttlSeconds = LOCK_TTL_SECONDS, prefix = LEADER_LOCK_PREFIX } = options;
  const lockKey = (): string => prefix + lease.id.toString(16);
  const lease = await untilAnswered(
    () => store.lease(ttlSeconds, { signal: options.signal }),
    options,
  );
  let term: AbortController | undefined;
  lease.onLost(() => term?.abort());

  const lead = (key: string, modRevision: bigint): LeaderTerm => {
    const over = new AbortController();
    term = over;
    return { fence: { key, modRevision }, over: over.signal, end: () => over.abort() };
  };

  return {
    async campaign({ signal, onStandby }) {
      for (;;) {
        signal.throwIfAborted();
        const key = await stand(store, lease, { lockKey, clock, logger, signal });
        const revision = await untilOldest(store, key, { prefix, signal, onStandby });
        // A lease that was lost while the last answer was on its way has another id now.
        if (revision !== undefined && key === lockKey()) return lead(key, revision);
        signal.throwIfAborted();
      }
    },
    async [Symbol.asyncDispose]() {
      term?.abort();
      try {
        await lease.revoke();
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
        logger.debug({ err: error }, 'lock cannot be given back, it ends with its lease');
        await lease[Symbol.asyncDispose]();
      }
    },
  };
}

/**
 * Ends the term when its lock is gone, before the next write would notice. The open watch also lets the connection be probed:
 * etcd closes one that is probed while nothing is open on it.
 */
export async function watchTerm(
  store: KvStore,
  term: LeaderTerm,
  outer: AbortSignal,
): Promise<void> {
  const signal = AbortSignal.any([outer, term.over]);
  const { fence } = term;
  for await (const event of store.watch({ key: fence.key }, { signal })) {
    const isGone = event.kind === 'delete' || (event.kind === 'synced' && event.count === 0);
    const isOther =
      event.kind === 'put' &&
      'modRevision' in fence &&
      event.pair.modRevision !== fence.modRevision;
    if (isGone || isOther) term.end();
  }
}

/** Puts our lock there, unless it stands. Resolves to its key. */
async function stand(
  store: KvStore,
  lease: KvLease,
  options: { lockKey: () => string; clock: Clock; logger: Logger; signal: AbortSignal },
): Promise<string> {
  return untilAnswered(async () => {
    while (lease.id === 0n) await options.clock.sleep(RETRY_MS, options.signal);
    const key = options.lockKey();
    await store.transact(
      {
        compare: [{ key, exists: false }],
        then: [{ kind: 'put', key, value: '', lease }],
      },
      { signal: options.signal },
    );
    return key;
  }, options);
}

/** Waits until our lock is the oldest, and resolves to its revision; to undefined when it is gone. Locks are never rewritten. */
async function untilOldest(
  store: KvStore,
  key: string,
  options: { prefix: string; signal: AbortSignal; onStandby: () => void },
): Promise<bigint | undefined> {
  const locks = new Map<string, bigint>();
  let listed = false;
  for await (const event of store.watch({ prefix: options.prefix }, options)) {
    switch (event.kind) {
      case 'list-start':
        listed = false;
        break;
      case 'put':
        locks.set(event.pair.key, event.pair.modRevision);
        break;
      case 'delete':
        locks.delete(event.key);
        break;
      case 'synced':
        listed = true;
        break;
      case 'progress':
      case 'disconnected':
        continue;
      default:
        event satisfies never;
    }
    if (!listed) continue;
    const own = locks.get(key);
    if (own === undefined) return undefined;
    if ([...locks.values()].every((revision) => revision >= own)) return own;
    options.onStandby();
  }
  return undefined;
}
