/** Where strangers enrol: TLS of the server alone, one call each, small requests, and an answer to everything that comes. */
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { grpcServerOptions } from '../../mesh/runtime/grpc-server.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { GateError } from '../gate/gate-error.ts';
import { openTrust, type TrustFiles } from '../gate/trust.ts';
import type { Enrollment } from './enrollment.ts';
import type { EnrollmentCall } from './enrollment-guard.ts';
import type { EnrollmentLimits } from './enrollment-limits.ts';
import type { EnrollmentRefusal, EnrollmentRefusalReason } from './enrollment-refusal.ts';
import {
  type EnrollmentSockets,
  listenEnrollmentSockets,
  type SocketLimits,
} from './enrollment-sockets.ts';
import { RegistryError } from './registry-error.ts';
import { readServerChain, type ServerChain } from './server-chain.ts';

/** A request of a machine has at most 2 KiB when it is one; the token of a node's service account has 1 to 2 KiB. */
const MAX_REQUEST_BYTES = 4096;
/** Up to here a request that is too large is refused in words; beyond it gRPC ends the call. */
const MAX_READ_BYTES = 16 * 1024;
const MAX_STREAMS_PER_CONNECTION = 4;
/** HTTP/2's own: nobody has much to send. */
const WINDOW_BYTES = 65_535;
const CALL_TIMEOUT_MS = 10_000;
const SERVICE = 'isthmus.registry.v1.Enrollment';
/** Stands for bytes that are no request, or too many. */
const UNREADABLE = 'unreadable';

/** What machines are told of the cluster. */
export interface ClusterFacts {
  readonly clusterName: string;
  readonly clusterId: number;
  readonly maxConnectedClusters: number;
  /** `https://host:port`. */
  readonly etcdEndpoints: readonly string[];
  /** `host:port`. */
  readonly registryEndpoints: readonly string[];
  readonly tunnelPort: number;
  readonly podNetworks: readonly string[];
}

/** What came of a call: the fields of the answer, or why there is none. */
export type EnrollmentAnswer =
  | { readonly kind: 'answered'; readonly message: object }
  | EnrollmentRefusal;

/** A way to enrol beside that of machines. */
export interface EnrollmentMethod {
  /** Of the service Enrollment. */
  readonly name: string;
  /** `serverName`: a name in our certificate. */
  answer(call: EnrollmentCall, serverName: string): Promise<EnrollmentAnswer>;
}

