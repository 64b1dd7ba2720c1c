/** What a caller of the store can act on. */
export type KvErrorCode =
  | 'unavailable'
  | 'timeout'
  | 'unauthenticated'
  | 'permission-denied'
  | 'compacted'
  | 'too-large'
  | 'cluster-changed'
  | 'invalid'
  | 'closed';

/** A failed call to the store. `retryable` says whether the same call may succeed later without anybody's help. */
export class KvError extends Error {
  readonly code: KvErrorCode;
  readonly retryable: boolean;

  constructor(
    code: KvErrorCode,
    message: string,
    options: { retryable: boolean; cause?: unknown },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'KvError';
    this.code = code;
    this.retryable = options.retryable;
  }
}

/** One key as stored. Values are bytes: not every kind is text (endpointslices are zstd). */
export interface KvPair {
  readonly key: string;
  readonly value: Buffer;
  /** Revision of the store at which this value was written. */
  readonly modRevision: bigint;
  /** Lease the key hangs on, `0n` for none. */
  readonly lease: bigint;
}

/**
 * What a watch yields, always in this order: `list-start`, `put` for every key, `synced`, then deltas.
 * After a disconnect that could not be resumed, a compaction or a changed etcd the whole sequence begins again with
 * `list-start`; between it and `synced` the watch yields `delete` for keys that it had shown before and that were not
 * listed again, so a consumer that just applies events is right at every `synced`.
 */
export type KvEvent =
  | {
      readonly kind: 'list-start';
      readonly reason: 'first' | 'disconnected' | 'compacted' | 'cluster-changed';
    }
  | { readonly kind: 'put'; readonly pair: KvPair }
  | {
      readonly kind: 'delete';
      readonly key: string;
      readonly modRevision: bigint;
      readonly derived: boolean;
    }
  | {
      readonly kind: 'synced';
      readonly revision: bigint;
      readonly count: number;
      /** How many keys the server itself counts at that revision; undefined: it did not say. */
      readonly stated?: number;
    }
  /** The server answered that it is alive up to this revision, without a change to tell. */
  | { readonly kind: 'progress'; readonly revision: bigint }
  /** The connection is lost and is being retried; nothing held is withdrawn. */
  | { readonly kind: 'disconnected'; readonly error: KvError };

/** A condition on one key for a transaction. */
export type KvCompare =
  | { readonly key: string; readonly exists: boolean }
  | { readonly key: string; readonly modRevision: bigint };

/** A write inside a transaction. */
export type KvOp =
  | {
      readonly kind: 'put';
      readonly key: string;
      readonly value: Buffer | string;
      readonly lease?: KvLease;
    }
  | { readonly kind: 'delete'; readonly key: string };

/**
 * A lease kept alive by the store until disposed; its id changes when it had to be made again. Disposing only stops
 * the keeping alive, so that a restarted publisher finds its keys: they go when the TTL has passed, or by `revoke`.
 */
export interface KvLease extends AsyncDisposable {
  /** Current id, `0n` while the lease is being made again. */
  readonly id: bigint;
  readonly ttlSeconds: number;
  /** Calls back each time the lease was lost and made anew: every key put on it is gone and must be put again. */
  onLost(callback: () => void): void;
  /** Ends the lease now: every key on it is deleted. Disposes of it, too. */
  revoke(): Promise<void>;
}

export interface KvListResult {
  readonly pairs: readonly KvPair[];
  readonly revision: bigint;
}

/** How a range is read. */
export interface KvReadOptions {
  /** Revision to read at; absent: the newest. */
  readonly revision?: bigint;
  readonly signal?: AbortSignal;
}

/** Number of keys at a revision. */
export interface KvCountResult {
  readonly count: number;
  readonly revision: bigint;
}

/** Keys at a revision. */
export interface KvKeysResult {
  readonly keys: readonly string[];
  readonly revision: bigint;
}

/** A connection to one etcd cluster. Every call takes a deadline from the store's options and ends when `signal` aborts. */
export interface KvStore extends AsyncDisposable {
  get(key: string, options?: { signal?: AbortSignal }): Promise<KvPair | undefined>;
  /** Lists `[prefix, successor)` by pages, all at the revision of the first page. `prefix` ends in `/`. */
  list(prefix: string, options?: { signal?: AbortSignal }): Promise<KvListResult>;
  /**
   * How many keys `[prefix, successor)` holds, now or as it was at `revision`. Throws KvError `compacted` when that
   * revision is gone.
   */
  count(prefix: string, options?: KvReadOptions): Promise<KvCountResult>;
  /** The keys of `[prefix, successor)` in order, without their values, now or as they were at `revision`. */
  keys(prefix: string, options?: KvReadOptions): Promise<KvKeysResult>;
  /** Watches a prefix ending in `/`, or exactly one key. Ends only by `signal` or by leaving the loop; retries by itself. */
  watch(
    target: { readonly prefix: string } | { readonly key: string },
    options: { signal: AbortSignal },
  ): AsyncIterable<KvEvent>;
  /**
   * The same events in the same order, as many at a time as there are, at most about a thousand: for who reads by the
   * hundred thousand, since one turn of an async iterator costs as much as decoding what it yields. A list is never
   * empty. With `derives` false a list that begins anew yields no `delete`, for who finds out itself what it left out: the
   * keys then need not be kept in mind.
   */
  watchBatches(
    target: { readonly prefix: string } | { readonly key: string },
    options: { readonly signal: AbortSignal; readonly derives?: boolean },
  ): AsyncIterable<readonly KvEvent[]>;
  put(
    key: string,
    value: Buffer | string,
    options?: { lease?: KvLease; signal?: AbortSignal },
  ): Promise<void>;
  delete(key: string, options?: { signal?: AbortSignal }): Promise<boolean>;
  deletePrefix(prefix: string, options?: { signal?: AbortSignal }): Promise<number>;
  /** Applies `then` if every comparison holds, else `otherwise`. Resolves to whether the comparisons held. */
  transact(
    transaction: {
      readonly compare: readonly KvCompare[];
      readonly then: readonly KvOp[];
      readonly otherwise?: readonly KvOp[];
    },
    options?: { signal?: AbortSignal },
  ): Promise<{ readonly succeeded: boolean; readonly revision: bigint }>;
  /**
   * Makes a lease. With `adopt`, an id, it is that lease if it still lives and was made with the same time to live: so a
   * restarted writer need not write again what hangs on it.
   */
  lease(
    ttlSeconds: number,
    options?: { signal?: AbortSignal; adopt?: bigint | undefined },
  ): Promise<KvLease>;
  /** etcd's cluster id (hex) as seen in the latest response header; undefined before the first one. */
  readonly clusterId: string | undefined;
}
