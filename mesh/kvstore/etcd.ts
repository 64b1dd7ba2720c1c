import { onAbort } from '../runtime/abort-callbacks.ts';
import { createBackoff } from '../runtime/backoff.ts';
import { type Clock, systemClock } from '../runtime/clock.ts';
import type { Keepalive } from '../runtime/grpc-client.ts';
import { closedError, type EtcdConnection, openEtcdConnection } from './etcd-connection.ts';
import {
  type EtcdEndpoint,
  type EtcdTls,
  type HostAlias,
  parseEndpoints,
} from './etcd-endpoint.ts';
import { isLeaseNotFound } from './etcd-error.ts';
import { type EtcdLease, openEtcdLease } from './etcd-lease.ts';
import { countKeys, type KeyTarget, keyRange, type ListOptions, listPages } from './etcd-list.ts';
import type { EtcdHeader } from './etcd-messages.ts';
import { decodeTransactionAnswer, encodeTransaction } from './etcd-transaction.ts';
import { watchEtcd } from './etcd-watch.ts';
import { createWatchStreams } from './etcd-watch-streams.ts';
import { type EtcdWriter, openEtcdWriter, type WriteOp } from './etcd-writer.ts';
import {
  KvError,
  type KvEvent,
  type KvLease,
  type KvOp,
  type KvPair,
  type KvStore,
} from './kvstore.ts';
import {
  checkKey,
  checkOperations,
  checkPrefix,
  checkValueBytes,
  DEFAULT_MAX_VALUE_BYTES,
} from './request-check.ts';

/** How often a list begins anew because its revision was compacted under it. */
const LIST_ATTEMPTS = 3;

/** Options of `openEtcd`. */
export interface EtcdOptions {
  /** URLs, `https://host:port` or `http://host:port`; one is used at a time. */
  readonly endpoints: readonly string[];
  readonly tls?: EtcdTls;
  /** Addresses to dial instead of resolving a name. */
  readonly hostAliases?: readonly HostAlias[];
  /** Deadline of each call and each page of a list. Default 10,000. */
  readonly callTimeoutMs?: number;
  /** Largest sum of values in one request. Default 15 MiB. */
  readonly maxValueBytes?: number;
  /** Most keys in a page of a list. Default 10,000. */
  readonly pageSize?: number;
  /** Most keys that a list may have. Default 2,000,000. */
  readonly maxKeys?: number;
  /** Silence on a watch after which the server is asked for a sign of life. Default 10,000. */
  readonly progressIntervalMs?: number;
  /** Default: a probe after 10 s of silence, 5 s for its answer. */
  readonly keepalive?: Keepalive;
  /** Delays between the attempts of a watch. Default 100 to 3000. */
  readonly retry?: { readonly minMs: number; readonly maxMs: number };
  readonly clock?: Clock;
}

/** An etcd. */
export interface EtcdStore extends KvStore {
  /** Uses other certificates from the next call on. Throws KvError `invalid` for ones that cannot be used. */
  renewTls(tls: EtcdTls): void;
}

/**
 * Opens an etcd. It does not wait for a connection: calls fail with `unavailable` and watches say `disconnected` until
 * there is one. Certificates are bytes: when their files change, open another store and dispose of this one. Rejects
 * with KvError `invalid` for endpoints or certificates that cannot be used.
 */
