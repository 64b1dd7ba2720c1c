/** What a publisher does while it leads: it brings etcd from whatever a predecessor left to what is wanted, and keeps it so. */
import type { KvCompare, KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { DurationCounts } from '../../mesh/runtime/duration-counts.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import {
  CANARY_PREFIXES,
  CLUSTER_CONFIG_PREFIX,
  HEARTBEAT_KEY,
  type PublishedKind,
  syncedKey,
  syncedPrefix,
} from '../../mesh/wire/keys.ts';
import { encodeTimestamp } from '../../mesh/wire/timestamp.ts';
import {
  type ConversionMode,
  PUBLISHED_SETS,
  type PublishedSet,
} from '../convert/published-sets.ts';
import type { EndpointRecord } from '../convert/records.ts';
import type { LeaderTerm } from '../kvstoremesh/leader.ts';
import { enforceClusterConfig } from './cluster-config.ts';
import { createDigests } from './digests.ts';
import { createEndpointPublisher, type EndpointPublisher } from './endpoints.ts';
import type { IdentityAllocator } from './identities.ts';
import { createLatch, type Latch } from './latch.ts';
import {
  openPublishedLease,
  PUBLISHED_LEASE_KEY,
  PUBLISHED_LEASE_VALUE,
} from './published-lease.ts';
import { prefixOfSet } from './record-keys.ts';
import { createStamper } from './stamp.ts';
import { createSyncStore, type SyncStore } from './sync-store.ts';
import { untilAnswered } from './until-answered.ts';

/** What is wanted; it goes on to change during a term. */
export interface Wanted {
  /** Values by key; addresses apart, since their numbers are etcd's to say. */
  readonly values: ReadonlyMap<string, string>;
  readonly records: ReadonlyMap<IpAddress, EndpointRecord>;
  /** Each open when the sources have told everything of it that there was at first. */
  readonly complete: Readonly<Record<PublishedSet, Latch>>;
}

/** What there is only while this process leads. Changes of what is wanted are to be given to `sync` and `endpoints`. */
export interface Term {
  readonly lease: KvLease;
  readonly fence: KvCompare;
  readonly sync: SyncStore;
  /** Undefined where identities have their numbers from somebody else. */
  readonly endpoints: EndpointPublisher | undefined;
  /** Sets that are in etcd, with their markers. */
  readonly publishedSets: ReadonlySet<PublishedSet>;
  /** All of them are. */
  readonly published: Latch;
}

/** Options of `serveTerm`. */
export interface TermOptions {
  readonly store: KvStore;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly leaseTtlSeconds: number;
  readonly heartbeatMs: number;
  readonly identityGraceMs: number;
  readonly mode: ConversionMode;
  /** Whether Services are exported by the Multi-Cluster Services API. */
  readonly serviceExports: boolean;
  /** Gives identities their numbers; undefined where somebody else does. */
  readonly identities: IdentityAllocator | undefined;
  /** Counts how long changed keys wait until etcd has them. */
  readonly queueTimes: DurationCounts;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called when the term begins to take changes; what was wanted before, it has. */
  readonly onOpen: (term: Term) => void;
  readonly signal: AbortSignal;
}

/** Sets whose marker we write. Service exports have one although none may be published, as Cilium's own apiserver does. */
const MARKED: Partial<Record<PublishedSet, PublishedKind>> = {
  nodes: 'nodes',
  ips: 'ips',
  identities: 'identities',
  services: 'services',
  serviceexports: 'serviceexports',
};

/** Writes until the term is over or `signal` aborts; rejects with the reason of that, and with a fault of the program. */
export async function serveTerm(
  leading: LeaderTerm,
  wanted: Wanted,
  options: TermOptions,
): Promise<void> {
  const { store, cluster, maxConnectedClusters, clock, logger } = options;
  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, leading.over, ending.signal]);
  const waiting = { clock, logger, signal };
  await using lease = await untilAnswered(
    () => openPublishedLease(store, options.leaseTtlSeconds, { signal }),
    waiting,
  );
  const { identities } = options;
  // First of all: numbers that everybody knew and etcd lost.
  await untilAnswered(() => identities?.restore(signal), waiting);
  await untilAnswered(() => identities?.load(signal), waiting);
  const publishedSets = new Set<PublishedSet>();
  const term = openTerm(lease, leading, { ...options, publishedSets, published: createLatch() });
  const { sync, endpoints } = term;
  sync.upsert(PUBLISHED_LEASE_KEY, PUBLISHED_LEASE_VALUE);
  for (const [key, value] of wanted.values) sync.upsert(key, value);
  for (const record of wanted.records.values()) endpoints?.upsert(record);
  options.onOpen(term);

  await untilAnswered(() => sync.adopt(ownPrefixes(cluster.name, options.mode), signal), waiting);
  await untilAnswered(
    () => sync.adopt(sharedPrefixes(cluster.name), signal, { shared: true }),
    waiting,
  );
  const { serviceExports } = options;
  const enforcing = { store, sync, maxConnectedClusters, serviceExports, clock, logger, signal };
  const parts = [
    sync.run(signal),
    beat(sync, { ...options, signal }),
    endpoints?.run(signal),
    endpoints?.maintain(() => publishedSets.has('ips'), signal),
    enforceClusterConfig(cluster, enforcing),
    finish(term, wanted.complete, { ...options, publishedSets, signal }),
  ];
  try {
    await Promise.all(parts);
  } finally {
    // The first that fails takes the others along, and all have ended before this does.
    ending.abort();
    await Promise.allSettled(parts);
  }
}

