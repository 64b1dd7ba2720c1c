/** What an agent does besides when its node enrols: its certificate, its peers' files, and a session as soon as it may have one. */
import { onAbort } from '../../mesh/runtime/abort-callbacks.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { createCertificateUpkeep } from '../machine/certificate-upkeep.ts';
import { reasonOf } from '../machine/machine-error.ts';
import { makeStateFolder, readCertificates } from '../machine/machine-files.ts';
import { writePeerFiles } from '../machine/peer-files.ts';
import { hostPortText } from '../machine/server-probe.ts';
import {
  createNodeSession,
  type NodeSession,
  type NodeSessionOptions,
} from '../registry/session.ts';
import type { MachineConfig } from '../registry/session-machine.ts';
import { enrolNode, type NodeEnrolmentOptions } from './node-enrolment.ts';
import {
  makePeersFolder,
  type NodeRecord,
  readNodeState,
  removeNodeState,
  writeNodeState,
} from './node-record.ts';

/** How long a start waits for the first attempt to enrol: what is missing then is asked for while the agent runs. */
const FIRST_ATTEMPT_MS = 3000;
const LONG_MS = 60_000;
/** Just below the time between two looks. */
const LOST_MS = 55_000;

/** A session that begins when the node has enrolled. */
export type EnrolledSessionOptions = Omit<
  NodeSessionOptions,
  'registry' | 'otherRegistries' | 'serverName' | 'machine' | 'readTls' | 'onConfig' | 'onForbidden'
>;

