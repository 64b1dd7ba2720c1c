import type { ClusterChange, ClusterRef, ClusterSink } from '../../mesh/remote/cluster-sink.ts';
import { createBell } from '../../mesh/runtime/bell.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { Labels } from '../../mesh/wire/identity.ts';
import type { ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { Datapath, EndpointEntry, FrontendKey, PolicyEntry } from '../datapath/desired.ts';
import type { AddressConflict } from '../merge/address-book.ts';
import { createAddressRows } from '../merge/address-rows.ts';
import { type NodeContext, sameIpcacheEntry } from '../merge/addresses.ts';
import { sameFrontend } from '../merge/frontends.ts';
import { DEFAULT_SERVICE_RULES, type ServiceRules } from '../merge/service-rules.ts';
import { createSharedTexts } from '../merge/shared-texts.ts';
import { policyName } from '../policy/compile.ts';
import { parsePolicy } from '../policy/parse.ts';
import type { AuditedTable } from './audit.ts';
import { createCompleteness } from './completeness.ts';
import { createIpcacheState } from './ipcache-state.ts';
import {
  createPolicyState,
  type EndpointState,
  type LocalEndpoint,
  type PolicyState,
} from './policy-state.ts';
import { createReconciler, type ReconcilerStatus } from './reconciler.ts';
import { createServiceState, type Withdrawal } from './service-state.ts';

/** Least time between two writes, in milliseconds: a change that comes alone is written at once, a flood in batches. */
const COALESCE_MS = 1;

/** Kubernetes' label of a node's zone. */
const ZONE_LABEL = 'topology.kubernetes.io/zone';

/** What an agent knows and wants, for people. */
export interface EngineStatus {
  readonly tables: readonly ReconcilerStatus[];
  readonly endpoints: readonly EndpointState[];
  readonly policies: ReturnType<PolicyState['policies']>;
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
   * Withdraws the backends of a peer from services, or takes them back; written with the next flush. `always`: with
   * `gone`, also where they are the last ones of a service.
   */
  setWithdrawn(clusterId: number, level: Withdrawal, options: { readonly always: boolean }): void;
  /** Computes and writes what is outstanding now. */
  flush(): void;
  /** Writes changes as they come, until `signal` aborts. Leaves the kernel as it is. */
  run(signal: AbortSignal): Promise<void>;
  status(): EngineStatus;
  /** Labels of an identity of any cluster; undefined: nobody has said them. */
  labelsOf(identity: number): Labels | undefined;
  /** `namespace/name` of the service whose frontend sockets of this node call there. */
  serviceOf(frontend: Omit<FrontendKey, 'scope'>): string | undefined;
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
  /** Which Services are translated, and how. Default: DEFAULT_SERVICE_RULES. */
  readonly services?: ServiceRules | undefined;
  /** Called when everything that was applied has been handed to the kernel. Default: nobody is told. */
  readonly onFlushed?: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}): Engine {
  const { datapath, node, clock, logger } = options;
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
  const ipcache = createIpcacheState(node, { reconciler: ipcacheRec, hosts });
  const services = createServiceState(node, {
    reconciler: servicesRec,
    rules: options.services ?? DEFAULT_SERVICE_RULES,
    isOutstanding: (clusterId) => completeness.isOutstanding(clusterId, ['services']),
  });
  const policies = createPolicyState({
    endpoints: endpointsRec,
    policy: policyRec,
    policyKeyOf: (row) => datapath.policy.keyOf(row),
    ownIdentityOf: ipcache.ownIdentityOf,
    max: options.max,
  });
  const bell = createBell();
  let reconsider = true;
  /** Whether some cluster's services became known, or its absence, since the last look at what is remembered. */
  let servicesSpoke = true;
  let unreadable: ReadonlySet<number> | undefined;

  /** Removes what a previous process left and nobody can want any more. */
  const prune = (): void => {
    const isOwnSynced = completeness.isSynced(ownId, 'local-policies');
    if (isOwnSynced && !completeness.isOutstanding(ownId, ['identities', 'ips']))
      policies.release();
    if (servicesSpoke) services.forgetRemembered();
    servicesSpoke = false;
    policies.refresh();
    services.refresh();
    for (const clusterId of adopted.clusters()) {
      if (completeness.isOutstanding(clusterId, ['nodes', 'ips'])) continue;
      ipcacheRec.table.prune(() => false, adopted.ofCluster(clusterId));
    }
    servicesRec.table.prune(() => !completeness.isSynced(ownId, 'local-services'));
    if (unreadable === undefined) return;
    const lost = unreadable;
    const known = new Set(policies.endpoints().map(({ endpointId }) => endpointId));
    endpointsRec.table.prune(({ endpointId }) => known.has(endpointId) || lost.has(endpointId));
    policyRec.table.prune(
      (row) =>
        lost.has(row.endpointId) ||
        policies.couldWant(row, (clusterId) =>
          completeness.isOutstanding(clusterId, ['identities']),
        ),
    );
  };

  const flush = (): void => {
    for (const prefix of ipcache.refresh()) policies.touchPrefix(prefix);
    policies.refresh();
    services.refresh();
    if (reconsider) {
      reconsider = false;
      prune();
    }
    const now = clock.monotonic();
    // No endpoint is reachable before its policy, and none keeps rows that its policy no longer has.
    policyRec.flush(now, 'upsert');
    endpointsRec.flush(now);
    policyRec.flush(now, 'delete');
    ipcacheRec.flush(now);
    servicesRec.flush(now);
    options.onFlushed?.();
  };

  const apply = (cluster: ClusterRef, change: ClusterChange): void => {
    switch (change.kind) {
      case 'node':
        ipcache.setNode(cluster, change.name, change.value);
        if (cluster.own && change.name === node.nodeName) {
          services.setZone(change.value?.labels?.[ZONE_LABEL] ?? '');
        }
        return;
      case 'ip':
        ipcache.setIp(cluster, change.prefix, change.value);
        return;
      case 'identity':
        policies.setIdentity(change.id, change.value);
        return;
      case 'service':
        services.setRemote(cluster, change.name, change.value);
        return;
      case 'local-service':
        services.setLocal(change.name, change.value);
        return;
      case 'service-export':
      case 'endpoint-slice':
        // An agent does not read them.
        return;
      case 'local-policy':
        setPolicy(change);
        return;
      default:
        change satisfies never;
    }
  };

  const setPolicy = (change: Extract<ClusterChange, { kind: 'local-policy' }>): void => {
    if (change.value === undefined) {
      policies.setPolicy(change.name, undefined);
      return;
    }
    const parsed = parsePolicy(change.value, {
      clusterName: node.clusterName,
      defaultLocalCluster: options.policyDefaultLocalCluster,
    });
    policies.setPolicy(change.name, parsed);
    for (const { message } of parsed.problems) {
      logger.warn(
        { policy: policyName(parsed), problem: message },
        'policy is not enforced as written',
      );
    }
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
    flush,
    audited: reconcilers,
    async run(signal) {
      signal.addEventListener('abort', () => bell.ring(), { once: true });
      let wroteAt = -COALESCE_MS;
      while (!signal.aborted) {
        await bell.wait(untilRetry(reconcilers, clock.monotonic()), clock);
        const early = wroteAt + COALESCE_MS - clock.monotonic();
        if (early > 0) await clock.sleep(early, signal).catch(() => undefined);
        if (signal.aborted) return;
        bell.clear();
        flush();
        wroteAt = clock.monotonic();
      }
    },
    labelsOf: (identity) => policies.labelsOf(identity),
    serviceOf(frontend) {
      const key = datapath.services.keyOf({ ...frontend, scope: 'internal' });
      return servicesRec.table.get(key)?.service || undefined;
    },
    status: () => ({
      tables: reconcilers.map((reconciler) => reconciler.status()),
      endpoints: policies.endpoints(),
      policies: policies.policies(),
      services: services.counts(),
      identities: policies.identityCount,
      addressConflicts: ipcache.conflicts(),
      serviceConflicts: services.conflicts(),
    }),
  };
}

/** Milliseconds until some failed write may be tried again; a minute when none has failed. */
function untilRetry(
  reconcilers: readonly { readonly table: { nextRetryAt(): number | undefined } }[],
  now: number,
): number {
  let delay = 60_000;
  for (const { table } of reconcilers) {
    const at = table.nextRetryAt();
    if (at !== undefined) delay = Math.min(delay, Math.max(0, at - now));
  }
  return delay;
}

function sameEndpoint(a: EndpointEntry, b: EndpointEntry): boolean {
  return (
    a.ifindex === b.ifindex &&
    a.hostInterface === b.hostInterface &&
    a.mac.toLowerCase() === b.mac.toLowerCase() &&
    a.identity === b.identity &&
    a.ingressEnforced === b.ingressEnforced &&
    a.egressEnforced === b.egressEnforced &&
    [...a.addresses].sort().join() === [...b.addresses].sort().join()
  );
}

function samePolicy(a: PolicyEntry, b: PolicyEntry): boolean {
  return a.verdict === b.verdict;
}
