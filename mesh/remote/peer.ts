import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import { createBackoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { ClusterConfig } from '../wire/cluster-config.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../wire/ids.ts';
import type { IpAddress } from '../wire/ip.ts';
import { retraction } from './accept.ts';
import type { ClusterIds } from './cluster-ids.ts';
import { kindsOffered, readCluster } from './cluster-reader.ts';
import {
  type ClusterRef,
  type ClusterSink,
  MESH_KINDS,
  type MeshKind,
  OWN_KINDS,
  PEER_KINDS,
} from './cluster-sink.ts';
import { createHoldings, type Holdings } from './holdings.ts';
import { explainFailure, PeerError } from './peer-error.ts';
import { createRefusals, type RefusalStatus } from './refusals.ts';

const RETRY_MIN_MS = 250;
const RETRY_MAX_MS = 30_000;

/** Where a cluster stands. Whatever the state, what was read before stays in use until it is known to be gone. */
export type PeerState =
  | { readonly kind: 'connecting' }
  /** Its configuration was accepted; these kinds are still outstanding. */
  | { readonly kind: 'syncing'; readonly outstanding: readonly MeshKind[] }
  | { readonly kind: 'ready' }
  /** The connection broke after it had worked, and is being made again. */
  | { readonly kind: 'disconnected'; readonly reason: string }
  /** Somebody has to do something; tried again all the same. */
  | { readonly kind: 'failed'; readonly reason: string };

/** How to reach a cluster: made of its file. */
export interface PeerConnection {
  /** Differs when anything that a new connection would use differs, certificates included. */
  readonly fingerprint: string;
  readonly endpoints: readonly string[];
  open(signal: AbortSignal): Promise<KvStore>;
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
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A cluster for people. */
export interface PeerStatus {
  readonly name: ClusterName;
  readonly own: boolean;
  readonly clusterId: number | undefined;
  readonly endpoints: readonly string[];
  readonly state: PeerState;
  /** Milliseconds since 1970 at which the state began. */
  readonly since: number;
  readonly config: ClusterConfig['capabilities'] | undefined;
  /** Entries in use by kind. */
  readonly counts: Readonly<Partial<Record<MeshKind, number>>>;
  /** Kinds of which everything has been read in this connection. */
  readonly synced: readonly MeshKind[];
  readonly refused: RefusalStatus;
  /** Connections that failed since the agent started. */
  readonly failures: number;
  /** Latest failure, kept after it has passed. */
  readonly lastError: { readonly message: string; readonly at: number } | undefined;
  /** Why the file of the peer cannot be read at present, while its last good content is in use. */
  readonly fileProblem: string | undefined;
}

/** One cluster that is read. */
export interface Peer {
  readonly name: ClusterName;
  /** Takes a new connection: what is held stays, and is compared with what the new connection lists. */
  connectWith(connection: PeerConnection): void;
  setFileProblem(problem: string | undefined): void;
  /** Ends only with `signal`; takes nothing back. */
  run(signal: AbortSignal): Promise<void>;
  /** Takes back everything the cluster said, and frees its id. To be called after `run` has ended. */
  drain(): void;
  status(): PeerStatus;
}

/** Mutable facts of one cluster, shared by the loop and the session that reads it. */
export interface PeerFacts {
  ref: ClusterRef | undefined;
  config: ClusterConfig | undefined;
  /** Why the cluster is not being read. */
  problem: Extract<PeerState, { reason: string }> | undefined;
  /** Its configuration was accepted over the connection of now. */
  reading: boolean;
  readonly synced: Set<MeshKind>;
  /** Watches that have lost their connection, with why. */
  readonly broken: Map<string, KvError>;
  readonly holdings: Holdings;
  readonly refusals: ReturnType<typeof createRefusals>;
  /** To be called after a change that may change the state. */
  changed(): void;
}

/** Makes a cluster that is not read yet. */
export function createPeer(name: ClusterName, context: PeerContext): Peer {
  const { clock, ids, sink } = context;
  const own = name === context.own.name;
  const logger = context.logger.child({ cluster: name });
  const kinds = own ? OWN_KINDS : (context.peerKinds ?? PEER_KINDS);
  const backoff = createBackoff({ minMs: RETRY_MIN_MS, maxMs: RETRY_MAX_MS });
  let connection: PeerConnection | undefined;
  let reconnect = new AbortController();
  let fileProblem: string | undefined;
  let failures = 0;
  let lastError: PeerStatus['lastError'];
  let state: PeerState = { kind: 'connecting' };
  let since = clock.now();

  const facts: PeerFacts = {
    ref: undefined,
    config: undefined,
    problem: undefined,
    reading: false,
    synced: new Set(),
    broken: new Map(),
    holdings: createHoldings(),
    refusals: createRefusals(),
    changed: () => setState(stateOf(facts, kinds)),
  };

  const setState = (next: PeerState): void => {
    const reason = 'reason' in next ? next.reason : undefined;
    const before = 'reason' in state ? state.reason : undefined;
    if (reason !== undefined && reason !== before) {
      lastError = { message: reason, at: clock.now() };
      logger.warn({ reason }, 'cluster cannot be read, what is known of it stays in use');
    }
    if (next.kind !== state.kind) {
      since = clock.now();
      if (reason === undefined) logger.info({ state: next.kind }, 'cluster changed state');
      if (next.kind === 'ready') backoff.reset();
    }
    state = next;
  };

  const attempt = async (target: PeerConnection, signal: AbortSignal): Promise<void> => {
    facts.synced.clear();
    facts.broken.clear();
    facts.reading = false;
    await using store = await target.open(signal);
    await readCluster(store, { name, own, kinds, context, facts, logger, signal });
  };

  const drain = (): void => {
    for (const kind of [...MESH_KINDS].reverse()) {
      for (const heldName of facts.holdings.takeAll(kind)) {
        if (facts.ref !== undefined) sink.apply(facts.ref, retraction(kind, heldName), undefined);
      }
    }
    if (facts.ref === undefined) return;
    const { ref } = facts;
    sink.removed(ref);
    facts.ref = undefined;
    facts.config = undefined;
    facts.refusals.clearAll();
    ids.release(ref.id, name);
  };

  /** Notes what a connection died of. */
  const conclude = (error: unknown): void => {
    facts.reading = false;
    facts.broken.clear();
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
      facts.problem = { kind: problemKind(error, facts.ref), reason: explainFailure(error, name) };
    }
    facts.changed();
  };

  return {
    name,
    connectWith(next) {
      if (connection?.fingerprint === next.fingerprint) return;
      connection = next;
      reconnect.abort();
    },
    setFileProblem(problem) {
      if (problem === fileProblem) return;
      fileProblem = problem;
      if (problem === undefined) return;
      lastError = { message: problem, at: clock.now() };
      logger.warn({ reason: problem }, 'file of the cluster cannot be used');
    },
    async run(signal) {
      while (!signal.aborted) {
        reconnect = new AbortController();
        const attemptSignal = AbortSignal.any([signal, reconnect.signal]);
        if (connection === undefined) {
          await clock.sleep(RETRY_MAX_MS, attemptSignal).catch(() => undefined);
          continue;
        }
        try {
          await attempt(connection, attemptSignal);
        } catch (error) {
          if (signal.aborted) return;
          // A new file is a new start; what the old connection died of is of no interest.
          if (!reconnect.signal.aborted) conclude(error);
        }
        await clock.sleep(backoff.next(), attemptSignal).catch(() => undefined);
        if (reconnect.signal.aborted) {
          backoff.reset();
          facts.problem = undefined;
          facts.reading = false;
          facts.changed();
        }
      }
    },
    drain,
    status: () => ({
      name,
      own,
      clusterId: facts.ref?.id,
      endpoints: connection?.endpoints ?? [],
      state:
        connection === undefined && fileProblem !== undefined
          ? { kind: 'failed', reason: fileProblem }
          : state,
      since,
      config: facts.config?.capabilities,
      counts: Object.fromEntries(kinds.map((kind) => [kind, facts.holdings.count(kind)])),
      synced: [...facts.synced],
      refused: facts.refusals.status(),
      failures,
      lastError,
      fileProblem,
    }),
  };
}

function stateOf(facts: PeerFacts, kinds: readonly MeshKind[]): PeerState {
  if (facts.problem !== undefined) return facts.problem;
  const [broken] = facts.broken.values();
  if (broken !== undefined) {
    return {
      kind: problemKind(broken, facts.ref),
      reason: explainFailure(broken, facts.ref?.name ?? ''),
    };
  }
  if (!facts.reading) return { kind: 'connecting' };
  const offered = facts.config === undefined ? kinds : kindsOffered(kinds, facts.config);
  const outstanding = offered.filter((kind) => !facts.synced.has(kind));
  return outstanding.length === 0 ? { kind: 'ready' } : { kind: 'syncing', outstanding };
}

/** A connection that worked once and only needs time is disconnected; all else needs somebody. */
function problemKind(error: unknown, ref: ClusterRef | undefined): 'disconnected' | 'failed' {
  const passing = error instanceof KvError && error.retryable && error.code !== 'unauthenticated';
  return passing && ref !== undefined ? 'disconnected' : 'failed';
}
