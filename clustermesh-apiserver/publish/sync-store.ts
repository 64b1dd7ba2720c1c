/**
 * Brings etcd to what is wanted, key by key: writes only what differs, coalesces changes of one key, retries what failed,
 * and puts everything again when the lease was lost. The counterpart of Cilium's `pkg/kvstore/store/syncstore.go`, and
 * stricter in one thing: keys that an earlier process left are adopted, and swept once everything wanted is known.
 */
import {
  type KvCompare,
  KvError,
  type KvLease,
  type KvOp,
  type KvStore,
} from '../../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { DurationCounts } from '../../mesh/runtime/duration-counts.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { Digests } from './digests.ts';
import type { Stamper } from './stamp.ts';

/** Options of `createSyncStore`; every put hangs on `lease`. */
export interface SyncStoreOptions {
  readonly store: KvStore;
  readonly lease: KvLease;
  /** Condition of every write: that this process still leads. Default: none. */
  readonly fence?: KvCompare;
  /** Called when the condition did not hold: nothing was written, and nothing more will be. */
  readonly onFenced?: () => void;
  /** Stamps the transactions. Default: none. */
  readonly stamper?: Stamper;
  /** Makes the digests that go with changes. Default: none. */
  readonly digests?: Digests;
  /** Counts how long each key waits from its first change until etcd has it. Default: nobody does. */
  readonly queueTimes?: DurationCounts;
  readonly logger: Logger;
  readonly clock?: Clock;
}

/** What the store is about. */
export interface SyncStoreStatus {
  /** Keys that etcd shall hold. */
  readonly keys: number;
  /** Keys whose write is still to be done. */
  readonly pending: number;
  /** Keys whose value etcd will not take, with its words. */
  readonly refused: Readonly<Record<string, string>>;
  /** Why the latest write failed; undefined when it did not. */
  readonly lastError: string | undefined;
  /** Writes that failed since the process began. */
  readonly errors: number;
}

/** Keys as they are wanted, on their way to etcd. */
export interface SyncStore {
  /** Wants a key to hold a value. Equal bytes are no work. A `last` key is written after all that are pending before its turn. */
  upsert(key: string, value: string, options?: { readonly last?: boolean }): void;
  /** Wants a key gone. Only keys that we wrote or adopted are deleted. */
  delete(key: string): void;
  /** Writes a wanted key once more, whatever is believed to stand there. */
  rewrite(key: string): void;
  /** Resolves when everything wanted at the time of the call, or something newer, is in etcd. */
  flushed(signal: AbortSignal): Promise<void>;
  /**
   * Lists `prefixes` and takes what stands there as written by us, so that what is still wanted is not written again. With
   * `shared`, others write there as well: what nobody wants is no leftover of ours.
   */
  adopt(
    prefixes: readonly string[],
    signal: AbortSignal,
    options?: { readonly shared?: boolean },
  ): Promise<void>;
  /** What stands under a key on our own lease, as far as we wrote or adopted it. */
  current(key: string): string | undefined;
  /**
   * Deletes adopted keys under `prefixes` that nobody has wanted since; returns how many. For when everything under them has
   * been told.
   */
  sweep(prefixes: readonly string[]): number;
  /** Writes until `signal` aborts or the fence does not hold. Keys stay when it ends. */
  run(signal: AbortSignal): Promise<void>;
  readonly status: SyncStoreStatus;
}

/** Writes in one transaction; etcd's own limit is 128 operations. */
const OPERATIONS_PER_BATCH = 100;
/**
 * Least time between the beginnings of two writes, in milliseconds, while there is less than a whole one to write: a change
 * that comes alone is written at once, and those of a stream together, since a transaction costs us and etcd more than its keys.
 */
const PACE_MS = 10;
/** Bytes in one transaction, well below the server's request limit. */
const BYTES_PER_BATCH = 1_000_000;

/** Some value that is not known: of a write without an answer, or on a lease that is not ours and may end with it. */
const UNKNOWN = null;

interface Waiter {
  /** Keys waited for, each with the change that must be written. */
  readonly open: Map<string, number>;
  readonly done: () => void;
}

interface Batch {
  readonly entries: readonly {
    readonly key: string;
    readonly change: number;
    readonly value: string | undefined;
  }[];
}

