import type { KvError, KvStore } from '../kvstore/kvstore.ts';
import { createBackoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { ClusterConfig } from '../wire/cluster-config.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../wire/ids.ts';
import type { IpAddress } from '../wire/ip.ts';
import { type Announced, type CidrLists, type Contest, createAnnounced } from './announced.ts';
import type { ClusterIds } from './cluster-ids.ts';
import { kindsOffered } from './cluster-reader.ts';
import {
  type ClusterRef,
  type ClusterSink,
  MESH_KINDS,
  type MeshKind,
  OWN_KINDS,
  PEER_KINDS,
} from './cluster-sink.ts';
import { createConnectionChoice } from './connection-choice.ts';
import { createHeartbeat, type HeartbeatView } from './heartbeat.ts';
import { createIntake, type Intake, type IntakeStatus } from './intake.ts';
import type { KindVerification } from './kind-reader.ts';
import type { LagBook, LagStatus } from './lag.ts';
import { DEFAULT_STALE_AFTER_MS } from './liveness.ts';
import { createMirrorReports } from './mirror-report.ts';
import { refuseOwnStore } from './own-store.ts';
import { explainFailure, PeerError } from './peer-error.ts';
import { createPeerIntake, type IntakeLimits, type PeerIntake } from './peer-intake.ts';
import { createStateKeeper } from './peer-life.ts';
import { runSession } from './peer-session.ts';
import {
  type BackendUse,
  isMirrorBad,
  notesOf,
  type PeerNote,
  type PeerProblem,
  type PeerState,
  problemKind,
} from './peer-state.ts';
import type { RefusalStatus } from './refusals.ts';

const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 30_000;
/** A connection that lasted this long was a success: the next attempt comes soon. */
const LASTING_MS = 10_000;
/** How long a cluster that came back may be unlike its server. */
const MISMATCH_PATIENCE_MS = 60_000;

/** Contested ranges that a status shows. */
const MOST_CONTESTS_SHOWN = 10;

/** How to reach a cluster: made of its file. */
export interface PeerConnection {
  /** Differs when anything that a new connection would use differs, certificates included. */
  readonly fingerprint: string;
  readonly endpoints: readonly string[];
  /** When the first certificate of its file runs out, milliseconds since 1970. Absent: it has none. */
  readonly certificateExpiresAt?: number | undefined;
  /** From when on it should have been renewed. Absent: as above. */
  readonly certificateDueAt?: number | undefined;
  /** Resolves names anew each time. */
  open(signal: AbortSignal): Promise<KvStore>;
  /** Whether the names in the endpoints lead elsewhere than the connection that was opened last. Absent: they never do. */
  haveMoved?(state: { readonly isBroken: boolean }): Promise<boolean>;
  /** What is wrong with certificates, after it has failed with this error. Absent: it has none. */
  explain?(error: unknown): string | undefined;
}

/** What is the same for all clusters that an agent reads. */
export interface PeerContext {
  readonly own: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  readonly nodeIps: readonly IpAddress[];
  readonly sink: ClusterSink;
  /** What is read from peers. Default: what an agent needs. */
  readonly peerKinds?: readonly MeshKind[];
  /** Cluster ids in use; shared by all peers of an agent. */
  readonly ids: ClusterIds;
  /** Told when a cluster's id is known. */
  readonly onIdentified: (name: ClusterName, id: ClusterId) => void;
  /** Silence after which a cluster is stale, in milliseconds. Default 30,000. */
  readonly staleAfterMs?: number;
  /** How long a cluster that was stale must last before it is trusted again, in milliseconds. Default 5,000. */
  readonly settleMs?: number;
  /** The own cluster's etcd as it names itself, once that is known: what answers with it is no peer but ourselves. */
  readonly ownStoreId?: () => string | undefined;
  /** Whether endpoints are those of the own cluster: a peer that is read there is read from our own mirror. */
  readonly isOwnEtcd?: (endpoints: readonly string[]) => boolean;
  /** Where it is measured how late changes come into use. Default: nowhere. */
  readonly lag?: LagBook;
  /** Which addresses each cluster may announce; shared by all peers of an agent. */
  readonly announced: Announced;
  /** Shares the thread between clusters. */
  readonly intake: Intake;
  /** Bounds on what one cluster may have here. */
  readonly limits?: IntakeLimits;
  /** Whether backends are checked against addresses; not where values are only handed on. Default true. */
  readonly checksBackends?: boolean;
  /** The longest wait before a list is read again for a mismatch, in milliseconds. Default 5,000. */
  readonly relistJitterMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What a test or a mesh need not give. */
export type PeerContextInput = Omit<PeerContext, 'announced' | 'intake'> &
  Partial<Pick<PeerContext, 'announced' | 'intake'>>;

/** A cluster for people. */
export interface PeerStatus {
  readonly name: ClusterName;
  readonly own: boolean;
  readonly clusterId: number | undefined;
  readonly endpoints: readonly string[];
  readonly state: PeerState;
  /** Milliseconds since 1970 at which the state began. */
  readonly since: number;
  /** What is odd although the state may be fine. */
  readonly notes: readonly PeerNote[];
  /** Whether it has been ready since this process began. */
  readonly wasReady: boolean;
  /** How services use its backends. */
  readonly use: BackendUse;
  /** How often its backends were withdrawn since this process began. */
  readonly revocations: number;
  /** Its heartbeat, by our clock; undefined while none was seen. */
  readonly heartbeat: HeartbeatView | undefined;
  readonly config: ClusterConfig['capabilities'] | undefined;
  /** Entries in use by kind. */
  readonly counts: Readonly<Partial<Record<MeshKind, number>>>;
  /** Kinds of which everything has been read in this connection. */
  readonly synced: readonly MeshKind[];
  /** How often the whole of a kind was read since the process began: the first time, and after each loss of the thread. */
  readonly lists: Readonly<Partial<Record<MeshKind, number>>>;
  readonly refused: RefusalStatus;
  /** What the comparison of each kind with its server said last. */
  readonly verified: readonly KindVerification[];
  /** What lists took away and is held back, with the number of entries. */
  readonly heldBack: readonly { readonly kind: MeshKind; readonly count: number }[];
  /** Backends that do not count, since the cluster's own tables do not have their addresses. */
  readonly unknownBackends: { readonly count: number; readonly examples: readonly string[] };
  /** Events on their way into use. */
  readonly intake: IntakeStatus;
  /** What it may announce: a person's list, or how many ranges were learned from its nodes; and what it may not have. */
  readonly announces: {
    readonly list: CidrLists | undefined;
    readonly learned: number;
    readonly contested: readonly Contest[];
  };
  /** Connections that failed since the agent started. */
  readonly failures: number;
  /** Latest failure, kept after it has passed. */
  readonly lastError: { readonly message: string; readonly at: number } | undefined;
  /** Why the file of the peer cannot be read at present, while its last good content is in use. */
  readonly fileProblem: string | undefined;
  /** How late its changes come into use; undefined where that is not measured. */
  readonly lag: LagStatus | undefined;
  /** When the certificate by which we are let in runs out, milliseconds since 1970; undefined without one. */
  readonly certificateExpiresAt: number | undefined;
  /** From when on it should have been renewed. */
  readonly certificateDueAt?: number | undefined;
}

/** How alive a cluster is, for who decides whether its backends are used. */
export interface PeerLife {
  readonly name: ClusterName;
  /** Undefined until its configuration was accepted. */
  readonly clusterId: ClusterId | undefined;
  /** Whether it is to be trusted less: silent for too long, or not back for long enough. */
  readonly isStale: boolean;
  /** Milliseconds since its control plane last gave a sign of life, or since it became known to us. */
  readonly silentMs: number;
  /** `mirror`: what is silent is our own mirror of it, and of the cluster itself nothing is known. */
  readonly cause: 'peer' | 'mirror';
}

/** One cluster that is read. */
export interface Peer {
  readonly name: ClusterName;
  /** Takes a new connection: what is held stays, and is compared with what the new connection lists. */
  connectWith(connection: PeerConnection): void;
  setFileProblem(problem: string | undefined): void;
  /** Tells what became of its backends, to be shown. */
  setUse(use: BackendUse): void;
  /** Ends only with `signal`; takes nothing back. */
  run(signal: AbortSignal): Promise<void>;
  /** Takes back everything the cluster said, and frees its id. To be called after `run` has ended. */
  drain(): void;
  status(): PeerStatus;
  /** How alive it is. */
  life(): PeerLife;
  /** Backends of its service `namespace/name` that do not count, as `unknownBackends` of its status counts them. */
  unknownBackendsOf(service: string): readonly IpAddress[];
}

/** Mutable facts of one cluster, shared by the loop and the session that reads it. */
export interface PeerFacts {
  ref: ClusterRef | undefined;
  config: ClusterConfig | undefined;
  /** Why the cluster is not being read. */
  problem: PeerProblem | undefined;
  /** Its configuration was accepted over the connection of now. */
  reading: boolean;
  readonly synced: Set<MeshKind>;
  /** How often the whole of a kind was read since the process began. */
  readonly lists: Map<MeshKind, number>;
  /** Watches that have lost their connection, with why. */
  readonly broken: Map<string, KvError>;
  readonly intake: PeerIntake;
  readonly verified: Map<MeshKind, KindVerification>;
  /** To be called after a change that may change the state. */
  changed(): void;
  /** To be called for whatever a server sends. */
  sign(): void;
}

/** A mismatch that stays after another list is shown to people, and holds nobody up for ever. */
function isProven(verified: KindVerification | undefined, now: number): boolean {
  if (verified === undefined) return false;
  return verified.result !== 'mismatch' || now - verified.at > MISMATCH_PATIENCE_MS;
}

/** Makes a cluster that is not read yet. */
export function createPeer(name: ClusterName, input: PeerContextInput): Peer {
  const context: PeerContext = {
    ...input,
    announced: input.announced ?? createAnnounced({ own: input.own.name, mode: 'learn' }),
    intake: input.intake ?? createIntake(),
  };
  const { clock, ids, sink, staleAfterMs = DEFAULT_STALE_AFTER_MS } = context;
  const own = name === context.own.name;
  const logger = context.logger.child({ cluster: name });
  const kinds = own ? OWN_KINDS : (context.peerKinds ?? PEER_KINDS);
  const retry = { minMs: RETRY_MIN_MS, maxMs: RETRY_MAX_MS };
  const backoff = createBackoff(retry);
  const heartbeat = createHeartbeat(clock);
  const reports = createMirrorReports(clock);
  const check = (store: KvStore, signal: AbortSignal): Promise<void> =>
    refuseOwnStore(store, name, { ...context, signal });
  const choice = createConnectionChoice({ name, retry, check, clock, logger });
  let fileProblem: string | undefined;
  let mirrorUnreadable: string | undefined;
  let failures = 0;
  let use: BackendUse = { level: 'none', reason: '' };
  let revocations = 0;

  const isMirrored = (): boolean =>
    !own &&
    (facts.config?.capabilities.cached === true ||
      (context.isOwnEtcd?.(choice.current?.endpoints ?? []) ?? false));

  const keeper = createStateKeeper({
    ...context,
    staleAfterMs,
    logger,
    look: () => {
      const [broken] = facts.broken.values();
      const offered = facts.config === undefined ? kinds : kindsOffered(kinds, facts.config);
      return {
        name,
        problem: facts.problem,
        broken,
        finding: broken === undefined ? undefined : choice.current?.explain?.(broken),
        isReading: facts.reading,
        outstanding: offered.filter((kind) => !facts.synced.has(kind)),
        unproven: offered.filter((kind) => !isProven(facts.verified.get(kind), clock.now())),
        use,
        mirror: isMirrored() ? reports.view() : undefined,
      };
    },
  });

  const facts: PeerFacts = {
    ref: undefined,
    config: undefined,
    problem: undefined,
    reading: false,
    synced: new Set(),
    lists: new Map(),
    broken: new Map(),
    intake: createPeerIntake({ ...context, cluster: name, isOwn: own, logger }),
    verified: new Map(),
    changed: () => keeper.changed(),
    sign: () => {
      if (facts.reading) keeper.sign();
    },
  };

  const session = {
    name,
    own,
    kinds,
    context,
    facts,
    logger,
    choice,
    heartbeat,
    reports,
    isMirrored,
    isFresh: () => keeper.life.kind === 'fresh',
    onMirrorReadable: (problem: string | undefined) => {
      mirrorUnreadable = problem;
    },
  };

  const drain = (): void => {
    facts.intake.drain(MESH_KINDS);
    if (facts.ref === undefined) return;
    const { ref } = facts;
    sink.removed(ref);
    facts.ref = undefined;
    facts.config = undefined;
    facts.verified.clear();
    keeper.reset();
    ids.release(ref.id, name);
  };

  /** Notes what a connection died of. */
  const conclude = (error: unknown): void => {
    facts.reading = false;
    facts.broken.clear();
    choice.giveUp();
    if (error instanceof PeerError && error.code === 'id-changed') {
      logger.warn(
        { reason: error.message },
        'cluster has another id now, what it said before is taken back',
      );
      drain();
      facts.problem = undefined;
    } else if (error instanceof PeerError && error.code === 'store-replaced') {
      logger.warn({ reason: error.message }, 'cluster is read anew');
      facts.problem = undefined;
    } else {
      failures += 1;
      const { wasReady } = keeper.situation();
      const finding = choice.current?.explain?.(error);
      facts.problem = {
        kind: problemKind(error, wasReady),
        reason: explainFailure(error, name, finding),
      };
    }
    facts.changed();
  };

  const connectAgain = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      const leaving = choice.begin();
      const attemptSignal = AbortSignal.any([signal, leaving]);
      const { current } = choice;
      if (current === undefined) {
        await clock.sleep(RETRY_MAX_MS, attemptSignal).catch(() => undefined);
        continue;
      }
      const began = clock.monotonic();
      try {
        await runSession(current, attemptSignal, session);
      } catch (error) {
        if (signal.aborted) return;
        // A new file is a new start; what the old connection died of is of no interest.
        if (!leaving.aborted) conclude(error);
      }
      if (clock.monotonic() - began > LASTING_MS) backoff.reset();
      await clock.sleep(backoff.next(), attemptSignal).catch(() => undefined);
      if (leaving.aborted) {
        backoff.reset();
        facts.problem = undefined;
        facts.reading = false;
        facts.changed();
      }
    }
  };

  return {
    name,
    connectWith: (next) =>
      choice.offer(next, { isWorking: facts.reading && facts.broken.size === 0 }),
    setFileProblem(problem) {
      if (problem === fileProblem) return;
      fileProblem = problem;
      if (problem === undefined) return;
      keeper.noteError(problem);
      logger.warn({ reason: problem }, 'file of the cluster cannot be used');
    },
    setUse(next) {
      if (next.level === 'gone' && use.level !== 'gone') revocations += 1;
      use = next;
      keeper.changed();
    },
    async run(signal) {
      await Promise.all([connectAgain(signal), keeper.follow(signal)]);
      await choice.end();
    },
    drain,
    unknownBackendsOf: (service) => facts.intake.backends.missingOf(service),
    life: () => {
      const { life } = keeper;
      const mirror = isMirrored() ? reports.view() : undefined;
      return {
        name,
        clusterId: facts.ref?.id,
        isStale: life.kind !== 'fresh',
        silentMs: life.kind === 'returning' ? 0 : keeper.silentMs,
        cause:
          mirror !== undefined && !(mirror.kind === 'reports' && isMirrorBad(mirror))
            ? 'mirror'
            : 'peer',
      };
    },
    status: () => {
      const situation = keeper.situation();
      const beats = situation.mirror === undefined ? heartbeat.view() : undefined;
      return {
        name,
        own,
        clusterId: facts.ref?.id,
        endpoints: choice.current?.endpoints ?? [],
        state:
          choice.current === undefined && fileProblem !== undefined
            ? { kind: 'failed', reason: fileProblem }
            : keeper.state,
        since: keeper.since,
        notes: notesOf(situation, {
          heartbeat: beats,
          fileRefused: choice.refused,
          mirrorUnreadable,
          staleAfterMs,
        }),
        wasReady: situation.wasReady,
        use,
        revocations,
        heartbeat: beats,
        config: facts.config?.capabilities,
        counts: Object.fromEntries(kinds.map((kind) => [kind, facts.intake.holdings.count(kind)])),
        synced: [...facts.synced],
        lists: Object.fromEntries(facts.lists),
        refused: facts.intake.refusals.status(),
        verified: [...facts.verified.values()],
        heldBack: facts.intake.heldBack().map(({ kind, count }) => ({ kind, count })),
        unknownBackends: {
          count: facts.intake.backends.missing,
          examples: facts.intake.backends.examples(),
        },
        intake: context.intake.status(name),
        announces: {
          list: context.announced.listOf(name),
          learned: context.announced.learned(name).length,
          contested: context.announced
            .contests()
            .filter(({ cluster }) => cluster === name)
            .slice(0, MOST_CONTESTS_SHOWN),
        },
        failures,
        lastError: keeper.lastError,
        fileProblem,
        lag: context.lag?.meterOf(name).status(),
        certificateExpiresAt: choice.current?.certificateExpiresAt,
        certificateDueAt: choice.current?.certificateDueAt,
      };
    },
  };
}