/** Options of `listenEnrollment`. */
export interface EnrollmentListenerOptions {
  readonly address: HostPort;
  /** The server's certificate, and the authorities at one of which it ends. */
  readonly files: Pick<TrustFiles, 'certFile' | 'keyFile' | 'ownCaFile'>;
  readonly clusterName: string;
  readonly enrollment: Enrollment;
  /** Further ways to enrol. Default: machines alone can. */
  readonly methods?: readonly EnrollmentMethod[];
  readonly limits: EnrollmentLimits;
  readonly socketLimits?: SocketLimits;
  /** Facts for a machine whose call came in at an address of ours. */
  readonly facts: (to: IpAddress) => ClusterFacts;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** A listener that machines enrol at. Disposing ends calls under way. */
export interface EnrollmentListener extends AsyncDisposable {
  readonly address: HostPort;
  readonly connections: number;
  /** What tokens name the server by at present. */
  readonly anchor: Buffer;
}

/** Listens. Throws RegistryError when a file is unusable or the port is taken. */
export async function listenEnrollment(
  options: EnrollmentListenerOptions,
): Promise<EnrollmentListener> {
  const { clusterName, enrollment, methods = [], limits, facts, clock, logger } = options;
  const { certFile, keyFile, ownCaFile } = options.files;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const opened = await openTrust({ certFile, keyFile, ownCaFile }, { clock, signal, logger }).catch(
    (error: unknown) => {
      throw error instanceof GateError ? unusable(error.message, error) : error;
    },
  );
  const read = (): ServerChain =>
    readServerChain(opened.trust.cert, {
      own: opened.trust.bundles.own,
      preferredName: `${clusterName}.mesh.cilium.io`,
    });
  let chain: ServerChain;
  const server = new Server({
    ...grpcServerOptions({ maxReceiveBytes: MAX_READ_BYTES }),
    'grpc-node.flow_control_window': WINDOW_BYTES,
    'grpc.max_concurrent_streams': MAX_STREAMS_PER_CONNECTION,
  });
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  let sockets: EnrollmentSockets;
  try {
    chain = readChain(read, certFile);
    sockets = await listenEnrollmentSockets({
      address: options.address,
      tls: { cert: chain.pem, key: opened.trust.key },
      ...(options.socketLimits === undefined ? {} : { limits: options.socketLimits }),
      isShut: (source) => limits.isShut(source),
      onConnection: (socket) => injector.injectConnection(socket),
      onError: (error) => logger.error({ err: error }, 'enrolment cannot accept a connection'),
      clock,
      signal,
    });
  } catch (error) {
    stopping.abort();
    await opened[Symbol.asyncDispose]();
    throw error;
  }
  opened.onChange(() => {
    try {
      chain = readChain(read, certFile);
      sockets.update({ cert: chain.pem, key: opened.trust.key });
    } catch (error) {
      if (!(error instanceof RegistryError)) throw error;
      logger.warn({ err: error }, 'enrolment goes on with the certificate from before');
    }
  });

  const enrolMachine = async (call: EnrollmentCall, to: IpAddress): Promise<EnrollmentAnswer> => {
    const outcome = await enrollment.enrol(call);
    if (outcome.kind === 'refused') return outcome;
    const { record, certificate, trustBundle } = outcome;
    const cluster = facts(to);
    const message = {
      certificate: Buffer.from(certificate),
      trust_bundle: Buffer.from(trustBundle),
      cluster_name: cluster.clusterName,
      cluster_id: cluster.clusterId,
      max_connected_clusters: cluster.maxConnectedClusters,
      etcd_endpoints: cluster.etcdEndpoints,
      registry_endpoints: cluster.registryEndpoints,
      server_name: chain.serverName,
      tunnel_port: cluster.tunnelPort,
      observed_address: call.from,
      machine_name: record.name,
      namespace: record.namespace,
      labels: record.labels,
      pod_networks: cluster.podNetworks,
    };
    return { kind: 'answered', message };
  };
  type Answerer = (call: EnrollmentCall, to: IpAddress) => Promise<EnrollmentAnswer>;
  const answerInTime = async (
    call: ServerUnaryCall<unknown, unknown>,
    answer: Answerer,
  ): Promise<{ code: status; details: string } | { message: object }> => {
    const arrival = sockets.find(call.getPeer());
    if (arrival === undefined) return { code: status.CANCELLED, details: 'the connection is gone' };
    const { from, to } = arrival;
    const late = new AbortController();
    const timer = AbortSignal.any([signal, late.signal]);
    void clock.sleep(CALL_TIMEOUT_MS, timer).then(
      () => late.abort(),
      () => undefined,
    );
    try {
      const outcome = await answer({ message: call.request, from, signal: timer }, to);
      return outcome.kind === 'refused'
        ? { code: CODES[outcome.reason], details: outcome.details }
        : { message: outcome.message };
    } finally {
      late.abort();
    }
  };
  const serve =
    (answer: Answerer) =>
    (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>): void => {
      answerInTime(call, answer).then(
        (answered) => {
          if ('code' in answered) callback(answered);
          else callback(null, answered.message);
        },
        (error: unknown) => {
          if (!signal.aborted) logger.error({ err: error }, 'an enrolment has failed');
          const isLate = signal.aborted || (error instanceof Error && error.name === 'AbortError');
          callback(
            isLate
              ? { code: status.UNAVAILABLE, details: 'the registry does not get to it: try again' }
              : { code: status.INTERNAL, details: 'the registry has failed; its log says why' },
          );
        },
      );
    };
  server.addService(enrollmentService(['Enroll', ...methods.map(({ name }) => name)]), {
    Enroll: serve(enrolMachine),
    ...Object.fromEntries(
      methods.map((method) => [
        method.name,
        serve((call) => method.answer(call, chain.serverName)),
      ]),
    ),
  });
  logger.info({ ...sockets.address }, 'machines may enrol');

  const close = async (): Promise<void> => {
    stopping.abort();
    await sockets[Symbol.asyncDispose]();
    injector.destroy();
    server.forceShutdown();
    await opened[Symbol.asyncDispose]();
  };
  let closed: Promise<void> | undefined;
  return {
    address: sockets.address,
    get connections() {
      return sockets.connections;
    },
    get anchor() {
      return chain.anchor;
    },
    [Symbol.asyncDispose]() {
      closed ??= close();
      return closed;
    },
  };
}

/** What a client may make of a refusal: only the first two may change by themselves. */
const CODES: Readonly<Record<EnrollmentRefusalReason, status>> = {
  unavailable: status.UNAVAILABLE,
  'rate-limited': status.RESOURCE_EXHAUSTED,
  malformed: status.INVALID_ARGUMENT,
  'bad-token': status.UNAUTHENTICATED,
  'token-expired': status.UNAUTHENTICATED,
  'token-revoked': status.UNAUTHENTICATED,
  'token-used-up': status.UNAUTHENTICATED,
  'bad-name': status.PERMISSION_DENIED,
  'unknown-peer': status.UNAUTHENTICATED,
  'wrong-cluster': status.FAILED_PRECONDITION,
  'name-taken': status.ALREADY_EXISTS,
  'bad-key': status.INVALID_ARGUMENT,
  'bad-address': status.PERMISSION_DENIED,
  'address-translated': status.FAILED_PRECONDITION,
  'not-offered': status.FAILED_PRECONDITION,
};

/** As loaded, but whatever bytes come reach our own answer: gRPC's would neither be counted nor logged. */
function enrollmentService(names: readonly string[]): ServiceDefinition {
  const service = loadProtoFile('mesh/wire/registry.proto')[SERVICE];
  const methods = service === undefined || 'format' in service ? undefined : service;
  return Object.fromEntries(
    names.map((name) => {
      const method = methods?.[name];
      if (method === undefined || typeof method !== 'object' || !('requestDeserialize' in method)) {
        throw new Error(`registry.proto does not define ${SERVICE}.${name}`);
      }
      const requestDeserialize = (bytes: Buffer) => {
        if (bytes.length > MAX_REQUEST_BYTES) return UNREADABLE;
        try {
          return method.requestDeserialize(bytes);
        } catch {
          return UNREADABLE;
        }
      };
      return [name, { ...method, requestDeserialize }];
    }),
  );
}

function readChain(read: () => ServerChain, certFile: string): ServerChain {
  try {
    return read();
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw unusable(`cannot let machines enrol with ${certFile}: ${why}`, cause);
  }
}

function unusable(message: string, cause: unknown): RegistryError {
  return new RegistryError('file', message, { retryable: false, cause });
}
