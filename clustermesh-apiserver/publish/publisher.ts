/** From the cluster's records to keys in etcd: identities before the addresses that carry them, markers after everything. */
import type { KvCompare, KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import {
  localPolicyKey,
  localServiceKey,
  nodeKey,
  REGISTRY_PREFIX,
  serviceKey,
} from '../../mesh/wire/keys.ts';
import { encodeLocalPolicy } from '../../mesh/wire/local-policy.ts';
import { encodeLocalService } from '../../mesh/wire/local-service.ts';
import { encodeNode } from '../../mesh/wire/node.ts';
import { encodeClusterService } from '../../mesh/wire/service.ts';
import {
  createClusterModel,
  type EndpointRecord,
  type RecordChange,
} from '../convert/cluster-model.ts';
import type { NodeConflict, NodeFacts } from '../convert/node.ts';
import type { ConvertedService } from '../convert/service.ts';
import { type LeaderTerm, openLeaderLock } from '../kvstoremesh/leader.ts';
import type { ObjectEvent } from '../sources/manifests.ts';
import { createIdentityAllocator } from './identities.ts';
import { createLatch } from './latch.ts';
import type { SyncStoreStatus } from './sync-store.ts';
import { serveTerm, type Term, type Wanted } from './term.ts';

/** Options of `createPublisher`. */
export interface PublisherOptions {
  readonly store: KvStore;
  /** How long what is published outlives its publisher. */
  readonly leaseTtlSeconds: number;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly maxConnectedClusters: MaxConnectedClusters;
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

/** What is published, in numbers. Of a standby: what it would publish. */
export interface PublisherStatus extends SyncStoreStatus {
  readonly role: PublisherRole;
  /**
   * Everything that the sources told at first is in etcd, with its markers; on standby, that the sources have told everything.
   */
  readonly ready: boolean;
  readonly endpoints: number;
  /** Pods that are left out because the cluster has no number left for their labels. */
  readonly endpointsWithoutIdentity: number;
  /** Some of those labels. */
  readonly labelsWithoutIdentity: readonly string[];
  readonly identities: number;
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
  readonly status: PublisherStatus;
  /** Resolves when `status.ready` first becomes true. */
  readonly ready: Promise<void>;
  /** The lease of what is published while this process leads. */
  readonly lease: KvLease | undefined;
  /** Condition that holds while this process leads; undefined when it does not. */
  readonly fence: KvCompare | undefined;
}

/** Locks of publishers, of whom the oldest leads. */
const PUBLISHER_LOCK_PREFIX = `${REGISTRY_PREFIX}publisher-lock/`;
const DEFAULT_LOCK_TTL_SECONDS = 5;

/**
 * Makes the publisher of one cluster. Of all publishers on one etcd one leads and writes; the others know all that it knows and
 * write nothing. See docs/decisions/0003-replicas.md.
 */
export function createPublisher(options: PublisherOptions): Publisher {
  const { store, cluster, maxConnectedClusters, logger, clock = systemClock } = options;
  const model = createClusterModel(cluster);
  const identities = createIdentityAllocator({
    store,
    cluster: cluster.name,
    clusterId: cluster.id,
    maxConnectedClusters,
  });
  const warnings = createServiceWarnings(logger);
  const values = new Map<string, string>();
  const records = new Map<IpAddress, EndpointRecord>();
  const wanted: Wanted = { values, records, complete: createLatch() };
  const { complete } = wanted;
  const firstReady = createLatch();
  const settings = {
    store,
    cluster,
    maxConnectedClusters,
    leaseTtlSeconds: options.leaseTtlSeconds,
    heartbeatMs: options.heartbeatMs ?? 60_000,
    identityGraceMs: options.identityGraceMs ?? 900_000,
    identities,
    clock,
    logger,
  };
  let term: Term | undefined;
  let terms = 0;
  let role: PublisherRole = { kind: 'starting' };
  const set = (key: string, value: string | undefined): void => {
    if (value === undefined) {
      values.delete(key);
      term?.sync.delete(key);
    } else {
      values.set(key, value);
      term?.sync.upsert(key, value);
    }
  };
  const publish = (change: RecordChange): void => {
    switch (change.kind) {
      case 'node':
        set(nodeKey(cluster.name, change.name), change.value && encodeNode(change.value));
        return;
      case 'endpoint': {
        const { address, value } = change;
        if (value === undefined) {
          records.delete(address);
          term?.endpoints.delete(address);
        } else {
          records.set(address, value);
          term?.endpoints.upsert(value);
        }
        return;
      }
      case 'service': {
        const { namespace, name } = change;
        const exported = change.value?.exported;
        set(serviceKey(cluster.name, namespace, name), exported && encodeClusterService(exported));
        set(
          localServiceKey(namespace, name),
          change.value && encodeLocalService(change.value.local),
        );
        warnings.tell(namespace, name, change.value);
        return;
      }
      case 'policy': {
        const key = localPolicyKey(change.policyKind, change.namespace, change.name);
        set(key, change.value && encodeLocalPolicy(change.value));
        return;
      }
      default:
        throw change satisfies never;
    }
  };
  /** A single record that cannot be published is reported, and the next one is tried. */
  const publishAll = (changes: readonly RecordChange[]): void => {
    for (const change of changes) {
      try {
        publish(change);
      } catch (error) {
        const record = describeRecord(change);
        logger.error({ err: error, record }, 'cannot publish a record, it is left out');
      }
    }
  };
  const consume = async (batches: AsyncIterable<readonly ObjectEvent[]>): Promise<void> => {
    for await (const batch of batches) {
      const changes = batch.flatMap((event) =>
        event.kind === 'synced' ? [] : [{ object: event.object, exists: event.kind === 'upsert' }],
      );
      publishAll(model.apply(changes));
      if (!batch.some((event) => event.kind === 'synced')) continue;
      complete.open();
      if (role.kind === 'standby') firstReady.open();
    }
  };
  const becomeStandby = (): void => {
    if (role.kind === 'standby') return;
    role = { kind: 'standby', since: clock.now() };
    logger.info('another replica publishes, this one stands by');
    if (complete.isOpen) firstReady.open();
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
      const followed = identities.follow(AbortSignal.any([signal, following.signal]));
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
            terms += 1;
            role = { kind: 'leading', since: clock.now() };
            void opened.published.opened(during).then(firstReady.open, () => undefined);
          },
          signal,
        });
      } catch (error) {
        if (!during.aborted) throw error;
      } finally {
        term = undefined;
        role = { kind: 'starting' };
      }
      if (!signal.aborted) logger.warn('the lock of the publisher was lost, it is sought again');
    }
  };

  return {
    ready: firstReady.opened(NEVER),
    get lease() {
      return term?.lease;
    },
    get fence() {
      return term?.fence;
    },
    setNodeFacts(name, facts) {
      publishAll(model.setNodeFacts(name, facts).filter((change) => change.kind === 'node'));
    },
    findNodeConflict: (name, facts) => model.findNodeConflict(name, facts),
    get status() {
      const counts = term?.endpoints.counts;
      return {
        ...(term?.sync.status ?? STANDBY_STATUS),
        role,
        ready: role.kind === 'standby' ? complete.isOpen : (term?.published.isOpen ?? false),
        endpoints: records.size,
        endpointsWithoutIdentity: counts?.withoutIdentity ?? 0,
        labelsWithoutIdentity: counts?.labelsWithoutIdentity ?? [],
        identities: identities.known.size,
        terms,
      };
    },
    async run(batches, signal) {
      const ending = new AbortController();
      const linked = AbortSignal.any([signal, ending.signal]);
      const parts = [consume(batches), lead(linked)];
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
