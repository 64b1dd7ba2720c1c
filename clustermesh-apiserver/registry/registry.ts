/** The registry: agents announce their nodes over one long stream each, under mutual TLS of the own cluster's CA. */
import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServiceDefinition,
  status,
} from '@grpc/grpc-js';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { grpcServerOptions } from '../../mesh/runtime/grpc-server.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { type Connections, listenConnections } from '../gate/connections.ts';
import { GateError } from '../gate/gate-error.ts';
import { openTrust, type TrustFiles, type TrustStore } from '../gate/trust.ts';
import type { NodeBook } from './node-book.ts';
import { nodeNameOf } from './node-facts.ts';
import type { PolicyBoard } from './policy-board.ts';
import { RegistryError } from './registry-error.ts';
import { serveSession } from './session.ts';

/** A node's facts are some hundred bytes; what it says of policies comes in parts of half of this at most. */
const MAX_REQUEST_BYTES = 64 * 1024;
const MAX_STREAMS_PER_CONNECTION = 16;
const EXPIRY_CHECK_MS = 5000;
const SERVICE = 'isthmus.registry.v1.Registry';

/** Options of `listenRegistry`. Peers' CAs have no place here. */
export interface RegistryOptions {
  readonly address: HostPort;
  readonly files: Omit<TrustFiles, 'peerTrustDir'>;
  readonly clusterName: string;
  readonly book: NodeBook;
  readonly policies: Pick<PolicyBoard, 'open'>;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly clock?: Clock;
}

/** A listening registry. Disposing ends every session; the nodes stay. */
export interface Registry extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
}

/** Listens. Throws RegistryError when a file is unusable or the port is taken. */
export async function listenRegistry(options: RegistryOptions): Promise<Registry> {
  const { clusterName, book, policies, logger, clock = systemClock } = options;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const trust = await openOwnTrust(options.files, { clock, signal, logger });
  const server = new Server({
    ...grpcServerOptions({ maxReceiveBytes: MAX_REQUEST_BYTES }),
    'grpc.max_concurrent_streams': MAX_STREAMS_PER_CONNECTION,
  });
  // TLS ends before, as at the gate: a revoked caller's connections can be cut.
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  let connections: Connections;
  try {
    connections = await listenConnections({
      ...options.address,
      trust: trust.trust,
      clusterName,
      now: () => clock.now(),
      onConnection: (socket) => injector.injectConnection(socket),
      onRefused: (reason, caller, socket) =>
        logger.info(
          { reason, caller, from: socket.remoteAddress },
          'a connection to the registry was refused',
        ),
      onError: (error) => logger.error({ err: error }, 'the registry cannot accept a connection'),
      onCut: (caller, reason, count) =>
        logger.warn({ caller, reason, connections: count }, 'connections to the registry were cut'),
    });
  } catch (error) {
    stopping.abort();
    await trust[Symbol.asyncDispose]();
    throw toRegistryError(error, options.address);
  }
  trust.onChange(() => connections.update(trust.trust));
  const closing = new AbortController();
  server.addService(registryService(), {
    Session(call: ServerDuplexStream<unknown, unknown>) {
      const caller = callerOf(call, connections);
      const node = caller === undefined ? undefined : nodeNameOf(caller);
      if (node === undefined) {
        const details = `certificate ${JSON.stringify(caller ?? '')} is not of a node: expected the common name node-<name>`;
        call.emit('error', { code: status.PERMISSION_DENIED, details });
        return;
      }
      void serveSession(call, {
        node,
        clusterName,
        book,
        policies,
        clock,
        logger,
        signal: closing.signal,
      });
    },
  });
  const watching = cutExpired(connections, clock, signal);
  logger.info({ ...connections.address }, 'the registry is open');

  const close = async (): Promise<void> => {
    closing.abort();
    stopping.abort();
    await connections[Symbol.asyncDispose]();
    injector.destroy();
    server.forceShutdown();
    await trust[Symbol.asyncDispose]();
    await watching;
  };
  let closed: Promise<void> | undefined;
  return {
    address: connections.address,
    [Symbol.asyncDispose]() {
      closed ??= close();
      return closed;
    },
  };
}

function registryService(): ServiceDefinition {
  const service = loadProtoFile('mesh/wire/registry.proto')[SERVICE];
  if (service === undefined || 'format' in service) {
    throw new Error(`registry.proto does not define the service ${SERVICE}`);
  }
  return service;
}

/** Common name of a caller whose certificate still counts. */
function callerOf(
  call: Pick<ServerDuplexStream<unknown, unknown>, 'getAuthContext'>,
  connections: Connections,
): string | undefined {
  const fingerprint = call.getAuthContext().sslPeerCertificate?.fingerprint256;
  const verdict = fingerprint === undefined ? undefined : connections.find(fingerprint)?.verdict;
  if (verdict === undefined) return undefined;
  return verdict.kind === 'known' && verdict.caller.kind === 'node'
    ? verdict.caller.name
    : undefined;
}

async function openOwnTrust(
  files: Omit<TrustFiles, 'peerTrustDir'>,
  options: { readonly clock: Clock; readonly signal: AbortSignal; readonly logger: Logger },
): Promise<TrustStore> {
  const { certFile, keyFile, ownCaFile, revokedFile } = files;
  try {
    return await openTrust({ certFile, keyFile, ownCaFile, revokedFile }, options);
  } catch (error) {
    throw toRegistryError(error, undefined);
  }
}

function toRegistryError(error: unknown, address: HostPort | undefined): unknown {
  if (!(error instanceof GateError)) return error;
  const { code, retryable } = error;
  const host = address?.host.includes(':') ? `[${address.host}]` : address?.host;
  const message =
    code === 'port-taken'
      ? `cannot listen on ${host}:${address?.port}: the port is taken; free it or choose another with --registry-address`
      : error.message;
  return new RegistryError(code, message, { retryable, cause: error });
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
