import { Client, type ClientDuplexStream, type ClientUnaryCall, Metadata } from '@grpc/grpc-js';
import type { MethodDefinition } from '@grpc/proto-loader';
import { onAbort } from '../runtime/abort-callbacks.ts';
import { loadProtoFile } from '../runtime/proto-file.ts';
import type { EtcdEndpoint } from './etcd-endpoint.ts';
import { toKvError } from './etcd-error.ts';
import type { EtcdHeader } from './etcd-messages.ts';
import { KvError } from './kvstore.ts';

/** Methods that are called over grpc-js directly, by name. */
const METHODS = {
  range: serializerOf('etcdserverpb.KV', 'Range'),
  transact: serializerOf('etcdserverpb.KV', 'Txn'),
  watch: serializerOf('etcdserverpb.Watch', 'Watch'),
  keepAlive: serializerOf('etcdserverpb.Lease', 'LeaseKeepAlive'),
} as const;

/** A stream of requests as plain objects and answers decoded by the caller's function. */
export type EtcdStream<T> = ClientDuplexStream<object, T>;

/**
 * The connection to one of the endpoints. Everything goes to the same one until it fails: replicas of a Cilium
 * apiserver each have an etcd of their own, and answers of two of them do not mix.
 */
export interface EtcdConnection extends AsyncDisposable {
  /** The endpoint in use. */
  readonly endpoint: EtcdEndpoint;
  /** Cluster id of the latest answer, hex. */
  readonly clusterId: string | undefined;
  readonly closed: AbortSignal;
  /** Uses other certificates from the next call on; streams that are open go on. */
  renew(endpoints: readonly EtcdEndpoint[]): void;
  /** To be called with the header of each answer. */
  seen(header: EtcdHeader): void;
  /** Calls back when an answer came from another cluster than the one before. */
  onClusterChange(callback: () => void): () => void;
  /** Turns an error into a KvError, and goes to the next endpoint if this one is out of reach. */
  failed(error: unknown, doing: string, endpoint: EtcdEndpoint): KvError;
  /** A read with a deadline. */
  range<T>(
    request: object,
    options: {
      doing: string;
      decode: (bytes: Buffer) => T;
      timeoutMs: number;
      signal?: AbortSignal | undefined;
    },
  ): Promise<T>;
  /** Sends an encoded transaction. Rejects with grpc-js' own error. */
  transact<T>(
    request: Buffer,
    options: { decode: (bytes: Buffer) => T; timeoutMs: number },
  ): Promise<T>;
  openStream<T>(
    method: 'watch' | 'keepAlive',
    decode: (bytes: Buffer) => T,
    deadline?: Date,
  ): EtcdStream<T>;
}

