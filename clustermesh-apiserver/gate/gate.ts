/** The gate: the only way to etcd from outside, for readers, each within its own ranges. */
import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { certificateExpiry } from '../../mesh/runtime/certificate-expiry.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { grpcServerOptions } from '../../mesh/runtime/grpc-server.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import {
  type CallerLimits,
  type CallerUses,
  createCallerUses,
  DEFAULT_CALLER_LIMITS,
} from './caller-limits.ts';
import { type Connections, listenConnections } from './connections.ts';
import { etcdService } from './etcd-service.ts';
import type { MachineTrust } from './machine-trust.ts';
import type { NodeTrust } from './node-trust.ts';
import type { PeerTrust } from './peer-trust.ts';
import { createRefusals, type RefusalCounts } from './refusals.ts';
import { createSharedWatches } from './shared-watches.ts';
import { createSlots } from './slots.ts';
import { openTrust, type TrustFiles } from './trust.ts';
import { openUpstream, type UpstreamOptions } from './upstream.ts';

/** Requests are small: a key range, or a few watches. */
const MAX_REQUEST_BYTES = 256 * 1024;
const MAX_STREAMS_PER_CONNECTION = 256;
const PRIVATE_WATCHES = 64;
const EXPIRY_CHECK_MS = 5000;

/** Options of `listenGate`. */
export interface GateOptions extends TrustFiles {
  readonly address: HostPort;
  readonly clusterName: string;
  /** Where etcd is: from `openEmbeddedEtcd`, or an etcd run by others. */
  readonly upstream: UpstreamOptions;
  /** What one caller may have open at a time. Default: enough for a Cilium cluster of 5,000 nodes. */
  readonly callerLimits?: Partial<CallerLimits>;
  /** What is known of machines. Default: their certificates alone count. */
  readonly machines?: MachineTrust | undefined;
  /** What is known of nodes that enrol. Default: their certificates alone count. */
  readonly nodes?: NodeTrust | undefined;
  /** What is known of peers that enrol. Default: their certificates alone count. */
  readonly peers?: PeerTrust | undefined;
  readonly signal: AbortSignal;
  readonly logger?: Logger;
  readonly clock?: Clock;
}

/** Who is connected, as one line of the status. */
export interface GateClient {
  /** Common name of the certificate. */
  readonly name: string;
  readonly kind: 'node' | 'machine' | 'admin' | 'local' | 'remote' | 'refused';
  /** Peers that it may be; several when they share a CA. Empty for our own. */
  readonly peers: readonly string[];
  /** SHA-256 of the certificate: what a revocation names. */
  readonly fingerprint: string;
  readonly connections: number;
  /** Watch calls and watches that it has open, and bytes of events that it has not taken yet. */
  readonly streams: number;
  readonly watches: number;
  readonly bytesInFlight: number;
}

/** The gate's state for `/status`. */
export interface GateStatus {
  readonly clients: readonly GateClient[];
  /** Watches that clients have open, the watches of etcd that serve them, and those that serve one client alone to catch up. */
  readonly watches: number;
  readonly sharedWatches: number;
  readonly privateWatches: number;
  readonly refused: RefusalCounts;
  /** Bytes sent to clients since the gate was opened. */
  readonly sentBytes: number;
  /** Milliseconds since 1970 at which the gate's own certificate runs out. */
  readonly certificateExpiresAt: number | undefined;
  readonly warnings: readonly string[];
  readonly etcd: { readonly endpoint: string; readonly revision: number | undefined };
}

/** A listening gate. Disposing ends every connection. */
export interface Gate extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
  readonly status: GateStatus;
  /** Shows etcd another certificate from now on. Throws KvError `invalid` for one that cannot be used. */
  renewUpstreamTls(tls: EtcdTls): void;
}

/**
 * Opens the gate. Throws GateError when a file is unusable or the port is taken, KvError for endpoints that are none; an etcd that
 * does not answer is no error, callers are told to come again.
 */
