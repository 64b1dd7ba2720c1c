/**
 * The registry: agents announce their nodes over one long stream each, machines renew their certificates, administrators ask
 * for tokens, all of it under mutual TLS of the own cluster's CA.
 */
import { setMaxListeners } from 'node:events';
import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServiceDefinition,
  status,
} from '@grpc/grpc-js';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { grpcServerOptions } from '../../mesh/runtime/grpc-server.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import { anchorOf } from '../../mesh/wire/enrollment-token.ts';
import type { Caller } from '../gate/caller.ts';
import { type Connections, listenConnections, type Verdict } from '../gate/connections.ts';
import { GateError } from '../gate/gate-error.ts';
import type { MachineTrust } from '../gate/machine-trust.ts';
import type { NodeTrust } from '../gate/node-trust.ts';
import { openTrust, type TrustFiles, type TrustStore } from '../gate/trust.ts';
import type { Admin, AdminCaller, AdminMethod } from './admin.ts';
import type { AgentBoard } from './agent-board.ts';
import { type Backups, backupHandlers } from './backup.ts';
import type { MachineBook } from './machine-book.ts';
import {
  createMachineConfigs,
  type MachineConfigSources,
  type MachineConfigs,
} from './machine-configs.ts';
import { machineNameOf } from './machine-record.ts';
import { machineSubject } from './machine-session.ts';
import { removedReason, unknownReason } from './machine-words.ts';
import type { NodeBook } from './node-book.ts';
import { nodeNameOf } from './node-facts.ts';
import type { NodeProber } from './node-prober.ts';
import { nodeSubject } from './node-session.ts';
import { formerReason, goneReason } from './node-words.ts';
import type { PolicyBoard } from './policy-board.ts';
import { RegistryError } from './registry-error.ts';
import type { Renewal } from './renewal.ts';
import { serveSession } from './session.ts';
import type { SessionSubject } from './session-subject.ts';
import { CallError, unaryHandler } from './unary-call.ts';

/** A node's facts are some hundred bytes; what it says of policies comes in parts of half of this at most. */
const MAX_REQUEST_BYTES = 64 * 1024;
const MAX_STREAMS_PER_CONNECTION = 16;
const EXPIRY_CHECK_MS = 5000;
/** What one call may take of an administrator's or a machine's time. */
const CALL_TIMEOUT_MS = 30_000;
const SERVICE = 'isthmus.registry.v1.Registry';
const ADMIN_SERVICE = 'isthmus.registry.v1.Admin';

/** Options of `listenRegistry`. Peers' CAs have no place here. */
export interface RegistryOptions {
  readonly address: HostPort;
  readonly files: Omit<TrustFiles, 'peerTrustDir'>;
  readonly clusterName: string;
  readonly book: NodeBook;
  /** Whether nodes that enrolled are still there. Default: their certificates alone count. */
  readonly nodes?: NodeTrust | undefined;
  readonly policies: Pick<PolicyBoard, 'open'>;
  /** Is told how agents do. Default: they are not asked. */
  readonly agents?: Pick<AgentBoard, 'open'> | undefined;
  /** Asks nodes whether they reach others. Default: they are not asked. */
  readonly prober?: Pick<NodeProber, 'open'> | undefined;
  /** The machines, and what they are told. Default: machines are refused. */
  readonly machines?: RegistryMachines | undefined;
  /** Answers administrators. Default: they are told that there are no machines in this cluster. */
  readonly admin?: Admin | undefined;
  /** Further methods of the service Admin, by name, for administrators as well. Default: none. */
  readonly moreAdmin?: Readonly<Record<string, AdminMethod>> | undefined;
  /** Tells and takes back what has no other source. Default: administrators are told that it is not done here. */
  readonly backups?: Backups | undefined;
  /** Renews certificates of machines. Default: they are told that it is not done here. */
  readonly renewal?: Renewal | undefined;
  readonly signal: AbortSignal;
  readonly logger: Logger;
  readonly clock?: Clock;
}

/** Machines, as a registry serves them. */
export interface RegistryMachines {
  readonly book: MachineBook;
  readonly sources: MachineConfigSources;
  /** Why no machine is let in, for people; undefined: they are. */
  readonly closedBecause?: string | undefined;
}

/** A listening registry. Disposing ends every session; the nodes stay. */
export interface Registry extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
}

