/** From the cluster's records to keys in etcd: identities before the addresses that carry them, markers after everything. */
import type { KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { encodeClusterConfig } from '../../mesh/wire/cluster-config.ts';
import { encodeLabels } from '../../mesh/wire/identity.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import { ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import { encodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import {
  CANARY_PREFIXES,
  clusterConfigKey,
  HEARTBEAT_KEY,
  ipKey,
  ipsPrefix,
  LOCAL_POLICIES_PREFIX,
  LOCAL_SERVICES_PREFIX,
  localPolicyKey,
  localServiceKey,
  nodeKey,
  nodesPrefix,
  type PublishedKind,
  serviceKey,
  servicesPrefix,
  syncedKey,
} from '../../mesh/wire/keys.ts';
import { encodeLocalPolicy } from '../../mesh/wire/local-policy.ts';
import { encodeLocalService } from '../../mesh/wire/local-service.ts';
import { encodeNode } from '../../mesh/wire/node.ts';
import { encodeClusterService } from '../../mesh/wire/service.ts';
import { encodeTimestamp } from '../../mesh/wire/timestamp.ts';
import {
  createClusterModel,
  type EndpointRecord,
  type RecordChange,
} from '../convert/cluster-model.ts';
import type { ObjectEvent } from '../sources/manifests.ts';
import { createIdentityAllocator } from './identities.ts';
import { createSyncStore, type SyncStoreStatus } from './sync-store.ts';

export interface PublisherOptions {
  readonly store: KvStore;
  readonly lease: KvLease;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly logger: Logger;
  readonly clock?: Clock;
  /** How often the heartbeat is written. Default 60,000, which Cilium's readers expect to see at least every two minutes. */
  readonly heartbeatMs?: number;
  /** How long an unused identity is kept, lest a rolling restart change everybody's number. Default 15 minutes. */
  readonly identityGraceMs?: number;
}

export interface PublisherStatus extends SyncStoreStatus {
  /** Everything that the sources told at first is in etcd, with its markers. */
  readonly ready: boolean;
  readonly endpoints: number;
  readonly identities: number;
}

export interface Publisher {
  /** Publishes what `batches` tells until `signal` aborts. Rejects only on a fault of its own. */
  run(batches: AsyncIterable<readonly ObjectEvent[]>, signal: AbortSignal): Promise<void>;
  readonly status: PublisherStatus;
  /** Resolves when `status.ready` first becomes true. */
  readonly ready: Promise<void>;
}

/** Kinds whose marker we write. Service exports have one although none are published, as Cilium's own apiserver does. */
const MARKED_KINDS: readonly PublishedKind[] = [
  'nodes',
  'ips',
  'identities',
  'services',
  'serviceexports',
];