/** Prepares a connection; nothing is dialled before the first call. */
export function openEtcdConnection(first: readonly EtcdEndpoint[]): EtcdConnection {
  let endpoints = first;
  const closing = new AbortController();
  const clients = new Map<EtcdEndpoint, Client>();
  /** Calls and streams that are open, by client. */
  const calls = new Map<Client, number>();
  const onChange = new Set<() => void>();
  let index = Math.floor(Math.random() * endpoints.length);
  let clusterId: string | undefined;

  const current = (): EtcdEndpoint => {
    const endpoint = endpoints[index];
    if (endpoint === undefined) throw new RangeError('cannot choose an endpoint: there is none');
    return endpoint;
  };
  const clientOf = (endpoint: EtcdEndpoint): Client => {
    if (closing.signal.aborted) throw closedError();
    const known = clients.get(endpoint);
    if (known !== undefined) return known;
    const client = new Client(endpoint.target, endpoint.credentials, endpoint.channelOptions);
    clients.set(endpoint, client);
    return client;
  };
  /** Counts a call on a client; to be called when the call has ended. */
  const begin = (endpoint: EtcdEndpoint, client: Client): (() => void) => {
    calls.set(client, (calls.get(client) ?? 0) + 1);
    return () => {
      calls.set(client, (calls.get(client) ?? 0) - 1);
      letGo(endpoint, client);
    };
  };
  /** Closes a client of certificates that are in use no more, when nothing is open on it. */
  const letGo = (endpoint: EtcdEndpoint, client: Client): void => {
    if (endpoints.includes(endpoint) || (calls.get(client) ?? 0) > 0) return;
    client.close();
    calls.delete(client);
    clients.delete(endpoint);
  };
  const failed = (error: unknown, doing: string, endpoint: EtcdEndpoint): KvError => {
    if (closing.signal.aborted) return closedError();
    const kvError = toKvError(error, `${doing} at ${endpoint.url}`);
    const unreachable = ['unavailable', 'timeout', 'unauthenticated'].includes(kvError.code);
    if (unreachable && endpoints.length > 1 && endpoint === current()) {
      index = (index + 1) % endpoints.length;
    }
    return kvError;
  };

  return {
    get endpoint() {
      return current();
    },
    get clusterId() {
      return clusterId;
    },
    closed: closing.signal,
    renew: (renewed) => {
      endpoints = renewed;
      index %= endpoints.length;
      for (const [endpoint, client] of [...clients]) letGo(endpoint, client);
    },
    seen: (header) => {
      const before = clusterId;
      clusterId = header.clusterId;
      if (before !== undefined && before !== clusterId) for (const callback of onChange) callback();
    },
    onClusterChange: (callback) => {
      onChange.add(callback);
      return () => onChange.delete(callback);
    },
    failed,
    range: async (request, { doing, decode, timeoutMs, signal }) => {
      signal?.throwIfAborted();
      const endpoint = current();
      const client = clientOf(endpoint);
      const end = begin(endpoint, client);
      return new Promise((resolve, reject) => {
        let call: ClientUnaryCall | undefined;
        const unlisten = signal && onAbort(signal, () => call?.cancel());
        call = client.makeUnaryRequest(
          METHODS.range.path,
          METHODS.range.serialize,
          decode,
          request,
          new Metadata(),
          { deadline: Date.now() + timeoutMs },
          (error, answer) => {
            unlisten?.();
            end();
            if (signal?.aborted) reject(signal.reason);
            else if (error !== null) reject(failed(error, doing, endpoint));
            else if (answer !== undefined) resolve(answer);
          },
        );
      });
    },
    transact: (request, { decode, timeoutMs }) =>
      new Promise((resolve, reject) => {
        const endpoint = current();
        const client = clientOf(endpoint);
        const end = begin(endpoint, client);
        client.makeUnaryRequest(
          METHODS.transact.path,
          (bytes: Buffer) => bytes,
          decode,
          request,
          new Metadata(),
          { deadline: Date.now() + timeoutMs },
          (error, answer) => {
            end();
            if (error !== null) reject(error);
            else if (answer !== undefined) resolve(answer);
          },
        );
      }),
    openStream: (method, decode, deadline) => {
      const metadata = new Metadata();
      // Without it a watch on a member that lost its cluster stays silent instead of failing.
      metadata.set('hasleader', 'true');
      const { path, serialize } = METHODS[method];
      const endpoint = current();
      const client = clientOf(endpoint);
      const stream = client.makeBidiStreamRequest(
        path,
        serialize,
        decode,
        metadata,
        deadline === undefined ? {} : { deadline },
      );
      stream.once('status', begin(endpoint, client));
      // A cancelled stream reports that, too, after its reader has left.
      stream.on('error', () => undefined);
      return stream;
    },
    [Symbol.asyncDispose]: async () => {
      closing.abort(closedError());
      for (const client of clients.values()) client.close();
      clients.clear();
      calls.clear();
    },
  };
}

/** What every call on a disposed store fails with. */
export function closedError(): KvError {
  return new KvError('closed', 'cannot use the store: it is closed', { retryable: false });
}

function serializerOf(
  serviceName: string,
  methodName: string,
): { path: string; serialize: (request: object) => Buffer } {
  const service = loadProtoFile('mesh/wire/etcd.proto')[serviceName];
  const method =
    service !== undefined && !('format' in service)
      ? (service[methodName] as MethodDefinition<object, object> | undefined)
      : undefined;
  if (method === undefined)
    throw new Error(`cannot find ${serviceName}.${methodName} in mesh/wire/etcd.proto`);
  return { path: method.path, serialize: method.requestSerialize };
}