/** The part of an agent that is about enrolling. */
export interface NodeAgent {
  /** Why nothing can be read of the own cluster yet, for people; undefined: the node has a certificate. */
  readonly waitingFor: string | undefined;
  /** To run beside the agent's own parts. */
  readonly part: { run(signal: AbortSignal): Promise<void>; problems(): readonly string[] };
  /** The session with the registry that enrolling tells. */
  session(options: EnrolledSessionOptions): NodeSession;
  /** Runs an agent until `signal` aborts, and keeps its certificate fresh. Throws what `runAgent` throws. */
  run(runAgent: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void>;
}

/** Takes up what an earlier process has left, if it is of this node and cluster. Throws MachineError `disk`. */
export function openNodeAgent(
  options: Omit<NodeEnrolmentOptions, 'signal'> & {
    readonly stateDir: string;
    readonly cluster: { readonly name: ClusterName; readonly id: number };
    readonly clock: Clock;
    readonly logger: Logger;
  },
): NodeAgent {
  const { stateDir, server, nodeName, cluster, clock, logger } = options;
  makeStateFolder(stateDir);
  let record = formerRecord(stateDir, { nodeName, cluster, logger });
  makePeersFolder(stateDir);
  const attempted = createBell();
  const enrolled = createBell();
  let current: NodeSession | undefined;
  let leaveRegistry: (() => void) | undefined;
  let peers: MachineConfig['peers'] | undefined;
  let configProblem: string | undefined;
  /** Since when the session is lost, and when this process has enrolled last; monotonic. */
  let lostSince: number | undefined;
  let enrolledAt = Number.NEGATIVE_INFINITY;
  /** The registry knows our certificate and lets nobody in with it: its Node was deleted, or deleted and made anew. */
  let isForbidden = false;

  const upkeep = createCertificateUpkeep({
    stateDir,
    whose: 'this node',
    read: () => readNodeState(stateDir)?.certificates,
    // A registry that is started anew is back within a minute. Else its address, its port or its authority is another one, or this
    // certificate is revoked. Who is told so need not wait, but for a certificate that has only just come: that would not end.
    isSpoilt() {
      if (record !== undefined && hostPortText(record.enrollment) !== hostPortText(server)) {
        return true;
      }
      if (current?.state.kind !== 'disconnected') {
        lostSince = undefined;
        return false;
      }
      const now = clock.monotonic();
      lostSince ??= now;
      return now - (isForbidden ? enrolledAt : lostSince) >= LOST_MS;
    },
    async renew(_attempt, signal) {
      try {
        const state = await enrolNode({ ...options, signal });
        const before = record;
        writeNodeState(stateDir, state);
        record = state.record;
        lostSince = undefined;
        enrolledAt = clock.monotonic();
        const wasForbidden = isForbidden;
        isForbidden = false;
        if (peers !== undefined) writePeerFiles(stateDir, record, peers);
        enrolled.ring();
        const isElsewhere = before !== undefined && !isSameRegistry(before, record);
        if (isElsewhere || wasForbidden) leaveRegistry?.();
      } finally {
        attempted.ring();
      }
    },
    onRenewed: () => undefined,
    clock,
    logger,
  });
  const waitingFor = (): string | undefined =>
    record === undefined
      ? `this node has not enrolled yet: ${upkeep.failure ?? `it is asking ${hostPortText(server)}`}`
      : undefined;
  const onConfig = (config: MachineConfig): void => {
    if (record === undefined) return;
    peers = config.peers;
    try {
      const { added, removed } = writePeerFiles(stateDir, record, peers);
      if (added.length + removed.length > 0) {
        logger.info({ added, removed }, "the cluster's peers have changed");
      }
      upkeep.setTrustBundle(config.trustBundle);
      upkeep.setIssuer(config.issuer);
      configProblem = undefined;
    } catch (error) {
      configProblem = `cannot write what the cluster tells this node: ${reasonOf(error)}`;
      logger.error({ err: error }, 'cannot write what the cluster tells this node');
    }
  };

  const onForbidden = (): void => {
    isForbidden = true;
    upkeep.lookNow();
  };

  const session = (given: EnrolledSessionOptions): NodeSession => ({
    async run(signal, reports) {
      const letGo = onAbort(signal, enrolled.ring);
      while (!signal.aborted) {
        if (record === undefined) {
          await enrolled.wait(LONG_MS, clock);
          enrolled.clear();
          continue;
        }
        const { registry, serverName } = record;
        const readTls = async () => {
          const certificates = readCertificates(stateDir);
          if (certificates === undefined) return undefined;
          const { ca, certificate: cert, key } = certificates;
          return { ca, cert, key };
        };
        const moved = new AbortController();
        leaveRegistry = () => moved.abort();
        current = createNodeSession({
          ...given,
          registry,
          serverName,
          readTls,
          onConfig,
          onForbidden,
        });
        await current.run(AbortSignal.any([signal, moved.signal]), reports);
      }
      letGo();
    },
    reconnect: () => current?.reconnect(),
    get state() {
      return current?.state ?? { kind: 'disconnected', error: waitingFor() ?? 'it begins' };
    },
    describe: () => current?.describe() ?? waitingFor() ?? 'connecting',
  });

  return {
    get waitingFor() {
      return waitingFor();
    },
    part: {
      run: (signal) =>
        new Promise((resolve) => {
          if (signal.aborted) resolve();
          else onAbort(signal, resolve);
        }),
      problems: () => {
        const { failure } = upkeep;
        const renewal =
          failure === undefined
            ? undefined
            : (waitingFor() ?? `the certificate of this node cannot be renewed: ${failure}`);
        return [renewal, configProblem].filter((problem) => problem !== undefined);
      },
    },
    session,
    async run(runAgent, signal) {
      const ended = new AbortController();
      const renewing = upkeep.run(AbortSignal.any([signal, ended.signal]));
      try {
        if (record === undefined) await attempted.wait(FIRST_ATTEMPT_MS, clock);
        await runAgent(signal);
      } finally {
        ended.abort();
        await renewing;
      }
    },
  };
}

/** What enrolling has left for this node; what is of another node or cluster is removed, since nothing of it may be used. */
function formerRecord(
  stateDir: string,
  context: {
    readonly nodeName: string;
    readonly cluster: { readonly name: ClusterName; readonly id: number };
    readonly logger: Logger;
  },
): NodeRecord | undefined {
  const { nodeName, cluster, logger } = context;
  const record = readNodeState(stateDir)?.record;
  if (record === undefined) return undefined;
  const { name, clusterName, clusterId } = record;
  if (name === nodeName && clusterName === cluster.name && clusterId === cluster.id) return record;
  logger.warn({ node: name, cluster: clusterName }, 'what is left of another node is removed');
  removeNodeState(stateDir);
  return undefined;
}

function isSameRegistry(before: NodeRecord, after: NodeRecord): boolean {
  return (
    hostPortText(before.registry) === hostPortText(after.registry) &&
    before.serverName === after.serverName
  );
}