export async function openEtcd(options: EtcdOptions): Promise<EtcdStore> {
  const {
    callTimeoutMs: timeoutMs = 10_000,
    maxValueBytes = DEFAULT_MAX_VALUE_BYTES,
    pageSize = 10_000,
    progressIntervalMs = 10_000,
    retry = { minMs: 100, maxMs: 3000 },
    clock = systemClock,
  } = options;
  let endpoints = parseEndpoints(options.endpoints, options);
  const connection = openEtcdConnection(endpoints);
  const streams = createWatchStreams({ connection, clock, progressIntervalMs });
  const writers = new Map<EtcdEndpoint, EtcdWriter>();
  /** Calls of writers that are under way. */
  const writing = new Map<EtcdEndpoint, number>();
  const leases = new Set<EtcdLease>();

  const writerOf = (endpoint: EtcdEndpoint): EtcdWriter => {
    const known = writers.get(endpoint);
    if (known !== undefined) return known;
    const writer = openEtcdWriter(endpoint, { timeoutMs });
    writers.set(endpoint, writer);
    return writer;
  };
  /** Closes a writer of certificates that are in use no more, when it does nothing. */
  const letGo = (endpoint: EtcdEndpoint): void => {
    if (endpoints.includes(endpoint) || (writing.get(endpoint) ?? 0) > 0) return;
    writers.get(endpoint)?.close();
    writers.delete(endpoint);
    writing.delete(endpoint);
  };
  const counted = async <T>(endpoint: EtcdEndpoint, call: Promise<T>): Promise<T> => {
    writing.set(endpoint, (writing.get(endpoint) ?? 0) + 1);
    try {
      return await call;
    } finally {
      writing.set(endpoint, (writing.get(endpoint) ?? 0) - 1);
      letGo(endpoint);
    }
  };
  const write = async <T extends { header: EtcdHeader }>(
    doing: string,
    signal: AbortSignal | undefined,
    run: (writer: EtcdWriter) => Promise<T>,
  ): Promise<T> => {
    signal?.throwIfAborted();
    if (connection.closed.aborted) throw closedError();
    const { endpoint } = connection;
    try {
      const answer = await untilAborted(counted(endpoint, run(writerOf(endpoint))), signal);
      connection.seen(answer.header);
      return answer;
    } catch (error) {
      if (signal?.aborted) throw error;
      if (isLeaseNotFound(error)) for (const lease of leases) lease.checkNow();
      throw connection.failed(error, doing, endpoint);
    }
  };
  const listOptions = (signal: AbortSignal | undefined): ListOptions => ({
    connection,
    pageSize,
    timeoutMs,
    maxKeys: options.maxKeys,
    signal,
  });
  const deleteTarget = async (
    target: KeyTarget,
    signal: AbortSignal | undefined,
  ): Promise<number> => {
    const { key, range_end } = keyRange(target);
    const answer = await write(`delete ${key.toString()}`, signal, (writer) =>
      writer.deleteRange(key, range_end),
    );
    return answer.deleted;
  };

  const watchBatches = (
    target: KeyTarget,
    { signal, derives = true }: { readonly signal: AbortSignal; readonly derives?: boolean },
  ): AsyncGenerator<readonly KvEvent[], void, undefined> => {
    if ('prefix' in target) checkPrefix(target.prefix);
    else checkKey(target.key);
    const backoff = createBackoff(retry);
    return watchEtcd(target, {
      connection,
      clock,
      signal,
      pageSize,
      timeoutMs,
      streams,
      derives,
      backoff,
    });
  };

  return {
    get clusterId() {
      return connection.clusterId;
    },
    renewTls: (tls) => {
      endpoints = parseEndpoints(options.endpoints, { ...options, tls });
      connection.renew(endpoints);
      for (const endpoint of [...writers.keys()]) letGo(endpoint);
    },
    get: async (key, { signal } = {}) => {
      checkKey(key);
      for await (const page of listPages({ key }, listOptions(signal))) return page.pairs[0];
      return undefined;
    },
    list: async (prefix, { signal } = {}) => {
      checkPrefix(prefix);
      return listAtOneRevision(prefix, listOptions(signal));
    },
    count: async (prefix, { revision, signal } = {}) => {
      checkPrefix(prefix);
      return countKeys(prefix, { ...listOptions(signal), revision });
    },
    keys: async (prefix, { revision, signal } = {}) => {
      checkPrefix(prefix);
      const keysOnly = { ...listOptions(signal), revision, keysOnly: true };
      const { pairs, revision: readAt } = await listAtOneRevision(prefix, keysOnly);
      return { keys: pairs.map(({ key }) => key), revision: revision ?? readAt };
    },
    watch: (target, { signal }) => oneByOne(watchBatches(target, { signal })),
    watchBatches,
    put: async (key, value, { lease, signal } = {}) => {
      checkKey(key);
      checkValueBytes(key, Buffer.byteLength(value), maxValueBytes);
      const op: KvOp = { kind: 'put', key, value, ...(lease === undefined ? {} : { lease }) };
      const resolved = withLease(op);
      await write(`put ${key}`, signal, async (writer) => ({ header: await writer.put(resolved) }));
    },
    delete: async (key, { signal } = {}) => {
      checkKey(key);
      return (await deleteTarget({ key }, signal)) > 0;
    },
    deletePrefix: async (prefix, { signal } = {}) => {
      checkPrefix(prefix);
      return deleteTarget({ prefix }, signal);
    },
    transact: async ({ compare, then, otherwise = [] }, { signal } = {}) => {
      for (const condition of compare) checkKey(condition.key);
      checkOperations(then, maxValueBytes);
      checkOperations(otherwise, maxValueBytes);
      const branches = [then.map(withLease), otherwise.map(withLease)] as const;
      const doing = `write ${then[0]?.key ?? otherwise[0]?.key ?? 'nothing'} in a transaction`;
      const request = encodeTransaction(compare, ...branches);
      const answer = await write(doing, signal, () =>
        connection.transact(request, { decode: decodeTransactionAnswer, timeoutMs }),
      );
      return { succeeded: answer.succeeded, revision: answer.header.revision };
    },
    lease: async (ttlSeconds, { signal, adopt } = {}) => {
      // The caller's signal is for making the lease; what keeps it alive later ends with the lease.
      let making: AbortSignal | undefined = signal;
      const lease = await openEtcdLease(ttlSeconds, {
        connection,
        clock,
        timeoutMs,
        retry,
        adopt,
        grant: async (ttl) =>
          (await write('make a lease', making, (writer) => writer.grantLease(ttl))).id,
        revoke: (id) => revokeLease(connection, writerOf(connection.endpoint), id),
        onEnd: (ended) => leases.delete(ended),
      });
      making = undefined;
      leases.add(lease);
      return lease;
    },
    [Symbol.asyncDispose]: async () => {
      await connection[Symbol.asyncDispose]();
      await Promise.all([...leases].map((lease) => lease[Symbol.asyncDispose]()));
      for (const writer of writers.values()) writer.close();
      writers.clear();
    },
  };
}

