import type { ClusterChange, ClusterRef, ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { CLUSTER_LABEL, type Labels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import {
  type ClusterName,
  localIdentityScope,
  type MaxConnectedClusters,
} from '../../mesh/wire/ids.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { Datapath, FrontendEntry, FrontendKey, IpcacheEntry } from '../datapath/desired.ts';
import type { HostRouteKeeper } from '../datapath/host-route-keeper.ts';
import type { AddressConflict } from '../merge/address-book.ts';
import { createAddressRows } from '../merge/address-rows.ts';
import { type NodeContext, sameIpcacheEntry } from '../merge/addresses.ts';
import { sameFrontend } from '../merge/frontends.ts';
import { DEFAULT_SERVICE_RULES, type ServiceRules } from '../merge/service-rules.ts';
import { createSharedTexts } from '../merge/shared-texts.ts';
import type { EnforcementMode } from '../policy/enforcement-mode.ts';
import type { PeerSets, ServicePeer } from '../policy/peer-sets.ts';
import type { AuditedTable } from './audit.ts';
import { createCompleteness } from './completeness.ts';
import type { FormerPolicies } from './former-policies.ts';
import { hostEndpoint } from './host-endpoint.ts';
import { createIpcacheState, nodeKey } from './ipcache-state.ts';
import { isKnownRow } from './known-identities.ts';
import { sameEndpoint } from './local-endpoint.ts';
import { createLocalIdentityRows } from './local-identity-rows.ts';
import { createPolicyFeed, type PolicyFeed } from './policy-feed.ts';
import { createPolicyFlush, samePolicy } from './policy-flush.ts';
import {
  createPolicyState,
  type EndpointState,
  type LocalEndpoint,
  type PolicyState,
} from './policy-state.ts';
import { createReconciler, type ReconcilerStatus } from './reconciler.ts';
import { createServiceState, type ServiceState, type Withdrawal } from './service-state.ts';

/** Least time between two writes, in milliseconds: a change that comes alone is written at once, a flood in batches. */
const COALESCE_MS = 1;

/**
 * How long the next process waits for peers before policies that changed meanwhile hold, in milliseconds: what they say of
 * identities that nobody has named yet cannot be told. As long as a peer counts for readiness.
 */
const PEERS_WAIT_MS = 15_000;

/** What policies need of them for that. */
const PEER_KINDS = ['nodes', 'identities'] as const;

/** Kubernetes' label of a node's zone. */
const ZONE_LABEL = 'topology.kubernetes.io/zone';

/** What an agent knows and wants, for people. */
export interface EngineStatus {
  readonly tables: readonly ReconcilerStatus[];
  readonly endpoints: readonly EndpointState[];
  readonly policies: ReturnType<PolicyState['policies']>;
  readonly policyPressure: PolicyState['pressure'];
  readonly services: { readonly local: number; readonly global: number };
  readonly identities: number;
  readonly addressConflicts: readonly AddressConflict[];
  readonly serviceConflicts: readonly string[];
}

/** Everything between what clusters say and what the kernel holds. */
export interface Engine extends ClusterSink {
  /** Names of the configured peers and, where known, their ids. Nothing of a peer is pruned before the first call. */
  setPeers(peers: ReadonlyMap<ClusterName, number | undefined>): void;
  /**
   * Endpoints that were there before this process. Rows of others are removed, but for the ids in `unreadable`, whose
   * endpoints could not be read back.
   */
  restoreEndpoints(endpoints: readonly LocalEndpoint[], unreadable: ReadonlySet<number>): void;
  /** Adds an endpoint; when it returns, its policy and then its row are in the kernel. Throws when they are not. */
  addEndpoint(endpoint: LocalEndpoint): void;
  removeEndpoint(endpointId: number): void;
  /**
   * Audit mode of an endpoint: what policy denies is told and counted, and passes. When it returns, the kernel knows, over
   * restarts too. False: there is no such endpoint. Throws when the kernel could not be told.
   */
  setAudit(endpointId: number, on: boolean): boolean;
  /**
   * Withdraws the backends of a peer from services, or takes them back; written with the next flush. `always`: with
   * `gone`, also where they are the last ones of a service.
   */
  setWithdrawn(clusterId: number, level: Withdrawal, options: { readonly always: boolean }): void;
  /** Computes and writes what is outstanding now. */
  flush(): void;
  /** Writes changes as they come, until `signal` aborts. Leaves the kernel as it is. */
  run(signal: AbortSignal): Promise<void>;
  status(): EngineStatus;
  /** Rows of the policy table that each policy has a part in. Takes a moment: for people, not for metrics. */
  policyEntries(): ReturnType<PolicyState['entriesOf']>;
  /** What the compiler works with, to be asked and not to be changed. */
  readonly policyView: Pick<
    PolicyState,
    'rowsOf' | 'rulesOf' | 'policies' | 'endpoints' | 'isReleased'
  > &
    Pick<PolicyFeed, 'originOf' | 'groups'> & {
      readonly peers: Pick<PeerSets, 'labelsOf' | 'namedPortsOf' | 'identities' | 'services'>;
      /** Labels of a node; `name`: as its cluster names it. */
      nodeLabelsOf(clusterId: number, name: string): Labels | undefined;
    };
  /** Row that an address is to have in the ipcache; of this very prefix. */
  addressRow(prefix: IpPrefix): IpcacheEntry | undefined;
  /** Frontends that sockets and pods of this node are to reach. */
  frontends(): Iterable<FrontendEntry>;
  /** What clusters say of Services, and what is wanted for them; to be asked and not to be changed. */
  readonly services: Pick<ServiceState, 'names' | 'facts'>;
  /** Labels of an identity of any cluster; undefined: nobody has said them. */
  labelsOf(identity: number): Labels | undefined;
  /** `namespace/name` of the service whose frontend sockets of this node call there. */
  serviceOf(frontend: Omit<FrontendKey, 'scope'>): string | undefined;
  /** Rows of the ipcache: those that are wanted, and those that a previous process left and nobody has said again yet. */
  readonly addresses: {
    desired(): Iterable<IpcacheEntry>;
    adopted(): Iterable<IpcacheEntry>;
  };
  /** The tables, to be compared with the kernel. */
  readonly audited: readonly AuditedTable[];
}

/** Takes over a datapath, with the rows that a previous process left in it. */
export function createEngine(options: {
  readonly datapath: Datapath;
  readonly node: NodeContext;
  readonly max: MaxConnectedClusters;
  /** A selector of peers without a cluster label means the own cluster. */
  readonly policyDefaultLocalCluster: boolean;
  /** Default: as policies say. */
  readonly enforcement?: EnforcementMode | undefined;
  /** How long an endpoint sends under its former identity when it has got another one. Default: not at all. */
  readonly identityGraceMs?: number | undefined;
  /** Rows of the policy table that one endpoint may have. Default: DEFAULT_POLICY_MAP_MAX. */
  readonly policyMapMax?: number | undefined;
  /** Versions of policies that stay in force because a later one cannot be read. Default: none outlives the process. */
  readonly formerPolicies?: FormerPolicies | undefined;
  /** Which Services are translated, and how. Default: DEFAULT_SERVICE_RULES. */
  readonly services?: ServiceRules | undefined;
  /** Is told of each node, and of the row that an address has now. Default: nobody is. */
  readonly hostRoutes?: Pick<HostRouteKeeper, 'setNode' | 'setRow'> | undefined;
  /** Called when everything that was applied has been handed to the kernel. Default: nobody is told. */
  readonly onFlushed?: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): Engine {
  const { datapath, node, hostRoutes, clock, logger } = options;
  const ownId = node.clusterId;
  const completeness = createCompleteness(ownId);
  const hosts = createSharedTexts();
  const adopted = createAddressRows(hosts);
  const ipcacheRec = createReconciler(datapath.ipcache, {
    sameRow: sameIpcacheEntry,
    stores: { desired: createAddressRows(hosts), adopted },
  });
  const endpointsRec = createReconciler(datapath.endpoints, { sameRow: sameEndpoint });
  const policyRec = createReconciler(datapath.policy, { sameRow: samePolicy });
  const servicesRec = createReconciler(datapath.services, { sameRow: sameFrontend });
  const reconcilers = [policyRec, endpointsRec, ipcacheRec, servicesRec];
  const ipcache = createIpcacheState(node, {
    reconciler: ipcacheRec,
    hosts,
    adopted,
    isKnown: (identity) => !isHolding && policies.labelsOf(identity) !== undefined,
  });
  const services = createServiceState(node, {
    reconciler: servicesRec,
    rules: options.services ?? DEFAULT_SERVICE_RULES,
    isOutstanding: (clusterId) => completeness.isOutstanding(clusterId, ['services']),
  });
  const policies = createPolicyState({
    endpoints: endpointsRec,
    policy: policyRec,
    ownIdentityOf: ipcache.ownIdentityOf,
    holderOf: ipcache.holderOf,
    formerIdentityOf: ipcache.formerIdentityOf,
    max: options.max,
    modes: { enforcement: options.enforcement ?? 'default' },
    identityGraceMs: options.identityGraceMs,
    maxEach: options.policyMapMax,
    maxEntries: datapath.capacities().find(({ map }) => map === 'mesh_policy')?.maxEntries,
  });
  const { peers } = policies;
  const feed = createPolicyFeed(policies, {
    clusterName: node.clusterName,
    defaultLocalCluster: options.policyDefaultLocalCluster,
    former: options.formerPolicies,
    logger,
  });
  const localIdentities = createLocalIdentityRows({
    adopted,
    ipcache,
    peers,
    now: clock.monotonic(),
  });
  policies.setEndpoint(hostEndpoint(node), { restored: true });
  const writePolicies = createPolicyFlush(policyRec, policies);
  const bell = createBell();
  const startedAt = clock.monotonic();
  /** Whether rows of a previous process still judge, whoever is named meanwhile; and until when peers are waited for. */
  let isHolding = false;
  let waitsUntil: number | undefined;
  let reconsider = true;
  /** Whether some cluster's services became known, or its absence, since the last look at what is remembered. */
  let servicesSpoke = true;
  let unreadable: ReadonlySet<number> | undefined;

  /** Removes what a previous process left and nobody can want any more. */
  const prune = (): void => {
    if (servicesSpoke) services.forgetRemembered();
    servicesSpoke = false;
    services.refresh();
    for (const clusterId of adopted.clusters()) {
      if (completeness.isOutstanding(clusterId, ['nodes', 'ips'])) continue;
      ipcacheRec.table.prune(
        ({ identity }) => !policies.isReleased && localIdentityScope(identity)?.scope === 'cidr',
        adopted.ofCluster(clusterId),
      );
    }
    servicesRec.table.prune(() => !completeness.isSynced(ownId, 'local-services'));
    if (unreadable === undefined) return;
    const lost = unreadable;
    const known = new Set(policies.endpoints().map(({ endpointId }) => endpointId));
    endpointsRec.table.prune(({ endpointId }) => known.has(endpointId) || lost.has(endpointId));
    const carried = localIdentities.carried();
    const possibly = {
      isOutstanding: (clusterId: number) => completeness.isOutstanding(clusterId, ['identities']),
      isCarried: (identity: number) => carried.has(identity),
    };
    policyRec.table.prune((row) => lost.has(row.endpointId) || policies.couldWant(row, possibly));
  };

  /**
   * Once the own cluster has said everything that policies are about, they are what holds. Where a previous process left
   * rows, so have its peers, unless they take too long: until then those rows judge their pods as before.
   */
  const releaseWhenRead = (now: number): void => {
    if (policies.isReleased) return;
    const isRead =
      completeness.isSynced(ownId, 'local-policies') &&
      completeness.isSynced(ownId, 'local-services') &&
      !completeness.isOutstanding(ownId, ['nodes', 'identities', 'ips']);
    if (!isRead) return;
    if (isHolding && !completeness.arePeersSynced(PEER_KINDS)) {
      waitsUntil = startedAt + PEERS_WAIT_MS;
      if (now < waitsUntil) return;
    }
    isHolding = false;
    waitsUntil = undefined;
    reconsider = true;
    policies.release();
    feed.complete();
    // Addresses may have waited for it.
    for (const [identity] of peers.identities()) ipcache.identityKnown(identity);
  };

  const refreshAddresses = (): void => {
    for (const prefix of ipcache.refresh(clock.monotonic())) {
      policies.touchPrefix(prefix);
      hostRoutes?.setRow(prefix, ipcacheRec.table.get(datapath.ipcache.keyOf({ prefix })));
    }
  };

  /** Gives addresses the identities that the compiler has given, or takes these away. */
  const handOut = (): void => {
    localIdentities.refresh(policies.isReleased);
    refreshAddresses();
  };

  const flush = (): void => {
    const now = clock.monotonic();
    services.refresh();
    do {
      refreshAddresses();
      if (reconsider || (waitsUntil !== undefined && now >= waitsUntil)) releaseWhenRead(now);
      policies.prepare(now);
      handOut();
      // Identities are known before the addresses that carry them, and whoever a service sends to before it. All of that
      // comes before rules that tell them from others.
      writePolicies(now);
      ipcacheRec.flush(now, { upserts: () => true });
      servicesRec.flush(now);
      ipcacheRec.flush(now, { deletes: () => true });
      policies.commit(now);
      // No endpoint is reachable, and none is closed, before its policy is there; nobody loses the identity that a rule
      // told it by before that rule is gone.
      writePolicies(now);
      endpointsRec.flush(now);
      policyRec.flush(now, { deletes: () => true });
    } while (policies.isStale);
    policies.tidy();
    policyRec.flush(now, { deletes: isKnownRow });
    handOut();
    if (reconsider) {
      reconsider = false;
      prune();
      policyRec.flush(now);
      endpointsRec.flush(now);
    }
    servicesRec.flush(now);
    ipcacheRec.flush(now);
    options.onFlushed?.();
  };

  const apply = (cluster: ClusterRef, change: ClusterChange): void => {
    switch (change.kind) {
      case 'node':
        ipcache.setNode(cluster, change.name, change.value);
        setNodeLabels(cluster, change.name, change.value);
        hostRoutes?.setNode(cluster, change.name, change.value);
        if (cluster.own && change.name === node.nodeName) {
          services.setZone(change.value?.labels?.[ZONE_LABEL] ?? '');
        }
        return;
      case 'ip':
        ipcache.setIp(cluster, change.prefix, change.value);
        policies.setNamedPorts(
          cluster.id,
          change.prefix,
          change.value && { identity: change.value.identity, ports: change.value.namedPorts },
        );
        return;
      case 'identity':
        policies.setIdentity(change.id, change.value);
        if (change.value !== undefined) ipcache.identityKnown(change.id);
        return;
      case 'service':
        services.setRemote(cluster, change.name, change.value);
        return;
      case 'local-service':
        services.setLocal(change.name, change.value);
        policies.setService(change.name, change.value && servicePeer(change.value));
        return;
      case 'service-export':
      case 'endpoint-slice':
        // An agent does not read them.
        return;
      case 'local-policy':
        feed.set(change.name, change.value);
        return;
      default:
        change satisfies never;
    }
  };

  const setNodeLabels = (cluster: ClusterRef, name: string, value: Node | undefined): void => {
    const labels = value && labelsFromRecord({ ...value.labels, [CLUSTER_LABEL]: cluster.name });
    const isOwn = cluster.own && name === node.nodeName && node.hostEndpoint === undefined;
    policies.setNode(nodeKey(cluster, name), labels, { isOwn });
  };

  const touched = (): void => {
    reconsider = true;
    bell.ring();
  };

  return {
    apply(cluster, change) {
      apply(cluster, change);
      bell.ring();
    },
    synced(cluster, kind) {
      completeness.synced(cluster.id, kind);
      servicesSpoke ||= kind === 'services';
      touched();
    },
    removed(cluster) {
      completeness.removed(cluster.id);
      servicesSpoke = true;
      touched();
    },
    setPeers(peers) {
      completeness.setPeers(peers);
      servicesSpoke = true;
      touched();
    },
    setWithdrawn(clusterId, level, withdrawal) {
      services.setWithdrawn(clusterId, level, withdrawal);
      bell.ring();
    },
    restoreEndpoints(endpoints, ids) {
      unreadable = ids;
      for (const endpoint of endpoints) policies.setEndpoint(endpoint, { restored: true });
      isHolding = policies.endpoints().some(({ held }) => held);
      touched();
    },
    addEndpoint(endpoint) {
      policies.setEndpoint(endpoint, { restored: false });
      flush();
      const failure = endpointsRec.table.failureOf(datapath.endpoints.keyOf(endpoint));
      if (failure === undefined) return;
      policies.removeEndpoint(endpoint.endpointId);
      flush();
      throw failure;
    },
    removeEndpoint(endpointId) {
      policies.removeEndpoint(endpointId);
      flush();
    },
    setAudit(endpointId, on) {
      if (!policies.setAudit(endpointId, on)) return false;
      flush();
      const failure = endpointsRec.table.failureOf(
        datapath.endpoints.keyOf({ endpointId, addresses: [] }),
      );
      if (failure !== undefined) throw failure;
      return true;
    },
    flush,
    audited: reconcilers,
    addresses: {
      desired: () => ipcacheRec.table.desired(),
      adopted: () => ipcacheRec.table.adopted(),
    },
    async run(signal) {
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      let wroteAt = -COALESCE_MS;
      while (!signal.aborted) {
        const now = clock.monotonic();
        await bell.wait(
          untilDue(
            [
              ...reconcilers.map(({ table }) => table.nextRetryAt()),
              policies.nextRefreshAt(),
              waitsUntil,
              ipcache.nextRefreshAt(),
            ],
            now,
          ),
          clock,
        );
        const early = wroteAt + COALESCE_MS - clock.monotonic();
        if (early > 0) await clock.sleep(early, signal).catch(() => undefined);
        if (signal.aborted) return;
        bell.clear();
        flush();
        wroteAt = clock.monotonic();
      }
    },
    policyEntries: () => policies.entriesOf(),
    policyView: {
      get isReleased() {
        return policies.isReleased;
      },
      rowsOf: (endpointId) => policies.rowsOf(endpointId),
      rulesOf: (row) => policies.rulesOf(row),
      policies: () => policies.policies(),
      endpoints: () => policies.endpoints(),
      originOf: (policy) => feed.originOf(policy),
      groups: () => feed.groups(),
      peers,
      nodeLabelsOf: (clusterId, name) => peers.nodes.labelsOf(`${clusterId}/${name}`),
    },
    addressRow: (prefix) => ipcacheRec.table.get(datapath.ipcache.keyOf({ prefix })),
    frontends: () => servicesRec.table.desired(),
    services: { names: () => services.names(), facts: (name) => services.facts(name) },
    labelsOf: (identity) => policies.labelsOf(identity),
    serviceOf(frontend) {
      const key = datapath.services.keyOf({ ...frontend, scope: 'internal' });
      return servicesRec.table.get(key)?.service || undefined;
    },
    status: () => ({
      tables: reconcilers.map((reconciler) => reconciler.status()),
      endpoints: policies.endpoints(),
      policies: policies.policies(),
      policyPressure: policies.pressure,
      services: services.counts(),
      identities: policies.identityCount,
      addressConflicts: ipcache.conflicts(),
      serviceConflicts: services.conflicts(),
    }),
  };
}

/** Milliseconds until the first of several times, at most a minute. */
function untilDue(times: readonly (number | undefined)[], now: number): number {
  let delay = 60_000;
  for (const at of times) if (at !== undefined) delay = Math.min(delay, Math.max(0, at - now));
  return delay;
}

function servicePeer({ namespace, name, labels = {}, backends }: LocalService): ServicePeer {
  return { namespace, name, labels: labelsFromRecord(labels), addresses: [...backends.keys()] };
}