/** Makes the publisher of one cluster. */
export function createPublisher(options: PublisherOptions): Publisher {
  const { store, lease, cluster, maxConnectedClusters, logger, clock = systemClock } = options;
  const model = createClusterModel(cluster);
  const sync = createSyncStore({ store, lease, logger, clock });
  const identities = createIdentityAllocator({
    store,
    cluster: cluster.name,
    clusterId: cluster.id,
    maxConnectedClusters,
  });
  /** Label string of each published address: who still uses an identity. */
  const labelsOf = new Map<string, string>();
  const unusedSince = new Map<string, number>();
  let ready = false;
  let markReady: () => void = () => undefined;
  const becameReady = new Promise<void>((resolve) => {
    markReady = resolve;
  });

  const publishEndpoint = async (record: EndpointRecord, signal: AbortSignal): Promise<void> => {
    const identity = await retry(() => identities.allocate(record.labels, signal), signal);
    labelsOf.set(record.address, encodeLabels(record.labels));
    sync.upsert(
      ipKey(record.address),
      encodeIpIdentity({
        prefix: makePrefix(record.address, ipFamily(record.address) === 4 ? 32 : 128),
        isCidr: false,
        hostIp: record.hostIp,
        identity,
        encryptionKey: 0,
        metadata: '',
        namespace: record.namespace,
        podName: record.podName,
        serviceAccount: record.serviceAccount,
        namedPorts: record.namedPorts,
      }),
    );
  };

  const publish = async (change: RecordChange, signal: AbortSignal): Promise<void> => {
    switch (change.kind) {
      case 'node': {
        const key = nodeKey(cluster.name, change.name);
        if (change.value === undefined) sync.delete(key);
        else sync.upsert(key, encodeNode(change.value));
        return;
      }
      case 'endpoint':
        if (change.value !== undefined) return publishEndpoint(change.value, signal);
        labelsOf.delete(change.address);
        sync.delete(ipKey(change.address));
        return;
      case 'service': {
        const { namespace, name, value } = change;
        const key = serviceKey(cluster.name, namespace, name);
        if (value?.exported === undefined) sync.delete(key);
        else sync.upsert(key, encodeClusterService(value.exported));
        if (value === undefined) sync.delete(localServiceKey(namespace, name));
        else sync.upsert(localServiceKey(namespace, name), encodeLocalService(value.local));
        for (const warning of value?.settings.warnings ?? [])
          logger.warn({ namespace, service: name }, warning);
        return;
      }
      case 'policy': {
        const key = localPolicyKey(change.policyKind, change.namespace, change.name);
        if (change.value === undefined) sync.delete(key);
        else sync.upsert(key, encodeLocalPolicy(change.value));
        return;
      }
      default:
        change satisfies never;
    }
  };

  /** A single record that cannot be published is reported, and the next one is tried. */
  const publishAll = async (
    changes: readonly RecordChange[],
    signal: AbortSignal,
  ): Promise<void> => {
    for (const change of changes) {
      try {
        await publish(change, signal);
      } catch (error) {
        signal.throwIfAborted();
        logger.error(
          { err: error, record: change.kind },
          'cannot publish a record, it is left out',
        );
      }
    }
  };

  const retry = async <T>(attempt: () => Promise<T>, signal: AbortSignal): Promise<T> => {
    const backoff = createBackoff({ minMs: 50, maxMs: 5_000 });
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        if (signal.aborted || !(error instanceof KvError) || !error.retryable) throw error;
        logger.warn({ err: error }, 'etcd does not answer, will be retried');
        await clock.sleep(backoff.next(), signal);
      }
    }
  };

  const finishFirstSync = async (signal: AbortSignal): Promise<void> => {
    const swept = sync.sweep();
    await sync.flushed(signal);
    const now = encodeTimestamp(clock.now());
    for (const kind of MARKED_KINDS)
      sync.upsert(syncedKey(cluster.name, CANARY_PREFIXES[kind]), now);
    await sync.flushed(signal);
    ready = true;
    markReady();
    logger.info({ keys: sync.status.keys, swept }, 'everything is published');
  };

  const consume = async (
    batches: AsyncIterable<readonly ObjectEvent[]>,
    signal: AbortSignal,
  ): Promise<void> => {
    for await (const batch of batches) {
      const changes = batch.flatMap((event) =>
        event.kind === 'synced' ? [] : [{ object: event.object, exists: event.kind === 'upsert' }],
      );
      await publishAll(model.apply(changes), signal);
      if (batch.some((event) => event.kind === 'synced')) await finishFirstSync(signal);
    }
  };

  const beat = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      sync.upsert(HEARTBEAT_KEY, encodeTimestamp(clock.now()));
      await clock.sleep(options.heartbeatMs ?? 60_000, signal);
    }
  };

  /** Identities outlive their last user by the grace time. */
  const collect = async (signal: AbortSignal): Promise<void> => {
    const graceMs = options.identityGraceMs ?? 900_000;
    while (!signal.aborted) {
      await clock.sleep(graceMs / 3, signal);
      if (!ready) continue;
      const inUse = new Set(labelsOf.values());
      for (const text of identities.known.keys()) {
        if (inUse.has(text)) unusedSince.delete(text);
        else if (!unusedSince.has(text)) unusedSince.set(text, clock.monotonic());
      }
      for (const [text, since] of unusedSince) {
        if (clock.monotonic() - since < graceMs) inUse.add(text);
        else unusedSince.delete(text);
      }
      try {
        const collected = await identities.collectGarbage(inUse, signal);
        if (collected > 0) logger.info({ collected }, 'unused identities were deleted');
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
        logger.warn({ err: error }, 'cannot delete unused identities, will be retried');
      }
    }
  };

  /** A lost lease may mean lost data: identities hang on no lease, so they are looked after here. */
  const restoreIdentities = async (signal: AbortSignal): Promise<void> => {
    let lost = 0;
    let wake = (): void => undefined;
    lease.onLost(() => {
      lost += 1;
      wake();
    });
    signal.addEventListener('abort', () => wake(), { once: true });
    for (let seen = 0; !signal.aborted; ) {
      if (seen === lost) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      seen = lost;
      await retry(() => identities.restore(signal), signal);
    }
  };

  return {
    ready: becameReady,
    get status() {
      return { ...sync.status, ready, endpoints: labelsOf.size, identities: identities.known.size };
    },
    async run(batches, signal) {
      const ending = new AbortController();
      const linked = AbortSignal.any([signal, ending.signal]);
      try {
        await retry(() => identities.load(linked), linked);
        await retry(() => sync.adopt(adoptedPrefixes(cluster.name), linked), linked);
        sync.upsert(clusterConfigKey(cluster.name), ownConfig(cluster.id, maxConnectedClusters));
        await Promise.all([
          sync.run(linked),
          beat(linked),
          collect(linked),
          restoreIdentities(linked),
          consume(batches, linked),
        ]);
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        ending.abort();
      }
    },
  };
}

/** What we say of ourselves: markers exist, and service exports are known but off. */
export function ownConfig(id: ClusterId, max: MaxConnectedClusters): string {
  return encodeClusterConfig({
    id,
    capabilities: {
      syncedCanaries: true,
      cached: false,
      maxConnectedClusters: max,
      serviceExportsEnabled: false,
      endpointSlicesExportMode: undefined,
    },
  });
}

/** Prefixes that this publisher alone writes, and whose leftovers it may sweep. */
function adoptedPrefixes(cluster: ClusterName): string[] {
  return [
    nodesPrefix(cluster),
    ipsPrefix(cluster),
    servicesPrefix(cluster),
    LOCAL_SERVICES_PREFIX,
    LOCAL_POLICIES_PREFIX,
  ];
}
