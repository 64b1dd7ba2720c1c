import type { KvError, KvLease, KvPair, KvStore } from './kvstore.ts';
import { createMemoryData, type MemoryData } from './memory-data.ts';
import { watchMemory } from './memory-watch.ts';
import {
  checkKey,
  checkOperations,
  checkPrefix,
  checkValueBytes,
  DEFAULT_MAX_VALUE_BYTES,
} from './request-check.ts';

/** What a test does to the store behind every client of it. */
export interface MemoryFaults {
  /** Cuts every client off: calls fail with `unavailable`, watches say `disconnected` and wait. */
  disconnect(error?: KvError): void;
  /** Lets the clients back in. */
  reconnect(): void;
  /** Forgets the history up to and including now, as etcd's compaction does. */
  compact(): void;
  /** Throws all data away and begins again as another cluster, at revision 1. */
  wipe(): void;
  /** Lets a lease expire: its keys go, and it is made again. */
  expireLease(lease: KvLease): void;
  /** Makes every watch say `progress` at the current revision. */
  progress(): void;
  /** Makes the next `times` calls (1 by default, watches not counted) fail with this error. */
  failNext(error: KvError, times?: number): void;
}

/** A store in memory for tests. It passes the same conformance tests as etcd. */
export interface MemoryStore extends KvStore {
  readonly faults: MemoryFaults;
  /**
   * Another client of the same data, with a disposal of its own. With `alwaysConnected`, `disconnect` does not touch
   * it: it writes while the others are cut off.
   */
  connect(options?: { alwaysConnected?: boolean }): MemoryStore;
}

/** Makes an empty store in memory with one client. `maxValueBytes` is the most that one request may carry. */
export function createMemoryStore(options: { maxValueBytes?: number } = {}): MemoryStore {
  const { maxValueBytes = DEFAULT_MAX_VALUE_BYTES } = options;
  return connectMemory(createMemoryData(), { maxValueBytes, alwaysConnected: false });
}

function connectMemory(
  data: MemoryData,
  options: { maxValueBytes: number; alwaysConnected: boolean },
): MemoryStore {
  const { maxValueBytes, alwaysConnected } = options;
  const closing = new AbortController();
  const failure = (): KvError | undefined => (alwaysConnected ? undefined : data.failure);

  const call = async <T>(signal: AbortSignal | undefined, run: () => T): Promise<T> => {
    await Promise.resolve();
    signal?.throwIfAborted();
    if (closing.signal.aborted) throw data.closedError();
    const failed = data.takeInjected() ?? failure();
    if (failed !== undefined) throw failed;
    return run();
  };

  return {
    faults: data,
    connect: ({ alwaysConnected: always = false } = {}) =>
      connectMemory(data, { maxValueBytes, alwaysConnected: always }),
    get clusterId() {
      return data.clusterId;
    },
    get: async (key, { signal } = {}) => {
      checkKey(key);
      return call<KvPair | undefined>(signal, () => data.read(key));
    },
    list: async (prefix, { signal } = {}) => {
      checkPrefix(prefix);
      return call(signal, () => ({ pairs: data.range({ prefix }), revision: data.revision }));
    },
    count: async (prefix, { revision, signal } = {}) => {
      checkPrefix(prefix);
      return call(signal, () => {
        const keys = data.keysAt(prefix, revision);
        return { count: keys.length, revision: revision ?? data.revision };
      });
    },
    keys: async (prefix, { revision, signal } = {}) => {
      checkPrefix(prefix);
      return call(signal, () => ({
        keys: data.keysAt(prefix, revision),
        revision: revision ?? data.revision,
      }));
    },
    watch: (target, { signal }) => {
      if ('prefix' in target) checkPrefix(target.prefix);
      else checkKey(target.key);
      return watchMemory(data, target, {
        signal: AbortSignal.any([signal, closing.signal]),
        failure,
      });
    },
    async *watchBatches(target, options) {
      for await (const event of this.watch(target, options)) {
        const isDerived = event.kind === 'delete' && event.derived;
        if (!isDerived || options.derives !== false) yield [event];
      }
    },
    put: async (key, value, { lease, signal } = {}) => {
      checkKey(key);
      checkValueBytes(key, Buffer.byteLength(value), maxValueBytes);
      await call(signal, () =>
        data.write([{ kind: 'put', key, value, ...(lease === undefined ? {} : { lease }) }]),
      );
    },
    delete: async (key, { signal } = {}) => {
      checkKey(key);
      return call(signal, () => data.write([{ kind: 'delete', key }]) > 0);
    },
    deletePrefix: async (prefix, { signal } = {}) => {
      checkPrefix(prefix);
      return call(signal, () =>
        data.write(data.range({ prefix }).map(({ key }) => ({ kind: 'delete', key }))),
      );
    },
    transact: async ({ compare, then, otherwise = [] }, { signal } = {}) => {
      checkOperations(then, maxValueBytes);
      checkOperations(otherwise, maxValueBytes);
      return call(signal, () => {
        const succeeded = compare.every((condition) => {
          const pair = data.read(condition.key);
          if ('exists' in condition) return (pair !== undefined) === condition.exists;
          return (pair?.modRevision ?? 0n) === condition.modRevision;
        });
        data.write(succeeded ? then : otherwise);
        return { succeeded, revision: data.revision };
      });
    },
    lease: async (ttlSeconds, { signal, adopt } = {}) =>
      call(signal, () => data.grant(ttlSeconds, adopt)),
    [Symbol.asyncDispose]: async () => closing.abort(),
  };
}
