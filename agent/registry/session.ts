/** The node's session with its own cluster's registry: one long stream, opened again for as long as the agent runs. */
import {
  Client,
  type ClientDuplexStream,
  type MethodDefinition,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import {
  clientChannelOptions,
  clientCredentials,
  dialTarget,
} from '../../mesh/runtime/grpc-client.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import type { AgentReport } from '../../mesh/wire/agent-report.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { PolicyReport } from '../api/status.ts';
import type { LookAtNodes } from '../withdrawal/reach.ts';
import { createAgentReporter } from './agent-reports.ts';
import { followCertificates } from './certificate-change.ts';
import { answerProbe } from './node-probe.ts';
import { createPolicyReporter } from './policy-reports.ts';
import {
  healthMessages,
  type MachineConfig,
  type MachineSide,
  parseMachineConfig,
} from './session-machine.ts';

const SERVICE = 'isthmus.registry.v1.Registry';
const SCHEMA = 1;
/** What was rejected may be accepted when another node has let go of an address. */
const OFFER_AGAIN_MS = 30_000;
/** A stream that lasted this long had no trouble: the next attempt comes soon. */
const LASTING_SESSION_MS = 30_000;
/** Between two looks at how policies stand: this, and so long that looking takes at most this part of a processor. */
const POLICIES_EVERY_MS = 2_000;
const POLICIES_SHARE = 1 / 100;
/** Between two looks at how the agent does; as above, they take at most a hundredth of a processor. */
const REPORT_EVERY_MS = 10_000;

/** What the agent says of its node. */
export interface SessionFacts {
  /** Underlay addresses. */
  readonly addresses: readonly IpAddress[];
  /** Networks of the node's pods; empty when the agent does not know them. */
  readonly podCidrs: readonly IpPrefix[];
  /** Differs after each boot; empty when unknown. */
  readonly bootId: string;
}

/** Options of `createNodeSession`. */
export interface NodeSessionOptions {
  readonly registry: HostPort;
  /** Replicas that are as good: the next is tried when one fails. Default: there are none. */
  readonly otherRegistries?: readonly HostPort[];
  /** The session is that of a machine, certificate `machine-<name>`. Default: that of a node. */
  readonly machine?: MachineSide | undefined;
  /** Of a node: told what the cluster has decided for it, its peers above all. Default: it is not asked for. */
  readonly onConfig?: ((config: MachineConfig) => void) | undefined;
  /** Of a node: looks whether it reaches others. Default: it is not asked. */
  readonly lookAtNodes?: LookAtNodes | undefined;
  /** Called each time that the registry lets the holder of this certificate not in. */
  readonly onForbidden?: (() => void) | undefined;
  /** Certificates, read anew before each connection: those of the own cluster's etcd, common name `node-<name>`. */
  readonly readTls: () => Promise<EtcdTls | undefined>;
  readonly clusterName: ClusterName;
  /** Name that the registry's certificate bears. Default: that of every apiserver, `<cluster>.mesh.cilium.io`. */
  readonly serverName?: string | undefined;
  readonly nodeName: string;
  readonly agentVersion: string;
  readonly facts: SessionFacts;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** How the session stands. */
export type SessionState =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'accepted'; readonly since: number }
  | { readonly kind: 'rejected'; readonly field: string; readonly reason: string }
  | { readonly kind: 'disconnected'; readonly error: string };

/** A node's session with its registry. */
export interface NodeSession {
  /**
   * Keeps the session up until `signal` aborts. Never rejects for want of a registry. `policies`: how they stand now;
   * undefined while that is not known. Default: the registry is not told. `report`: how the agent does, likewise.
   */
  run(
    signal: AbortSignal,
    options?: {
      readonly policies?: () => readonly PolicyReport[] | undefined;
      readonly report?: () => AgentReport;
    },
  ): Promise<void>;
  /** Begins a new stream at once, by the certificates as they are now; the registry keeps what was said before. */
  reconnect(): void;
  readonly state: SessionState;
  /** The state in a few words, for the agent's status. */
  describe(): string;
}

/** An answer as it comes; which of the two is set says what it is. */
interface Answer {
  readonly accepted?: {
    readonly sequence?: number;
    readonly takes_policies?: boolean;
    readonly takes_reports?: boolean;
  };
  readonly rejected?: {
    readonly sequence?: number;
    readonly field?: string;
    readonly reason?: string;
  };
  /** To machines, and to nodes that ask for it. */
  readonly config?: unknown;
  /** To nodes that take it. */
  readonly probe?: unknown;
}

type Stream = ClientDuplexStream<object, Answer>;

/** Makes a session; it does nothing until `run`. */
export function createNodeSession(options: NodeSessionOptions): NodeSession {
  const { clusterName, nodeName, machine, clock, logger } = options;
  const onConfig = machine?.onConfig ?? options.onConfig;
  let state: SessionState = { kind: 'connecting' };
  let wasRejected = false;
  const registries = [options.registry, ...(options.otherRegistries ?? [])];
  let failures = 0;
  let isRenewing = false;
  let leave: (() => void) | undefined;
  const registry = (): HostPort => registries[failures % registries.length] ?? options.registry;
  let policies: () => readonly PolicyReport[] | undefined = () => undefined;
  let ownReport: (() => AgentReport) | undefined;

  const become = (next: SessionState): void => {
    const before = describeState(state);
    state = next;
    if (describeState(next) === before) return;
    const line = { registry: textOf(registry()), state: describeState(next) };
    if (next.kind === 'accepted' || next.kind === 'connecting') {
      logger.info(line, 'session with the registry changed');
    } else logger.warn(line, 'session with the registry changed');
  };
  const offer = (stream: Stream, sequence: number): void => {
    const { addresses, podCidrs, bootId } = options.facts;
    const facts = { sequence, addresses, boot_id: bootId };
    if (machine === undefined) stream.write({ facts: { ...facts, pod_cidrs: podCidrs } });
    else stream.write({ machine: facts });
  };
  const takeConfig = (config: unknown): void => {
    try {
      onConfig?.(parseMachineConfig(config));
    } catch (error) {
      // What it said before stays; the session is worth more than one message.
      logger.error({ err: error }, 'cannot use what the registry has decided');
    }
  };
  /** Tells what the checks of a machine say until `signal` aborts. */
  const reportHealth = async (stream: Stream, signal: AbortSignal): Promise<void> => {
    if (machine === undefined) return;
    for await (const results of machine.results(signal)) {
      for (const message of healthMessages(results)) stream.write(message);
    }
  };
  /** Tells how policies stand, and what changes of it, until `signal` aborts. */
  const report = async (stream: Stream, signal: AbortSignal): Promise<void> => {
    const reporter = createPolicyReporter();
    while (!signal.aborted) {
      const began = clock.monotonic();
      // A registry that is slow is told the latest when it has read what there is.
      const reports = stream.writableNeedDrain ? undefined : policies();
      if (reports !== undefined) {
        for (const message of reporter.next(reports)) stream.write({ policies: message });
      }
      const tookMs = clock.monotonic() - began;
      const pauseMs = Math.max(POLICIES_EVERY_MS, tookMs / POLICIES_SHARE);
      await clock.sleep(pauseMs, signal).catch(() => undefined);
    }
  };
  /** Tells how the agent does, and what changes of it, until `signal` aborts. */
  const reportAgent = async (stream: Stream, signal: AbortSignal): Promise<void> => {
    const reporter = createAgentReporter();
    while (!signal.aborted) {
      const began = clock.monotonic();
      const current = stream.writableNeedDrain ? undefined : ownReport?.();
      const json = current === undefined ? undefined : reporter.next(current, began);
      if (json !== undefined) stream.write({ report: { json } });
      const pauseMs = Math.max(REPORT_EVERY_MS, (clock.monotonic() - began) / POLICIES_SHARE);
      await clock.sleep(pauseMs, signal).catch(() => undefined);
    }
  };
  /**
   * Follows one stream to its end; rejects with what ended it. `onGreeted`: the registry has let us in, and says what it wants
   * to be told of.
   */
  const follow = async (
    stream: Stream,
    {
      signal,
      onGreeted,
    }: {
      readonly signal: AbortSignal;
      readonly onGreeted: (wants: {
        readonly policies: boolean;
        readonly reports: boolean;
      }) => void;
    },
  ): Promise<void> => {
    const hello = { schema: SCHEMA, cluster_name: clusterName, node_name: nodeName };
    const instance =
      machine === undefined
        ? { takes_config: onConfig !== undefined, takes_probes: options.lookAtNodes !== undefined }
        : { instance_id: machine.instanceId, run_id: machine.runId };
    stream.write({ hello: { ...hello, agent_version: options.agentVersion, ...instance } });
    let sequence = 0;
    for await (const message of stream) {
      const answer: Answer = message;
      const { accepted, rejected, config, probe } = answer;
      if (config !== undefined) {
        takeConfig(config);
        continue;
      }
      if (probe !== undefined) {
        void answerProbe(stream, { probe, lookAtNodes: options.lookAtNodes, signal });
        continue;
      }
      const answered = accepted?.sequence ?? rejected?.sequence ?? 0;
      if (rejected !== undefined) {
        const { field = '', reason = '' } = rejected;
        wasRejected = true;
        become({ kind: 'rejected', field, reason });
        if (answered === 0) continue;
        sequence += 1;
        const next = sequence;
        clock.sleep(OFFER_AGAIN_MS, signal).then(
          () => offer(stream, next),
          () => undefined,
        );
      } else if (answered === 0) {
        sequence = 1;
        offer(stream, sequence);
        onGreeted({
          policies: accepted?.takes_policies === true,
          reports: accepted?.takes_reports === true,
        });
      } else if (state.kind !== 'accepted') become({ kind: 'accepted', since: clock.now() });
    }
    throw new Error('the registry ended the session');
  };
  const connectOnce = async (signal: AbortSignal): Promise<void> => {
    const client = await openClient(options, registry());
    // Aborted while files were read: nothing would end the stream then.
    if (signal.aborted) return client.close();
    const ended = new AbortController();
    const stream = openStream(client);
    // An error without a listener would end the process; the iteration meets it, too.
    stream.on('error', () => undefined);
    const cancel = (): void => stream.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    const whileOpen = AbortSignal.any([signal, ended.signal]);
    const onFailure = (error: unknown): void => {
      stream.destroy(error instanceof Error ? error : new Error(String(error)));
    };
    let telling: Promise<unknown> | undefined;
    const onGreeted = (wants: { readonly policies: boolean; readonly reports: boolean }): void => {
      telling ??= Promise.all([
        reportHealth(stream, whileOpen).catch(onFailure),
        ...(wants.policies ? [report(stream, whileOpen).catch(onFailure)] : []),
        ...(wants.reports ? [reportAgent(stream, whileOpen).catch(onFailure)] : []),
      ]);
    };
    leave = cancel;
    try {
      await follow(stream, { signal: whileOpen, onGreeted });
    } finally {
      leave = undefined;
      signal.removeEventListener('abort', cancel);
      ended.abort();
      stream.cancel();
      client.close();
      await telling;
    }
  };

  const keepUp = async (signal: AbortSignal): Promise<void> => {
    const backoff = createBackoff({ minMs: 500, maxMs: 30_000 });
    while (!signal.aborted) {
      const began = clock.monotonic();
      wasRejected = false;
      try {
        await connectOnce(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (isRenewing) {
          isRenewing = false;
          continue;
        }
        failures += 1;
        // What was rejected says more than that the stream has ended then.
        if (!wasRejected) become({ kind: 'disconnected', error: reasonOf(error) });
        if (isForbidden(error)) options.onForbidden?.();
      }
      if (clock.monotonic() - began >= LASTING_SESSION_MS) backoff.reset();
      await clock.sleep(backoff.next(), signal).catch(() => undefined);
    }
  };
  const reconnect = (): void => {
    if (leave === undefined) return;
    isRenewing = true;
    leave();
  };
  /** A machine renews its certificate itself, and says so. */
  const followFiles = async (signal: AbortSignal): Promise<void> => {
    if (machine !== undefined) return;
    const { readTls } = options;
    const serverName = serverNameOf(options);
    const onChange = reconnect;
    await followCertificates({ registry, serverName, readTls, onChange, clock, logger, signal });
  };

  return {
    async run(signal, given) {
      if (given?.policies !== undefined) policies = given.policies;
      ownReport = given?.report;
      await Promise.all([keepUp(signal), followFiles(signal)]);
    },
    reconnect,
    get state() {
      return state;
    },
    describe: () => describeState(state),
  };
}

/** Every apiserver has this name, whatever address it is dialled at. */
function serverNameOf({
  clusterName,
  serverName,
}: Pick<NodeSessionOptions, 'clusterName' | 'serverName'>): string {
  return serverName ?? `${clusterName}.mesh.cilium.io`;
}

async function openClient(options: NodeSessionOptions, registry: HostPort): Promise<Client> {
  const tls = await options.readTls();
  if (tls === undefined) {
    throw new Error('the etcd configuration names no certificates, and the registry asks for one');
  }
  const name = serverNameOf(options);
  const material = {
    ca: Buffer.from(tls.ca),
    cert: Buffer.from(tls.cert),
    key: Buffer.from(tls.key),
  };
  const { host, port } = registry;
  return new Client(
    dialTarget(host, port),
    clientCredentials(material, name),
    clientChannelOptions({ tlsName: name, authority: name }),
  );
}

function openStream(client: Client): Stream {
  const method = sessionMethod();
  return client.makeBidiStreamRequest(
    method.path,
    (message: object) => method.requestSerialize(message),
    (bytes) => method.responseDeserialize(bytes) as Answer,
  );
}

function sessionMethod(): MethodDefinition<object, object> {
  const service = loadProtoFile('mesh/wire/registry.proto')[SERVICE];
  const method = service === undefined || 'format' in service ? undefined : service.Session;
  if (method === undefined || typeof method !== 'object' || !('requestSerialize' in method)) {
    throw new Error(`registry.proto does not define ${SERVICE}.Session`);
  }
  return method;
}

function describeState(state: SessionState): string {
  switch (state.kind) {
    case 'connecting':
      return 'connecting';
    case 'accepted':
      return `accepted since ${new Date(state.since).toISOString()}`;
    case 'rejected':
      return `rejected, ${state.field === '' ? '' : `${state.field}: `}${state.reason}`;
    case 'disconnected':
      return `disconnected: ${state.error}`;
    default:
      return state satisfies never;
  }
}

function textOf({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function isForbidden(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === status.PERMISSION_DENIED;
}

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { details } = error as Partial<ServiceError>;
  return details === undefined || details === '' ? error.message : details;
}
