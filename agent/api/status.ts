import type { Mesh } from '../../mesh/remote/mesh.ts';
import type { PeerStatus } from '../../mesh/remote/peer.ts';
import type { DatapathUpkeep, UpkeepReport } from '../datapath/desired.ts';
import type { EndpointManager } from '../endpoints/manager.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { FirewallReport } from '../host-firewall/firewall-report.ts';
import type { NodeContext } from '../merge/addresses.ts';
import {
  DEFAULT_SERVICE_RULES,
  type DecidedServices,
  type ServiceScope,
} from '../merge/service-rules.ts';
import { conflictsByCluster } from '../metrics/agent-metrics.ts';
import type { Readiness } from '../metrics/readiness.ts';
import { policyName, selectsEndpoint } from '../policy/compile.ts';
import type { PolicyProblem } from '../policy/rule.ts';
import type { AuditStatus } from '../state/audit.ts';
import type { Engine, EngineStatus } from '../state/engine.ts';
import type { ReconcilerStatus } from '../state/reconciler.ts';
import type { Withdrawal } from '../withdrawal/withdrawal.ts';

/** A cluster as `status` shows it. */
export interface ClusterReport extends PeerStatus {
  /** Addresses that it claims and does not get, because another cluster holds them. */
  readonly addressesRefused: number;
}

/** A policy as `status` shows it. */
export interface PolicyReport {
  readonly policy: string;
  readonly generation: number;
  readonly state: 'enforced' | 'partly-refused';
  /** Endpoints of this node that it selects. */
  readonly endpoints: readonly number[];
  /** Rows of this node's policy table that its rules have a part in. */
  readonly entries: number;
  /** What fails at present, with what to do; undefined: nothing. */
  readonly lastError: string | undefined;
  /** What of it is not enforced as written, and what happens instead. */
  readonly problems: readonly PolicyProblem[];
}

/** An endpoint as `status` shows it. */
export interface EndpointReport {
  readonly endpointId: number;
  /** `namespace/name`, empty when the runtime did not say; `host` of the host itself. */
  readonly pod: string;
  readonly containerId: string;
  readonly addresses: readonly string[];
  readonly hostInterface: string;
  readonly ifindex: number;
  readonly identity: number;
  readonly labels: readonly string[];
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  readonly policies: readonly string[];
  /** Rows of the policy table that it needs. */
  readonly policyEntries: number;
}

/** The session with the own cluster's registry as `status` shows it. */
export interface RegistryReport {
  readonly text: string;
  readonly healthy: boolean;
}

/** The whole state of an agent: what `GET /v1/status` answers, and `status -o json` prints. */
export interface AgentStatus {
  readonly cluster: { readonly name: string; readonly id: number };
  readonly node: string;
  readonly version: string;
  /** RFC 3339. */
  readonly startedAt: string;
  /** The node does its part: nothing is in `missing`. */
  readonly ready: boolean;
  /** Why it is not ready, a sentence each with what to do. */
  readonly missing: readonly string[];
  /** Own cluster first, then peers by name. */
  readonly clusters: readonly ClusterReport[];
  readonly notes: readonly string[];
  readonly tables: readonly ReconcilerStatus[];
  /** What comparing the kernel with what is wanted found. */
  readonly audit: AuditStatus;
  readonly endpoints: readonly EndpointReport[];
  readonly policies: readonly PolicyReport[];
  readonly services: EngineStatus['services'] & {
    /** Which ones this node translates, and why. */
    readonly translated: string;
    readonly scope: ServiceScope;
    readonly kubeProxyReplacement: boolean;
  };
  readonly identities: number;
  readonly conflicts: readonly string[];
  /** How packets travel, and how full the maps of flows are; undefined where nothing travels. */
  readonly datapath: UpkeepReport | undefined;
  /** State of the stream to the own cluster's registry; undefined where there is none. */
  readonly registry: RegistryReport | undefined;
  /** Whom policies of a machine judge; undefined on nodes. */
  readonly hostPolicy: FirewallReport | undefined;
}

/** What a status is made of. */
export interface StatusSources {
  readonly node: NodeContext;
  readonly version: string;
  readonly startedAt: number;
  readonly engine: Engine;
  readonly mesh: Mesh;
  readonly endpoints: EndpointManager;
  readonly readiness: Readiness;
  readonly audit: () => AuditStatus;
  readonly withdrawal: Pick<Withdrawal, 'notes'>;
  readonly upkeep?: Pick<DatapathUpkeep, 'report'> | undefined;
  /** Default: all Services. */
  readonly decidedServices?: DecidedServices | undefined;
  /** Asked anew each time. */
  readonly registry: () => RegistryReport | undefined;
  /** The same. Absent on nodes. */
  readonly hostPolicy?: (() => FirewallReport) | undefined;
}