function openTerm(
  lease: KvLease,
  leading: LeaderTerm,
  options: TermOptions & Pick<Term, 'published' | 'publishedSets'>,
): Term {
  const { store, identities, clock, logger, identityGraceMs, published, publishedSets } = options;
  const { fence } = leading;
  const sync = createSyncStore({
    store,
    lease,
    fence,
    onFenced: () => {
      logger.warn('another replica leads or the lock was lost, nothing more is written');
      leading.end();
    },
    stamper: createStamper({ lease, clock }),
    digests: createDigests({ cluster: options.cluster.name, lease }),
    queueTimes: options.queueTimes,
    logger,
    clock,
  });
  const endpoints =
    identities === undefined
      ? undefined
      : createEndpointPublisher({
          identities,
          sync,
          lease,
          fence,
          clock,
          logger,
          identityGraceMs,
        });
  return { lease, fence, sync, endpoints, published, publishedSets };
}

/** Sweeps each set and writes its marker, once everything of it is there; sets that are complete together go together. */
async function finish(
  { sync, endpoints, published }: Term,
  complete: Wanted['complete'],
  options: Pick<TermOptions, 'cluster' | 'mode' | 'clock' | 'logger' | 'signal'> & {
    readonly publishedSets: Set<PublishedSet>;
  },
): Promise<void> {
  const { cluster, mode, clock, logger, signal, publishedSets } = options;
  while (publishedSets.size < PUBLISHED_SETS.length) {
    const open = PUBLISHED_SETS.filter((set) => !publishedSets.has(set));
    await firstOf(
      open.map((set) => complete[set]),
      signal,
    );
    const sets = open.filter((set) => complete[set].isOpen);
    if (sets.includes('ips') || sets.includes('identities')) await endpoints?.settled(signal);
    const swept = sync.sweep(
      sets
        .map((set) => prefixOfSet(set, cluster.name, mode))
        .filter((prefix) => prefix !== undefined),
    );
    await sync.flushed(signal);
    const now = encodeTimestamp(clock.now());
    for (const set of sets) {
      const kind = MARKED[set];
      if (kind === undefined) continue;
      const key = syncedKey(cluster.name, CANARY_PREFIXES[kind]);
      // One that a predecessor wrote on the same lease says the same.
      sync.upsert(key, sync.current(key) ?? now, { last: true });
    }
    await sync.flushed(signal);
    for (const set of sets) publishedSets.add(set);
    logger.info({ sets, keys: sync.status.keys, swept }, 'what is complete is published');
  }
  published.open();
  logger.info({ keys: sync.status.keys }, 'everything is published');
}

/** Resolves when one of `latches` is open; rejects when `signal` aborts before. */
async function firstOf(latches: readonly Latch[], signal: AbortSignal): Promise<void> {
  const ending = new AbortController();
  const linked = AbortSignal.any([signal, ending.signal]);
  const waits = latches.map((latch) => latch.opened(linked));
  try {
    await Promise.race(waits);
  } finally {
    ending.abort();
    await Promise.allSettled(waits);
  }
}

async function beat(
  sync: SyncStore,
  options: Pick<TermOptions, 'clock' | 'heartbeatMs' | 'signal'>,
): Promise<void> {
  const { clock, heartbeatMs, signal } = options;
  while (!signal.aborted) {
    sync.upsert(HEARTBEAT_KEY, encodeTimestamp(clock.now()));
    await clock.sleep(heartbeatMs, signal);
  }
}

/** Keys that we write among those of others. */
function sharedPrefixes(cluster: ClusterName): string[] {
  return [syncedPrefix(cluster), CLUSTER_CONFIG_PREFIX];
}

/** Prefixes that this publisher alone writes. */
function ownPrefixes(cluster: ClusterName, mode: ConversionMode): string[] {
  return PUBLISHED_SETS.map((set) => prefixOfSet(set, cluster, mode)).filter(
    (prefix) => prefix !== undefined,
  );
}