export async function listenGate(options: GateOptions): Promise<Gate> {
  const { clusterName, logger, clock = systemClock } = options;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const trust = await openTrust(options, {
    clock,
    signal,
    machines: options.machines,
    nodes: options.nodes,
    peers: options.peers,
    ...(logger === undefined ? {} : { logger }),
  });
  const upstream = openUpstream(options.upstream);
  const shared = createSharedWatches(upstream, clock);
  const slots = createSlots(PRIVATE_WATCHES);
  const limits = { ...DEFAULT_CALLER_LIMITS, ...options.callerLimits };
  const uses = createCallerUses(limits);
  const refusals = createRefusals();
  const server = new Server({
    ...grpcServerOptions({ maxReceiveBytes: MAX_REQUEST_BYTES }),
    'grpc.max_send_message_length': -1,
    'grpc.max_concurrent_streams': MAX_STREAMS_PER_CONNECTION,
  });
  // TLS ends before, in `connections`: gRPC's server neither shows a whole chain nor cuts one client.
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  let connections: Connections;
  try {
    connections = await listenConnections({
      ...options.address,
      trust: trust.trust,
      clusterName,
      now: () => clock.now(),
      maxConnectionsPerCaller: limits.connections,
      onConnection: (socket) => injector.injectConnection(socket),
      onRefused(reason, { name: caller, certificate }, socket) {
        const from = socket.remoteAddress ?? '';
        const what = certificate === '' ? 'connection' : `connection: ${certificate}`;
        refusals.add(reason, { at: clock.now(), caller, from, what });
        logger?.info({ reason, caller, from, certificate }, 'a connection to the gate was refused');
      },
      onError(error) {
        logger?.error({ err: error }, 'the gate cannot accept a connection');
      },
      onCut(caller, reason, count) {
        logger?.warn({ caller, reason, connections: count }, 'connections to the gate were cut');
      },
    });
  } catch (error) {
    stopping.abort();
    await trust[Symbol.asyncDispose]();
    await upstream[Symbol.asyncDispose]();
    throw error;
  }
  trust.onChange(() => connections.update(trust.trust));
  const service = etcdService({
    clusterName,
    context: { upstream, shared, slots, clock },
    connections,
    uses,
    refuse(reason, refusal) {
      refusals.add(reason, { at: clock.now(), ...refusal });
      logger?.debug({ reason, ...refusal }, 'a call to the gate was refused');
    },
  });
  server.addService(service.definition, service.handlers);
  const expiring = cutExpired(connections, clock, signal);
  logger?.info({ ...connections.address }, 'the gate is open');

  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    stopping.abort();
    await connections[Symbol.asyncDispose]();
    injector.destroy();
    server.forceShutdown();
    shared[Symbol.dispose]();
    await upstream[Symbol.asyncDispose]();
    await trust[Symbol.asyncDispose]();
    await expiring;
  };
  const dispose = (): Promise<void> => {
    closed ??= close();
    return closed;
  };
  options.signal.addEventListener('abort', () => void dispose(), { once: true });
  return {
    address: connections.address,
    renewUpstreamTls: (tls) => upstream.renewTls(tls),
    get status() {
      return {
        clients: describeClients(connections, uses),
        watches: service.openWatches,
        sharedWatches: shared.count,
        privateWatches: slots.taken,
        refused: refusals.counts,
        sentBytes: connections.sentBytes,
        certificateExpiresAt: certificateExpiry(trust.trust.cert),
        warnings: trust.warnings,
        etcd: { endpoint: upstream.endpoint, revision: upstream.latest?.revision },
      };
    },
    [Symbol.asyncDispose]: dispose,
  };
}

async function cutExpired(
  connections: Connections,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    await clock.sleep(EXPIRY_CHECK_MS, signal).catch(() => undefined);
    if (!signal.aborted) connections.cutExpired();
  }
}

function describeClients(connections: Connections, uses: CallerUses): GateClient[] {
  return [...connections.clients].map(({ fingerprint, verdict, connections: count }) => {
    const use = uses.find(fingerprint);
    const base = {
      fingerprint,
      connections: count,
      streams: use?.streams ?? 0,
      watches: use?.watches ?? 0,
      bytesInFlight: use?.bytesInFlight ?? 0,
    };
    if (verdict.kind === 'refused') {
      return { ...base, name: verdict.name, kind: 'refused', peers: [] };
    }
    const { caller } = verdict;
    const peers = caller.kind === 'remote' ? caller.peers : [];
    return { ...base, name: caller.name, kind: caller.kind, peers };
  });
}
