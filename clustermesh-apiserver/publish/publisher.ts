/** From the cluster's records to keys in etcd: identities before the addresses that carry them, markers after everything. */
import type { KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import {
  CANARY_PREFIXES,
  HEARTBEAT_KEY,
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
import { createClusterModel, type RecordChange } from '../convert/cluster-model.ts';
import type { NodeConflict, NodeFacts } from '../convert/node.ts';
import type { ConvertedService } from '../convert/service.ts';
import type { ObjectEvent } from '../sources/manifests.ts';
import { enforceClusterConfig } from './cluster-config.ts';
import { createEndpointPublisher } from './endpoints.ts';
import { createIdentityAllocator } from './identities.ts';
import { createSyncStore, type SyncStoreStatus } from './sync-store.ts';
import { untilAnswered } from './until-answered.ts';

/** Options of `createPublisher`. */
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

/** What is published, in numbers. */
export interface PublisherStatus extends SyncStoreStatus {
  /** Everything that the sources told at first is in etcd, with its markers. */
  readonly ready: boolean;
  readonly endpoints: number;
  /** Pods that are left out because the cluster has no number left for their labels. */
  readonly endpointsWithoutIdentity: number;
  readonly identities: number;
}

/** Publishes one cluster. */
export interface Publisher {
  /** Publishes what `batches` tells until `signal` aborts. Rejects only on a fault of its own. */
  run(batches: AsyncIterable<readonly ObjectEvent[]>, signal: AbortSignal): Promise<void>;
  /** Takes what a node's agent says of its node, or undefined when nothing counts any more. */
  setNodeFacts(name: string, facts: NodeFacts | undefined): void;
  /** Who else holds what a node says it has. */
  findNodeConflict(name: string, facts: NodeFacts): NodeConflict | undefined;
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
  const endpoints = createEndpointPublisher({
    identities,
    sync,
    lease,
    clock,
    logger,
    identityGraceMs: options.identityGraceMs ?? 900_000,
  });
  const warnings = createServiceWarnings(logger);
  let ready = false;
  let markReady: () => void = () => undefined;
  const becameReady = new Promise<void>((resolve) => {
    markReady = resolve;
  });

  const set = (key: string, value: string | undefined): void => {
    if (value === undefined) sync.delete(key);
    else sync.upsert(key, value);
  };
  const publish = (change: RecordChange, signal: AbortSignal): Promise<void> | undefined => {
    switch (change.kind) {
      case 'node':
        set(nodeKey(cluster.name, change.name), change.value && encodeNode(change.value));
        return undefined;
      case 'endpoint':
        if (change.value !== undefined) return endpoints.upsert(change.value, signal);
        endpoints.delete(change.address);
        return undefined;
      case 'service': {
        const { namespace, name } = change;
        const exported = change.value?.exported;
        set(serviceKey(cluster.name, namespace, name), exported && encodeClusterService(exported));
        set(
          localServiceKey(namespace, name),
          change.value && encodeLocalService(change.value.local),
        );
        warnings.tell(namespace, name, change.value);
        return undefined;
      }
      case 'policy': {
        const key = localPolicyKey(change.policyKind, change.namespace, change.name);
        set(key, change.value && encodeLocalPolicy(change.value));
        return undefined;
      }
      default:
        throw change satisfies never;
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
        const record = describeRecord(change);
        logger.error({ err: error, record }, 'cannot publish a record, it is left out');
      }
    }
  };

  const finishFirstSync = async (signal: AbortSignal): Promise<void> => {
    const swept = sync.sweep();
    await sync.flushed(signal);
    const now = encodeTimestamp(clock.now());
    for (const kind of MARKED_KINDS) {
      sync.upsert(syncedKey(cluster.name, CANARY_PREFIXES[kind]), now, { last: true });
    }
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

  return {
    ready: becameReady,
    setNodeFacts(name, facts) {
      for (const change of model.setNodeFacts(name, facts)) {
        if (change.kind === 'node') {
          set(nodeKey(cluster.name, change.name), change.value && encodeNode(change.value));
        }
      }
    },
    findNodeConflict: (name, facts) => model.findNodeConflict(name, facts),
    get status() {
      const { endpoints: count, withoutIdentity } = endpoints.counts;
      return {
        ...sync.status,
        ready,
        endpoints: count,
        endpointsWithoutIdentity: withoutIdentity,
        identities: identities.known.size,
      };
    },
    async run(batches, signal) {
      const ending = new AbortController();
      const linked = AbortSignal.any([signal, ending.signal]);
      const waiting = { clock, logger, signal: linked };
      const enforcing = { store, sync, maxConnectedClusters, clock, logger, signal: linked };
      try {
        await untilAnswered(() => identities.load(linked), waiting);
        await untilAnswered(() => sync.adopt(adoptedPrefixes(cluster.name), linked), waiting);
        const parts = [
          sync.run(linked),
          beat(linked),
          endpoints.maintain(() => ready, linked),
          enforceClusterConfig(cluster, enforcing),
          consume(batches, linked),
        ];
        try {
          await Promise.all(parts);
        } finally {
          // The first that fails takes the others along, and all have ended before this does.
          ending.abort();
          await Promise.allSettled(parts);
        }
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    },
  };
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

/** Tells what is wrong with a Service's annotations once, and again only when that changes. */
function createServiceWarnings(logger: Logger) {
  const told = new Map<string, string>();
  return {
    tell(namespace: string, service: string, value: ConvertedService | undefined): void {
      const path = `${namespace}/${service}`;
      const warnings = value?.settings.warnings ?? [];
      const text = warnings.join('\n');
      if (text === (told.get(path) ?? '')) return;
      if (text === '') told.delete(path);
      else told.set(path, text);
      for (const warning of warnings) {
        logger.warn(
          { namespace, service, warning },
          'an annotation of a service is not as expected',
        );
      }
    },
  };
}

function describeRecord(change: RecordChange): string {
  switch (change.kind) {
    case 'node':
      return `node ${change.name}`;
    case 'endpoint':
      return `address ${change.address} of pod ${change.value?.namespace}/${change.value?.podName}`;
    case 'service':
      return `service ${change.namespace}/${change.name}`;
    case 'policy':
      return `${change.policyKind} ${change.namespace}/${change.name}`;
    default:
      throw change satisfies never;
  }
}