async function listAtOneRevision(
  prefix: string,
  options: ListOptions,
): Promise<{ pairs: KvPair[]; revision: bigint }> {
  for (let attempt = 1; ; attempt += 1) {
    const pairs: KvPair[] = [];
    let revision = 0n;
    try {
      for await (const page of listPages({ prefix }, options)) {
        for (const pair of page.pairs) pairs.push(pair);
        revision = page.header.revision;
      }
      return { pairs, revision };
    } catch (error) {
      const again =
        error instanceof KvError && ['compacted', 'cluster-changed'].includes(error.code);
      if (!again || options.revision !== undefined || attempt === LIST_ATTEMPTS) throw error;
    }
  }
}

function withLease(op: KvOp): WriteOp {
  const lease: KvLease | undefined = op.kind === 'put' ? op.lease : undefined;
  if (lease === undefined) return { op, leaseId: 0n };
  if (lease.id === 0n) {
    throw new KvError(
      'unavailable',
      `cannot put ${op.key}: its lease is lost and being made again`,
      {
        retryable: true,
      },
    );
  }
  return { op, leaseId: lease.id };
}

async function revokeLease(
  connection: EtcdConnection,
  writer: EtcdWriter,
  id: bigint,
): Promise<void> {
  const { endpoint } = connection;
  try {
    await writer.revokeLease(id);
  } catch (error) {
    if (isLeaseNotFound(error)) return;
    throw connection.failed(error, `revoke lease ${id.toString(16)}`, endpoint);
  }
}

/** etcd3's calls cannot be cancelled: an aborted one may still be carried out, its answer is not waited for. */
async function untilAborted<T>(answer: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return answer;
  return new Promise((resolve, reject) => {
    const letGo = onAbort(signal, () => reject(signal.reason));
    answer.then(resolve, reject).finally(letGo);
  });
}

async function* oneByOne(
  batches: AsyncIterable<readonly KvEvent[]>,
): AsyncGenerator<KvEvent, void, undefined> {
  for await (const batch of batches) yield* batch;
}
