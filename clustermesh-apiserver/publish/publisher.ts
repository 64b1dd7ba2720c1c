/** From the cluster's records to keys in etcd: identities before the addresses that carry them, markers after everything. */
import type { KvCompare, KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { createDurationCounts } from '../../mesh/runtime/duration-counts.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { BucketCounts } from '../../mesh/runtime/metrics.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';
import type { AnnotationWarning } from '../convert/annotation-warning.ts';
import { type ConversionOptions, createClusterModel } from '../convert/cluster-model.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { Machine } from '../convert/machine.ts';
import type { NodeConflict, NodeFacts } from '../convert/node.ts';
import { kindsOf, PUBLISHED_SETS, type PublishedSet } from '../convert/published-sets.ts';
import { type LeaderTerm, openLeaderLock } from '../kvstoremesh/leader.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import type { ClusterObjectKind } from '../sources/objects.ts';
import { createIdentityAllocator } from './identities.ts';
import { createLatch } from './latch.ts';
import type { SyncStoreStatus } from './sync-store.ts';
import { serveTerm, type Term } from './term.ts';
import { createWantedRecords } from './wanted-records.ts';

/** Options of `createPublisher`. */
export interface PublisherOptions {
  readonly store: KvStore;
  /** How long what is published outlives its publisher. */
  readonly leaseTtlSeconds: number;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** How objects are converted. Default: as those of a cluster with our own agents. */
  readonly conversion?: Omit<ConversionOptions, 'awaited'>;
  /**
   * Kinds that the source tells of, each with its `synced`. With ServiceExport among them Services are exported by the
   * Multi-Cluster Services API. Default: all that the mode of conversion needs, without that one.
   */
  readonly kinds?: readonly ClusterObjectKind[];
  /**
   * Called while this process leads for everything that is newly wrong with an object's annotations, and when it begins to
   * lead for all that is wrong. Default: it is logged only.
   */
  readonly onAnnotationWarning?: (warning: AnnotationWarning) => void;
  readonly logger: Logger;
  readonly clock?: Clock;
  /** How often the heartbeat is written. Default 60,000, which Cilium's readers expect to see at least every two minutes. */
  readonly heartbeatMs?: number;
  /** How long an unused identity is kept, lest a rolling restart change everybody's number. Default 15 minutes. */
  readonly identityGraceMs?: number;
  /**
   * Resolves when the sources have been read anew, and what they told has been handed over. A successor asks for it lest it
   * takes back what its predecessor has seen and it has not yet. Default: the sources tell everything by themselves at once.
   */
  readonly refresh?: (signal: AbortSignal) => Promise<void>;
  /** How long a publisher that has died keeps others from taking its place. Default 5. */
  readonly lockTtlSeconds?: number;
}

/** Whether this process writes. */
export type PublisherRole =
  /** Waits for etcd, or for its turn. */
  | { readonly kind: 'starting' }
  /** It writes; `since` is milliseconds since 1970. */
  | { readonly kind: 'leading'; readonly since: number }
  /** Another replica writes, and this one takes its place when it ends. */
  | { readonly kind: 'standby'; readonly since: number };

/** A set that is not whole in etcd yet. */
export interface OutstandingSet {
  readonly set: PublishedSet;
  /** Kinds of objects that the source has not told all of; none when what was told is on its way to etcd. */
  readonly kinds: readonly ClusterObjectKind[];
}

/** What is published, in numbers. Of a standby: what it would publish. */
export interface PublisherStatus extends SyncStoreStatus {
  readonly role: PublisherRole;
  /**
   * Everything that the sources told at first is in etcd, with its markers; on standby, that the sources have told everything.
   */
  readonly ready: boolean;
  /** What is missing for that. */
  readonly outstanding: readonly OutstandingSet[];
  readonly endpoints: number;
  /** Pods that are left out because the cluster has no number left for their labels. */
  readonly endpointsWithoutIdentity: number;
  /** Some of those labels. */
  readonly labelsWithoutIdentity: readonly string[];
  readonly identities: number;
  /** Everything that is wrong with objects' annotations now. */
  readonly annotationWarnings: readonly AnnotationWarning[];
  /** Terms as a leader since the process began: many of them mean that replicas lose their lock. */
  readonly terms: number;
}

/** Publishes one cluster. */
export interface Publisher {
  /** Publishes what `batches` tells until `signal` aborts. Rejects only on a fault of its own. */
  run(batches: AsyncIterable<readonly ObjectEvent[]>, signal: AbortSignal): Promise<void>;
  /** Takes what a node's agent says of its node, or undefined when nothing counts any more. */
  setNodeFacts(name: string, facts: NodeFacts | undefined): void;
  /** Who else holds what a node says it has. */
  findNodeConflict(name: string, facts: NodeFacts): NodeConflict | undefined;
  /** Takes a machine, or undefined for one that is gone; it is published a little later. */
  setMachine(name: string, machine: Machine | undefined): void;
  /** Who else holds what a machine claims. */
  findMachineConflict(name: string, addresses: readonly IpAddress[]): NodeConflict | undefined;
  /** Networks of the cluster's pods, as its nodes have them. */
  podNetworks(): readonly IpPrefix[];
  /** What is to be checked on a machine. */
  checksOf(machine: Machine): readonly HealthCheck[];
  /** Differs after each change that `checksOf` may answer otherwise for. */
  readonly checksRevision: number;
  readonly status: PublisherStatus;
  /** How long changed keys waited until etcd had them. */
  readonly queueTimes: BucketCounts;
  /** Resolves when `status.ready` first becomes true. */
  readonly ready: Promise<void>;
  /** Resolves when this process first leads or stands by: whoever reads then is told by markers what is whole. */
  readonly begun: Promise<void>;
  /** The lease of what is published while this process leads. */
  readonly lease: KvLease | undefined;
  /** Condition that holds while this process leads; undefined when it does not. */
  readonly fence: KvCompare | undefined;
}

/** Locks of publishers, of whom the oldest leads. */
const PUBLISHER_LOCK_PREFIX = `${REGISTRY_PREFIX}publisher-lock/`;
const DEFAULT_LOCK_TTL_SECONDS = 5;
const IDLE_MS = 60_000;

/**
 * Makes the publisher of one cluster. Of all publishers on one etcd one leads and writes; the others know all that it knows and
 * write nothing. See docs/decisions/0003-replicas.md.
 */
export function createPublisher(options: PublisherOptions): Publisher {
  const { store, cluster, maxConnectedClusters, logger, clock = systemClock } = options;
  const { mode = 'any-cni' } = options.conversion ?? {};
  const kinds = options.kinds ?? kindsOf(mode);
  const model = createClusterModel(cluster, { ...options.conversion, mode, awaited: kinds });
  const identities =
    mode === 'cilium'
      ? undefined
      : createIdentityAllocator({
          store,
          cluster: cluster.name,
          clusterId: cluster.id,
          maxConnectedClusters,
        });
  const wanted = createWantedRecords({
    cluster: cluster.name,
    mode,
    onAnnotationWarning: options.onAnnotationWarning,
    clock,
    logger,
  });
  const queueTimes = createDurationCounts();
  const firstReady = createLatch();
  const begun = createLatch();
  const settings = {
    store,
    cluster,
    maxConnectedClusters,
    leaseTtlSeconds: options.leaseTtlSeconds,
    heartbeatMs: options.heartbeatMs ?? 60_000,
    identityGraceMs: options.identityGraceMs ?? 900_000,
    mode,
    serviceExports: kinds.includes('ServiceExport'),
    identities,
    queueTimes,
    clock,
    logger,
  };
  /** Rings when machines have changed: many of them may, at once. */
  const machinesChanged = createBell();
  let term: Term | undefined;
  let terms = 0;
  let role: PublisherRole = { kind: 'starting' };
  /** One after the other: whoever opens a set's latch must not overtake records that are on their way. */
  let publishing = Promise.resolve();
  const publishRecords = (): Promise<void> => {
    publishing = publishing.then(() => wanted.takeAll(model.records()));
    return publishing;
  };
  const consume = async (batches: AsyncIterable<readonly ObjectEvent[]>): Promise<void> => {
    for await (const batch of batches) {
      const changes = batch.flatMap((event) =>
        event.kind === 'synced' ? [] : [{ object: event.object, exists: event.kind === 'upsert' }],
      );
      model.take(changes);
      await publishRecords();
      const told = batch.flatMap((event) => (event.kind === 'synced' ? event.kinds : []));
      if (told.length === 0) continue;
      model.complete(told);
      await publishRecords();
      wanted.open((set) => model.outstanding(set).length === 0);
      if (role.kind === 'standby' && wanted.isComplete) firstReady.open();
    }
  };
  const publishMachines = async (signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', machinesChanged.ring, { once: true });
    while (!signal.aborted) {
      await machinesChanged.wait(IDLE_MS, clock);
      machinesChanged.clear();
      if (!signal.aborted) await publishRecords();
    }
  };
  const becomeStandby = (): void => {
    if (role.kind === 'standby') return;
    role = { kind: 'standby', since: clock.now() };
    logger.info('another replica publishes, this one stands by');
    begun.open();
    if (wanted.isComplete) firstReady.open();
  };

  /** Stands in the row of publishers, and serves whenever it is this one's turn. */
  const lead = async (signal: AbortSignal): Promise<void> => {
    await using lock = await openLeaderLock(store, {
      clock,
      logger,
      signal,
      ttlSeconds: options.lockTtlSeconds ?? DEFAULT_LOCK_TTL_SECONDS,
      prefix: PUBLISHER_LOCK_PREFIX,
    });
    while (!signal.aborted) {
      const following = new AbortController();
      const followed = identities?.follow(AbortSignal.any([signal, following.signal]));
      let leading: LeaderTerm;
      try {
        leading = await lock.campaign({ signal, onStandby: becomeStandby });
      } finally {
        following.abort();
        await followed;
      }
      const during = AbortSignal.any([signal, leading.over]);
      try {
        if (role.kind === 'standby') await options.refresh?.(during);
        await serveTerm(leading, wanted, {
          ...settings,
          onOpen: (opened) => {
            term = opened;
            wanted.handTo(opened);
            terms += 1;
            role = { kind: 'leading', since: clock.now() };
            begun.open();
            void opened.published.opened(during).then(firstReady.open, () => undefined);
          },
          signal,
        });
      } catch (error) {
        if (!during.aborted) throw error;
      } finally {
        term = undefined;
        wanted.handTo(undefined);
        role = { kind: 'starting' };
      }
      if (!signal.aborted) logger.warn('the lock of the publisher was lost, it is sought again');
    }
  };

  return {
    ready: firstReady.opened(NEVER),
    begun: begun.opened(NEVER),
    queueTimes,
    get lease() {
      return term?.lease;
    },
    get fence() {
      return term?.fence;
    },
    setNodeFacts(name, facts) {
      for (const change of model.setNodeFacts(name, facts)) wanted.take(change);
    },
    findNodeConflict: (name, facts) => model.findNodeConflict(name, facts),
    setMachine(name, machine) {
      model.setMachine(name, machine);
      machinesChanged.ring();
    },
    findMachineConflict: model.findMachineConflict,
    podNetworks: model.podNetworks,
    checksOf: model.checksOf,
    get checksRevision() {
      return model.checksRevision;
    },
    get status() {
      const counts = term?.endpoints?.counts;
      const isWhole = (one: PublishedSet): boolean =>
        term === undefined ? wanted.complete[one].isOpen : term.publishedSets.has(one);
      return {
        ...(term?.sync.status ?? STANDBY_STATUS),
        role,
        ready: role.kind === 'standby' ? wanted.isComplete : (term?.published.isOpen ?? false),
        outstanding: PUBLISHED_SETS.filter((one) => !isWhole(one)).map((one) => ({
          set: one,
          kinds: model.outstanding(one),
        })),
        endpoints: wanted.counts.endpoints,
        endpointsWithoutIdentity: counts?.withoutIdentity ?? 0,
        labelsWithoutIdentity: counts?.labelsWithoutIdentity ?? [],
        identities: (identities?.known.size ?? 0) + wanted.counts.identities,
        annotationWarnings: wanted.annotationWarnings,
        terms,
      };
    },
    async run(batches, signal) {
      const ending = new AbortController();
      const linked = AbortSignal.any([signal, ending.signal]);
      const parts = [consume(batches), lead(linked), publishMachines(linked)];
      try {
        await Promise.all(parts);
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        ending.abort();
        await Promise.allSettled(parts);
      }
    },
  };
}

/** What a publisher that writes nothing says of its writes. */
const STANDBY_STATUS: SyncStoreStatus = {
  keys: 0,
  pending: 0,
  refused: {},
  lastError: undefined,
  errors: 0,
};
const NEVER = new AbortController().signal;
