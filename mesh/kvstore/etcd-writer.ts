import { Etcd3, type IPutRequest } from 'etcd3';
import type { EtcdEndpoint } from './etcd-endpoint.ts';
import type { EtcdHeader } from './etcd-messages.ts';
import type { KvOp } from './kvstore.ts';

/** Whom an operation writes for: the lease's id at the time of the call, `0n` for none. */
export interface WriteOp {
  readonly op: KvOp;
  readonly leaseId: bigint;
}

/** etcd's writing calls but transactions, each with a deadline. They fail with etcd3's errors. */
export interface EtcdWriter {
  put(write: WriteOp): Promise<EtcdHeader>;
  /** Deletes `[key, end)`, or one key; resolves to how many there were. */
  deleteRange(key: Buffer, end?: Buffer): Promise<{ header: EtcdHeader; deleted: number }>;
  grantLease(ttlSeconds: number): Promise<{ header: EtcdHeader; id: bigint }>;
  revokeLease(id: bigint): Promise<void>;
  close(): void;
}

/**
 * Fault policies of etcd3, switched off: its circuit breaker lets one refused value fail every call for 5 seconds.
 * Repeating is the caller's decision, by `KvError.retryable`.
 */
const noPolicy = {
  // Never returned: the type wants it.
  _altReturn: undefined as never,
  onSuccess: () => ({ dispose: () => undefined }),
  onFailure: () => ({ dispose: () => undefined }),
  execute: async <T>(run: (context: { signal: AbortSignal }) => PromiseLike<T> | T): Promise<T> =>
    run({ signal: NEVER_ABORTED }),
};
const NEVER_ABORTED = new AbortController().signal;

/** Opens etcd3 on one endpoint. */
export function openEtcdWriter(endpoint: EtcdEndpoint, options: { timeoutMs: number }): EtcdWriter {
  const { tls, proves } = endpoint;
  const etcd = new Etcd3({
    hosts: endpoint.target,
    grpcOptions:
      tls === undefined
        ? endpoint.channelOptions
        : // etcd3 takes no check of ours: it must compare the certificate with the true name.
          { ...endpoint.channelOptions, 'grpc.ssl_target_name_override': proves },
    faultHandling: { host: () => noPolicy, global: noPolicy },
    ...(tls === undefined
      ? {}
      : { credentials: { rootCertificate: tls.ca, privateKey: tls.key, certChain: tls.cert } }),
  });
  const callOptions = () => ({ deadline: Date.now() + options.timeoutMs });

  return {
    put: async (write) => {
      const answer = await etcd.kv.put(putRequest(write), callOptions());
      return toHeader(answer.header);
    },
    deleteRange: async (key, end) => {
      const range = end === undefined ? { key } : { key, range_end: end };
      const answer = await etcd.kv.deleteRange(range, callOptions());
      return { header: toHeader(answer.header), deleted: Number(answer.deleted) };
    },
    grantLease: async (ttlSeconds) => {
      const answer = await etcd.leaseClient.leaseGrant({ TTL: ttlSeconds }, callOptions());
      return { header: toHeader(answer.header), id: BigInt(answer.ID) };
    },
    revokeLease: async (id) => {
      await etcd.leaseClient.leaseRevoke({ ID: String(id) }, callOptions());
    },
    close: () => etcd.close(),
  };
}

function putRequest({ op, leaseId }: WriteOp): IPutRequest {
  const value = op.kind === 'put' ? Buffer.from(op.value) : Buffer.alloc(0);
  return { key: Buffer.from(op.key), value, ...(leaseId === 0n ? {} : { lease: String(leaseId) }) };
}

function toHeader(header: { cluster_id: string; revision: string }): EtcdHeader {
  return { clusterId: BigInt(header.cluster_id).toString(16), revision: BigInt(header.revision) };
}
