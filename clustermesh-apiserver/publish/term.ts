/** What a publisher does while it leads: it brings etcd from whatever a predecessor left to what is wanted, and keeps it so. */
import type { KvCompare, KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import {
  CANARY_PREFIXES,
  CLUSTER_CONFIG_PREFIX,
  HEARTBEAT_KEY,
  ipsPrefix,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  nodesPrefix,
  type PublishedKind,
  servicesPrefix,
  syncedKey,
  syncedPrefix,
} from '../../mesh/wire/keys.ts';
import { encodeTimestamp } from '../../mesh/wire/timestamp.ts';
import type { EndpointRecord } from '../convert/cluster-model.ts';
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
import { createStamper } from './stamp.ts';
import { createSyncStore, type SyncStore } from './sync-store.ts';
import { untilAnswered } from './until-answered.ts';

/** What is wanted; it goes on to change during a term. */
export interface Wanted {
  /** Values by key; addresses apart, since their numbers are etcd's to say. */
  readonly values: ReadonlyMap<string, string>;
  readonly records: ReadonlyMap<IpAddress, EndpointRecord>;
  /** Open when the sources have told everything that there was at first. */
  readonly complete: Latch;
}

/** What there is only while this process leads. Changes of what is wanted are to be given to `sync` and `endpoints`. */
export interface Term {
  readonly lease: KvLease;
  readonly fence: KvCompare;
  readonly sync: SyncStore;
  readonly endpoints: EndpointPublisher;
  /** Everything is in etcd, with its markers. */
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
  readonly identities: IdentityAllocator;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Called when the term begins to take changes; what was wanted before, it has. */
  readonly onOpen: (term: Term) => void;
  readonly signal: AbortSignal;
}

/** Kinds whose marker we write. Service exports have one although none are published, as Cilium's own apiserver does. */
const MARKED_KINDS: readonly PublishedKind[] = [
  'nodes',
  'ips',
  'identities',
  'services',
  'serviceexports',
];

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
  // First of all: numbers that everybody knew and etcd lost.
  await untilAnswered(() => options.identities.restore(signal), waiting);
  await untilAnswered(() => options.identities.load(signal), waiting);
  const term = openTerm(lease, leading, { ...options, published: createLatch() });
  const { sync, endpoints, published } = term;
  sync.upsert(PUBLISHED_LEASE_KEY, PUBLISHED_LEASE_VALUE);
  for (const [key, value] of wanted.values) sync.upsert(key, value);
  for (const record of wanted.records.values()) endpoints.upsert(record);
  options.onOpen(term);

  await untilAnswered(() => sync.adopt(ownPrefixes(cluster.name), signal), waiting);
  await untilAnswered(
    () => sync.adopt(sharedPrefixes(cluster.name), signal, { shared: true }),
    waiting,
  );
  const enforcing = { store, sync, maxConnectedClusters, clock, logger, signal };
  const parts = [
    sync.run(signal),
    beat(sync, { ...options, signal }),
    endpoints.run(signal),
    endpoints.maintain(() => published.isOpen, signal),
    enforceClusterConfig(cluster, enforcing),
    finish(term, wanted.complete, { ...options, signal }),
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
  options: TermOptions & { readonly published: Latch },
): Term {
  const { store, identities, clock, logger, identityGraceMs, published } = options;
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
    logger,
    clock,
  });
  const endpoints = createEndpointPublisher({
    identities,
    sync,
    lease,
    fence,
    clock,
    logger,
    identityGraceMs,
  });
  return { lease, fence, sync, endpoints, published };
}

/** Sweeps and writes the markers, once everything is there. */
async function finish(
  { sync, endpoints, published }: Term,
  complete: Latch,
  options: Pick<TermOptions, 'cluster' | 'clock' | 'logger' | 'signal'>,
): Promise<void> {
  const { cluster, clock, logger, signal } = options;
  await complete.opened(signal);
  await endpoints.settled(signal);
  const swept = sync.sweep();
  await sync.flushed(signal);
  const now = encodeTimestamp(clock.now());
  for (const kind of MARKED_KINDS) {
    const key = syncedKey(cluster.name, CANARY_PREFIXES[kind]);
    // One that a predecessor wrote on the same lease says the same.
    sync.upsert(key, sync.current(key) ?? now, { last: true });
  }
  await sync.flushed(signal);
  published.open();
  logger.info({ keys: sync.status.keys, swept }, 'everything is published');
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

/** Prefixes that this publisher alone writes, and whose leftovers it may sweep. */
function ownPrefixes(cluster: ClusterName): string[] {
  return [
    nodesPrefix(cluster),
    ipsPrefix(cluster),
    servicesPrefix(cluster),
    LOCAL_SERVICES_PREFIX,
    LOCAL_POLICIES_PREFIX,
  ];
}
