/**
 * Brings etcd to what is wanted, key by key: writes only what differs, coalesces changes of one key, retries what failed,
 * and puts everything again when the lease was lost. The counterpart of Cilium's `pkg/kvstore/store/syncstore.go`, and
 * stricter in one thing: keys that an earlier process left are adopted, and swept once everything wanted is known.
 */
import type { KvLease, KvOp, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';

export interface SyncStoreOptions {
  readonly store: KvStore;
  readonly lease: KvLease;
  readonly logger: Logger;
  readonly clock?: Clock;
}

/** What the store is about. */
export interface SyncStoreStatus {
  /** Keys that etcd shall hold. */
  readonly keys: number;
  /** Keys whose write is still to be done. */
  readonly pending: number;
  readonly lastError: string | undefined;
}

export interface SyncStore {
  /** Wants a key to hold a value. Equal bytes are no work. */
  upsert(key: string, value: string): void;
  /** Wants a key gone. */
  delete(key: string): void;
  /** Resolves when everything wanted at the time of the call is in etcd. */
  flushed(signal: AbortSignal): Promise<void>;
  /** Lists `prefixes` and takes what stands there as written by us, so that what is still wanted is not written again. */
  adopt(prefixes: readonly string[], signal: AbortSignal): Promise<void>;
  /** Deletes adopted keys that nobody has wanted since. To be called when every source has told everything. */
  sweep(): number;
  /** Writes until `signal` aborts. Keys stay when it ends. */
  run(signal: AbortSignal): Promise<void>;
  readonly status: SyncStoreStatus;
}

/** Writes in one transaction; etcd's own limit is 128 operations. */
const OPERATIONS_PER_BATCH = 100;
/** Bytes in one transaction, well below the server's request limit. */
const BYTES_PER_BATCH = 1_000_000;

/** Makes a sync store; it does nothing until `run`. */
export function createSyncStore(options: SyncStoreOptions): SyncStore {
  const { store, lease, logger, clock = systemClock } = options;
  /** What etcd shall hold. */
  const wanted = new Map<string, string>();
  /** What etcd holds, as far as we wrote or saw it. */
  const written = new Map<string, string>();
  const pending = new Set<string>();
  const waiters = new Set<() => void>();
  const backoff = createBackoff({ minMs: 50, maxMs: 10_000 });
  let wake: () => void = () => undefined;
  let lastError: string | undefined;

  const touch = (key: string): void => {
    if (wanted.get(key) === written.get(key)) pending.delete(key);
    else pending.add(key);
    if (pending.size > 0) wake();
    else notify();
  };
  const notify = (): void => {
    for (const waiter of [...waiters]) waiter();
  };

  lease.onLost(() => {
    logger.warn({ keys: wanted.size }, 'lease was lost and made again: every key is written again');
    written.clear();
    for (const key of wanted.keys()) pending.add(key);
    wake();
  });

  const nextBatch = (): { keys: string[]; ops: KvOp[] } => {
    const keys: string[] = [];
    const ops: KvOp[] = [];
    let bytes = 0;
    for (const key of pending) {
      const value = wanted.get(key);
      bytes += key.length + (value?.length ?? 0);
      if (keys.length > 0 && (keys.length >= OPERATIONS_PER_BATCH || bytes > BYTES_PER_BATCH))
        break;
      keys.push(key);
      ops.push(value === undefined ? { kind: 'delete', key } : { kind: 'put', key, value, lease });
    }
    return { keys, ops };
  };

  const writeBatch = async (signal: AbortSignal): Promise<void> => {
    const { keys, ops } = nextBatch();
    const values = keys.map((key) => wanted.get(key));
    await store.transact({ compare: [], then: ops }, { signal });
    for (const [index, key] of keys.entries()) {
      const value = values[index];
      if (value === undefined) written.delete(key);
      else written.set(key, value);
      // A newer value may have come meanwhile: then the key stays pending.
      if (wanted.get(key) === value) pending.delete(key);
    }
  };

  return {
    upsert(key, value) {
      wanted.set(key, value);
      touch(key);
    },
    delete(key) {
      wanted.delete(key);
      touch(key);
    },
    async flushed(signal) {
      // The keys pending now, each with what is wanted of it now: later changes are not waited for.
      const open = new Set(pending);
      while (open.size > 0) {
        signal.throwIfAborted();
        await waitForChange(waiters, signal);
        for (const key of open) if (!pending.has(key)) open.delete(key);
      }
    },
    async adopt(prefixes, signal) {
      for (const prefix of prefixes) {
        const { pairs } = await store.list(prefix, { signal });
        for (const { key, value, lease: holder } of pairs) {
          // A key on another lease would vanish with it: it counts as not written, so that it is put on ours.
          written.set(key, holder === lease.id ? value.toString('utf8') : FOREIGN_LEASE);
        }
      }
    },
    sweep() {
      let swept = 0;
      for (const key of written.keys()) {
        if (wanted.has(key)) continue;
        pending.add(key);
        swept += 1;
      }
      if (swept > 0) wake();
      return swept;
    },
    async run(signal) {
      signal.addEventListener('abort', () => wake(), { once: true });
      while (!signal.aborted) {
        if (pending.size === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
          continue;
        }
        try {
          await writeBatch(signal);
          if (backoff.attempts > 0)
            logger.info({ pending: pending.size }, 'writes to etcd work again');
          backoff.reset();
          lastError = undefined;
          notify();
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          lastError = error.message;
          const delayMs = backoff.next();
          logger.warn(
            { err: error, pending: pending.size, delayMs },
            'cannot write to etcd, will be retried',
          );
          if (error.code === 'too-large') dropLargest();
          await clock.sleep(delayMs, signal).catch(() => undefined);
        }
      }
    },
    get status() {
      return { keys: wanted.size, pending: pending.size, lastError };
    },
  };

  /** One value that etcd will never take must not hold back the others. */
  function dropLargest(): void {
    const { keys } = nextBatch();
    const [largest] = keys.sort(
      (a, b) => (wanted.get(b)?.length ?? 0) - (wanted.get(a)?.length ?? 0),
    );
    if (largest === undefined) return;
    logger.error(
      { key: largest, bytes: wanted.get(largest)?.length },
      'value is too large for etcd: it is not published',
    );
    pending.delete(largest);
  }
}

/** Stands for a value on a lease that is not ours; no value of ours equals it. */
const FOREIGN_LEASE = '\u0000foreign lease';

async function waitForChange(waiters: Set<() => void>, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const onAbort = (): void => {
      waiters.delete(onChange);
      reject(signal.reason);
    };
    const onChange = (): void => {
      waiters.delete(onChange);
      signal.removeEventListener('abort', onAbort);
      resolve();
    };
    waiters.add(onChange);
    signal.addEventListener('abort', onAbort, { once: true });
  });
}