/** Gathers the state of an agent. */
export function buildStatus(sources: StatusSources): AgentStatus {
  const { node } = sources;
  const engine = sources.engine.status();
  const mesh = sources.mesh.status();
  const nameOfId = new Map(mesh.clusters.map(({ clusterId, name }) => [clusterId, name]));
  const clusterText = (id: number): string => nameOfId.get(id) ?? `cluster id ${id}`;
  const refused = conflictsByCluster(engine);
  const missing = sources.readiness.missing(mesh);
  const datapath = sources.upkeep?.report();
  const hostPolicy = sources.hostPolicy?.();
  const rules = sources.decidedServices?.rules ?? DEFAULT_SERVICE_RULES;
  return {
    cluster: { name: node.clusterName, id: node.clusterId },
    node: node.nodeName,
    version: sources.version,
    startedAt: new Date(sources.startedAt).toISOString(),
    ready: missing.length === 0,
    missing,
    clusters: mesh.clusters.map((cluster) => ({
      ...cluster,
      addressesRefused: refused.get(cluster.clusterId ?? -1) ?? 0,
    })),
    notes: [
      ...mesh.notes,
      ...sources.withdrawal.notes(),
      ...sources.endpoints.problems(),
      ...(hostPolicy?.problems ?? []),
      ...pressureNotes(engine),
      ...(datapath?.problems ?? []),
      ...(sources.decidedServices?.problem === undefined ? [] : [sources.decidedServices.problem]),
    ],
    tables: engine.tables,
    audit: sources.audit(),
    endpoints: endpointReports(engine, sources.endpoints),
    policies: policyReports(sources, engine),
    services: {
      ...engine.services,
      translated: sources.decidedServices?.reason ?? 'all',
      scope: rules.services,
      kubeProxyReplacement: rules.kubeProxyReplacement,
    },
    identities: engine.identities,
    conflicts: [
      ...engine.addressConflicts
        .slice(0, 20)
        .map(
          ({ prefix, holder, refused: losers }) =>
            `${prefix} is held by ${holder === 0 ? 'this node' : clusterText(holder)}, not by ${losers.map(clusterText).join(', ')}`,
        ),
      ...engine.serviceConflicts,
    ],
    datapath,
    registry: sources.registry(),
    hostPolicy,
  };
}

function endpointReports(engine: EngineStatus, manager: EndpointManager): EndpointReport[] {
  const records = new Map(manager.records().map((record) => [record.endpointId, record]));
  return engine.endpoints.map((endpoint) => {
    const record = records.get(endpoint.endpointId);
    return {
      endpointId: endpoint.endpointId,
      pod: podName(endpoint, record),
      containerId: record?.containerId ?? '',
      addresses: endpoint.addresses,
      hostInterface: endpoint.hostInterface,
      ifindex: endpoint.ifindex,
      identity: endpoint.identity,
      labels: (endpoint.labels ?? []).map(({ source, key, value }) => `${source}:${key}=${value}`),
      ingressEnforced: endpoint.ingressEnforced,
      egressEnforced: endpoint.egressEnforced,
      policies: endpoint.policies,
      policyEntries: endpoint.entries,
    };
  });
}

function podName(
  { host }: EngineStatus['endpoints'][number],
  record: EndpointRecord | undefined,
): string {
  if (host !== undefined) return 'host';
  if (record === undefined || record.podName === '') return '';
  return `${record.podNamespace}/${record.podName}`;
}

/** How each policy stands on this node. `status`: the engine's, as it is now. */
export function policyReports(
  sources: { readonly engine: Pick<Engine, 'policyEntries'> },
  status: EngineStatus,
): PolicyReport[] {
  const entries = sources.engine.policyEntries();
  const table = status.tables.find(({ name }) => name === 'policy');
  return status.policies.map((policy) => {
    const selected = status.endpoints.filter(
      ({ labels, host }) =>
        labels !== undefined &&
        selectsEndpoint(policy.clauses, { kind: host === 'node' ? 'nodes' : 'pods', labels }),
    );
    const full = selected.filter(({ isOverfull, isRefused }) => isOverfull || isRefused);
    return {
      policy: policyName(policy),
      generation: policy.generation,
      state: policy.problems.length === 0 ? 'enforced' : 'partly-refused',
      endpoints: selected.map(({ endpointId }) => endpointId),
      entries: entries.get(policy) ?? 0,
      lastError:
        full.length > 0
          ? `endpoints ${full.map(({ endpointId }) => endpointId).join(', ')} are closed: see the notes`
          : selected.length > 0
            ? table?.lastError
            : undefined,
      problems: policy.problems,
    };
  });
}

/** Endpoints that are closed because they need more rows than there may be, or because a row cannot be written. */
function pressureNotes({ endpoints, policyPressure, tables }: EngineStatus): string[] {
  const failure = tables.find(({ name }) => name === 'policy')?.lastError;
  const refused = endpoints
    .filter(({ isOverfull, isRefused }) => isRefused && !isOverfull)
    .map(
      ({ endpointId }) =>
        `endpoint ${endpointId} lacks a policy entry that denies: nothing that its policies limit is let through until it is written${failure === undefined ? '' : ` (${failure})`}`,
    );
  const full = endpoints
    .filter(({ isOverfull }) => isOverfull)
    .map(({ endpointId, entries }) =>
      entries > policyPressure.maxEach
        ? `endpoint ${endpointId} needs ${entries} policy entries, more than the ${policyPressure.maxEach} of --bpf-policy-map-max: nothing that its policies limit is let through until there are fewer`
        : `endpoint ${endpointId} needs ${entries} policy entries, for which the policy map of ${policyPressure.maxEntries} has no room: nothing that its policies limit is let through until there are fewer`,
    );
  return [...full, ...refused];
}