/** Makes a sync store; it does nothing until `run`. */
export function createSyncStore(options: SyncStoreOptions): SyncStore {
  const { store, lease, logger, clock = systemClock } = options;
  /** What etcd shall hold. */
  const wanted = new Map<string, string>();
  /** What etcd holds, as far as we wrote or saw it. */
  const written = new Map<string, string | typeof UNKNOWN>();
  /** Keys to be written, each with the number of its latest change. */
  const pending = new Map<string, number>();
  /** Since when they wait, by the monotonic clock. */
  const waitingSince = new Map<string, number>();
  const last = new Set<string>();
  /** Keys that last ones wait for; undefined while none waits. */
  let holding: Set<string> | undefined;
  /** Adopted keys of which we are not the only writer. */
  const shared = new Set<string>();
  const refused = new Map<string, string>();
  const waiters = new Set<Waiter>();
  const backoff = createBackoff({ minMs: 50, maxMs: 10_000 });
  let wake: () => void = () => undefined;
  let lastError: string | undefined;
  let errors = 0;
  let changes = 0;
  /** Counts lost leases: what was written before one is gone. */
  let generation = 0;
  /** How many writes are done one by one, to find the one that etcd refuses. */
  let singly = 0;
  let isFenced = false;

  const isRight = (key: string): boolean => wanted.get(key) === written.get(key);
  const settle = (key: string, change: number): void => {
    holding?.delete(key);
    for (const waiter of [...waiters]) {
      const awaited = waiter.open.get(key);
      if (awaited === undefined || awaited > change) continue;
      waiter.open.delete(key);
      if (waiter.open.size === 0) waiter.done();
    }
  };
  const leaveQueue = (key: string): void => {
    if (!pending.delete(key)) return;
    const since = waitingSince.get(key);
    waitingSince.delete(key);
    if (since !== undefined) options.queueTimes?.observe(clock.monotonic() - since);
  };
  const touch = (key: string): void => {
    changes += 1;
    if (isRight(key)) {
      leaveQueue(key);
      settle(key, changes);
      return;
    }
    if (!pending.has(key)) waitingSince.set(key, clock.monotonic());
    pending.set(key, changes);
    wake();
  };

  lease.onLost(() => {
    logger.warn({ keys: wanted.size }, 'lease was lost and made again: every key is written again');
    generation += 1;
    written.clear();
    holding = undefined;
    for (const key of wanted.keys()) touch(key);
  });

  /** Last keys wait for those that are pending when their turn could come; what comes later shall not hold them for ever. */
  const nextBatch = (): Batch => {
    if (![...last].some((key) => pending.has(key))) holding = undefined;
    else holding ??= new Set([...pending.keys()].filter((key) => !last.has(key)));
    if (holding?.size !== 0) {
      const ordinary = collect((key) => !last.has(key));
      if (ordinary.entries.length > 0) return ordinary;
    }
    holding = undefined;
    return collect((key) => last.has(key));
  };
  const collect = (belongs: (key: string) => boolean): Batch => {
    const limit = singly > 0 ? 1 : OPERATIONS_PER_BATCH;
    const entries: Batch['entries'][number][] = [];
    let bytes = 0;
    for (const [key, change] of pending) {
      if (!belongs(key)) continue;
      const value = wanted.get(key);
      bytes += key.length + (value === undefined ? 0 : Buffer.byteLength(value));
      if (entries.length > 0 && (entries.length >= limit || bytes > BYTES_PER_BATCH)) break;
      entries.push({ key, change, value });
    }
    return { entries };
  };

  const write = async ({ entries }: Batch, signal: AbortSignal): Promise<void> => {
    const then = entries.map(
      ({ key, value }): KvOp =>
        value === undefined ? { kind: 'delete', key } : { kind: 'put', key, value, lease },
    );
    const stamp = options.stamper?.next();
    if (stamp !== undefined) then.push(stamp);
    then.push(...(options.digests?.next(entries) ?? []));
    const before = generation;
    // Until the answer nobody knows: a write that timed out may have been done.
    for (const { key } of entries) written.set(key, UNKNOWN);
    const compare = options.fence === undefined ? [] : [options.fence];
    const { succeeded } = await store.transact({ compare, then }, { signal });
    if (!succeeded) {
      isFenced = true;
      options.onFenced?.();
      return;
    }
    if (generation !== before) return;
    for (const { key, change, value } of entries) {
      const latest = pending.get(key);
      // A change meanwhile is written too, even back to this value: somebody else may have written after us.
      if (latest === undefined || latest === change) {
        if (value === undefined) written.delete(key);
        else written.set(key, value);
        if (isRight(key)) leaveQueue(key);
      }
      settle(key, change);
    }
  };
  const refuse = ({ entries }: Batch, error: KvError): void => {
    for (const { key, change, value } of entries) {
      logger.error(
        { key, bytes: value?.length, err: error },
        'etcd refuses a value: it is left out',
      );
      refused.set(key, error.message);
      if (pending.get(key) === change) leaveQueue(key);
      settle(key, change);
    }
  };
  const step = async (signal: AbortSignal): Promise<void> => {
    const batch = nextBatch();
    try {
      await write(batch, signal);
      singly = Math.max(0, singly - 1);
      if (backoff.attempts > 0) logger.info({ pending: pending.size }, 'writes to etcd work again');
      backoff.reset();
      lastError = undefined;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof KvError)) throw error;
      options.digests?.lost(batch.entries);
      lastError = error.message;
      errors += 1;
      if (error.code === 'too-large') {
        // One value that etcd will never take must not hold back the others.
        if (batch.entries.length === 1) refuse(batch, error);
        else singly = batch.entries.length;
        return;
      }
      const delayMs = Math.round(backoff.next());
      logger.warn(
        { err: error, pending: pending.size, delayMs },
        'cannot write to etcd, will be retried',
      );
      await clock.sleep(delayMs, signal).catch(() => undefined);
    }
  };

  return {
    upsert(key, value, { last: isLast = false } = {}) {
      if (isLast) last.add(key);
      if (wanted.get(key) !== value) refused.delete(key);
      wanted.set(key, value);
      if (!refused.has(key)) touch(key);
    },
    delete(key) {
      wanted.delete(key);
      refused.delete(key);
      touch(key);
    },
    rewrite(key) {
      if (!wanted.has(key)) return;
      written.set(key, UNKNOWN);
      touch(key);
    },
    async flushed(signal) {
      const open = new Map(pending);
      if (open.size === 0) return;
      await new Promise<void>((resolve, reject) => {
        const end = (): void => {
          waiters.delete(waiter);
          signal.removeEventListener('abort', onAbort);
        };
        const onAbort = (): void => {
          end();
          reject(signal.reason);
        };
        const waiter: Waiter = {
          open,
          done: () => {
            end();
            resolve();
          },
        };
        if (signal.aborted) return reject(signal.reason);
        waiters.add(waiter);
        signal.addEventListener('abort', onAbort, { once: true });
      });
    },
    async adopt(prefixes, signal, { shared: isShared = false } = {}) {
      for (const prefix of prefixes) {
        const { pairs } = await store.list(prefix, { signal });
        for (const { key, value, lease: holder } of pairs) {
          // On another lease it would vanish with that one: so it is put again, on ours.
          written.set(key, holder === lease.id ? value.toString('utf8') : UNKNOWN);
          if (isShared) shared.add(key);
          options.digests?.found(key, value);
          if (wanted.has(key)) touch(key);
        }
        options.digests?.adopted(prefix);
      }
    },
    current: (key) => written.get(key) ?? undefined,
    sweep(prefixes) {
      let swept = 0;
      for (const key of [...written.keys()]) {
        if (wanted.has(key) || shared.has(key)) continue;
        if (!prefixes.some((prefix) => key.startsWith(prefix))) continue;
        touch(key);
        swept += 1;
      }
      return swept;
    },
    async run(signal) {
      const onAbort = (): void => wake();
      signal.addEventListener('abort', onAbort, { once: true });
      let begunAt = Number.NEGATIVE_INFINITY;
      while (!signal.aborted && !isFenced) {
        if (pending.size > 0) {
          const early = begunAt + PACE_MS - clock.monotonic();
          if (early > 0 && pending.size < OPERATIONS_PER_BATCH && singly === 0) {
            await clock.sleep(early, signal).catch(() => undefined);
            continue;
          }
          begunAt = clock.monotonic();
          await step(signal);
          continue;
        }
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      signal.removeEventListener('abort', onAbort);
    },
    get status() {
      return {
        keys: wanted.size,
        pending: pending.size,
        refused: Object.fromEntries(refused),
        lastError,
        errors,
      };
    },
  };
}