/** Listens. Throws RegistryError when a file is unusable or the port is taken. */
export async function listenRegistry(options: RegistryOptions): Promise<Registry> {
  const { clusterName, policies, logger, clock = systemClock } = options;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const machineTrust = options.machines?.book.trust;
  const trust = await openOwnTrust(options.files, {
    clock,
    signal,
    logger,
    machines: machineTrust,
    nodes: options.nodes,
  });
  const server = new Server({
    ...grpcServerOptions({ maxReceiveBytes: MAX_REQUEST_BYTES }),
    'grpc.max_concurrent_streams': MAX_STREAMS_PER_CONNECTION,
  });
  // TLS ends before, as at the gate: a revoked caller's connections can be cut.
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  /** Addresses of ours that callers came in at, by their own as gRPC names them. */
  const arrivals = new Map<string, string>();
  let connections: Connections;
  try {
    connections = await listenConnections({
      ...options.address,
      trust: trust.trust,
      clusterName,
      now: () => clock.now(),
      onConnection(socket) {
        const peer = `${socket.remoteAddress}:${socket.remotePort}`;
        arrivals.set(peer, socket.localAddress ?? '');
        socket.once('close', () => arrivals.delete(peer));
        injector.injectConnection(socket);
      },
      onRefused: (reason, { name: caller, certificate }, socket) =>
        logger.info(
          { reason, caller, from: socket.remoteAddress, certificate },
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
  // Every session waits for it.
  setMaxListeners(0, closing.signal);
  const configs =
    options.machines === undefined
      ? undefined
      : createMachineConfigs({
          ...options.machines,
          trustBundle: () => trust.trust.bundles.own.map(String).join(''),
          issuer: () => options.renewal?.issuer ?? '',
          clock,
        });
  const bounded = (): AbortSignal =>
    AbortSignal.any([closing.signal, AbortSignal.timeout(CALL_TIMEOUT_MS)]);
  const admitAdmin = (
    call: Pick<ServerDuplexStream<unknown, unknown>, 'getAuthContext'>,
  ): string => {
    const caller = callerOf(call, connections);
    if (caller?.kind === 'admin') return caller.name;
    throw forbidden(caller, `an administrator: expected the common name admin-${clusterName}`);
  };
  const adminCaller = (call: ServerUnaryCall<unknown, unknown>): AdminCaller => {
    const by = admitAdmin(call);
    const peer = call.getPeer();
    const from = peer.replace(/:\d+$/, '').replace(/^::ffff:/, '');
    return { by, from, to: arrivals.get(peer) ?? '', signal: bounded() };
  };
  server.addService(serviceOf(ADMIN_SERVICE), {
    ...backupHandlers(options.backups, (call) => {
      admitAdmin(call);
      return closing.signal;
    }),
    ...adminHandlers(async (call, method) => {
      const caller = adminCaller(call);
      const { admin } = options;
      if (admin === undefined) {
        throw new CallError(status.UNIMPLEMENTED, 'this registry keeps no machines');
      }
      return admin[method](call.request, caller);
    }, logger),
    ...Object.fromEntries(
      Object.entries(options.moreAdmin ?? {}).map(([name, method]) => [
        name,
        unaryHandler(async (call) => method(call.request, adminCaller(call)), logger),
      ]),
    ),
  });
  server.addService(serviceOf(SERVICE), {
    Renew: unaryHandler(async (call) => {
      const caller = callerOf(call, connections);
      if (caller?.kind !== 'machine') {
        throw forbidden(caller, 'a machine: expected the common name machine-<name>');
      }
      const { renewal } = options;
      if (renewal === undefined) {
        throw new CallError(
          status.UNIMPLEMENTED,
          'this registry renews no certificates: start the apiserver with --enrollment-address',
        );
      }
      const signal = bounded();
      const publicKeyHash = publicKeyHashOf(call);
      const { name: commonName } = caller;
      const outcome = await renewal.renew(call.request, { commonName, publicKeyHash, signal });
      if (outcome.kind === 'refused')
        throw new CallError(RENEWAL_CODES[outcome.code], outcome.details);
      return {
        certificate: Buffer.from(outcome.certificate),
        trust_bundle: Buffer.from(outcome.trustBundle),
      };
    }, logger),
    Session(call: ServerDuplexStream<unknown, unknown>) {
      const subject = subjectOf(verdictOf(call, connections), { ...options, clock, configs });
      if ('details' in subject) {
        call.emit('error', { code: status.PERMISSION_DENIED, details: subject.details });
        return;
      }
      void serveSession(call, {
        subject,
        clusterName,
        policies,
        agents: options.agents,
        prober: options.prober,
        clock,
        logger,
        signal: closing.signal,
      });
    },
  });
  const watching = Promise.all([cutExpired(connections, clock, signal), configs?.run(signal)]);
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

const RENEWAL_CODES = {
  malformed: status.INVALID_ARGUMENT,
  forbidden: status.PERMISSION_DENIED,
  unavailable: status.UNAVAILABLE,
} as const;

const ADMIN_METHODS: readonly (keyof Admin)[] = [
  'CreateToken',
  'ListTokens',
  'RevokeToken',
  'ListMachines',
  'GetMachine',
  'LabelMachine',
  'RemoveMachine',
  'SetMachineEndpoint',
  'RemoveMachineEndpoint',
];

/** A handler for each method of the service Admin. */
function adminHandlers(
  answer: (call: ServerUnaryCall<unknown, unknown>, method: keyof Admin) => Promise<object>,
  logger: Logger,
): Record<string, ReturnType<typeof unaryHandler>> {
  return Object.fromEntries(
    ADMIN_METHODS.map((method) => [method, unaryHandler((call) => answer(call, method), logger)]),
  );
}

function forbidden(caller: Caller | undefined, expected: string): CallError {
  const details = `certificate ${JSON.stringify(caller?.name ?? '')} is not of ${expected}`;
  return new CallError(status.PERMISSION_DENIED, details);
}

function serviceOf(name: string): ServiceDefinition {
  const service = loadProtoFile('mesh/wire/registry.proto')[name];
  if (service === undefined || 'format' in service) {
    throw new Error(`registry.proto does not define the service ${name}`);
  }
  return service;
}

type Call = Pick<ServerDuplexStream<unknown, unknown>, 'getAuthContext'>;

/** What the certificate of a caller amounts to. */
function verdictOf(call: Call, connections: Connections): Verdict | undefined {
  const fingerprint = call.getAuthContext().sslPeerCertificate?.fingerprint256;
  return fingerprint === undefined ? undefined : connections.find(fingerprint)?.verdict;
}

/** SHA-256 of the public key (SPKI, DER) of a caller's certificate, lower-case hex. */
function publicKeyHashOf(call: Pick<ServerUnaryCall<unknown, unknown>, 'getAuthContext'>): string {
  const shown = call.getAuthContext().sslPeerCertificate;
  if (shown === undefined) throw new Error('a caller has been found by its certificate');
  return anchorOf(shown.raw).toString('hex');
}

/** A caller whose certificate still counts. */
function callerOf(call: Call, connections: Connections): Caller | undefined {
  const verdict = verdictOf(call, connections);
  return verdict?.kind === 'known' ? verdict.caller : undefined;
}

/** Whose session it would be, or why there can be none, for people. */
function subjectOf(
  verdict: Verdict | undefined,
  context: Pick<RegistryOptions, 'book' | 'machines'> & {
    readonly clock: Clock;
    readonly configs: MachineConfigs | undefined;
  },
): SessionSubject | { readonly details: string } {
  const { book, machines, clock, configs } = context;
  const commonName = verdict?.kind === 'known' ? verdict.caller.name : (verdict?.name ?? '');
  const isKnown = verdict?.kind === 'known';
  const reason = verdict?.kind === 'refused' ? verdict.reason : undefined;
  const node = nodeNameOf(commonName);
  if (node !== undefined) {
    if (isKnown && verdict.caller.kind === 'node') return nodeSubject(node, { book, configs });
    if (reason === 'unknown-node') return { details: goneReason(node) };
    if (reason === 'former-node') return { details: formerReason(node) };
  }
  const machine = machineNameOf(commonName);
  if (machine !== undefined && machines !== undefined && configs !== undefined) {
    if (machines.closedBecause !== undefined) return { details: machines.closedBecause };
    if (isKnown && verdict.caller.kind === 'machine') {
      return machineSubject(machine, { book: machines.book, configs, clock });
    }
    if (reason === 'unknown-machine') return { details: unknownReason(machine) };
    if (reason === 'revoked') return { details: removedReason(machine) };
  }
  return {
    details: `certificate ${JSON.stringify(commonName)} is not of a node or machine of this cluster: expected the common name node-<name> or machine-<name>`,
  };
}

async function openOwnTrust(
  files: Omit<TrustFiles, 'peerTrustDir'>,
  options: {
    readonly clock: Clock;
    readonly signal: AbortSignal;
    readonly logger: Logger;
    readonly machines: MachineTrust | undefined;
    readonly nodes: NodeTrust | undefined;
  },
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
