/** An agent's own state as metrics: tables, maps, datapath, endpoints, policies. Read at each scrape, counted nowhere. */
import type { Metrics } from '../../mesh/runtime/metrics.ts';
import type { RegistryReport } from '../api/status.ts';
import type { Datapath } from '../datapath/desired.ts';
import type { Monitor } from '../monitor/monitor.ts';
import type { AuditStatus } from '../state/audit.ts';
import type { Engine, EngineStatus } from '../state/engine.ts';
import type { Readiness } from './readiness.ts';
import { addMonitorMetrics, addTrafficMetrics } from './traffic-metrics.ts';

/** What the metrics are made of. */
export interface AgentMetricsSources {
  readonly engine: Pick<Engine, 'status'>;
  readonly datapath: Pick<Datapath, 'counters' | 'capacities'>;
  readonly readiness: Pick<Readiness, 'missing'>;
  readonly monitor: Pick<Monitor, 'statistics'>;
  readonly audit: () => AuditStatus;
  readonly registry: () => RegistryReport | undefined;
  /** Names of the clusters by their ids, as far as they are known now. */
  readonly clusterNames: () => ReadonlyMap<number, string>;
}

/** Adds an agent's metrics. */
export function addAgentMetrics(metrics: Metrics, sources: AgentMetricsSources): void {
  const ready = metrics.gauge('isthmus_ready', {
    help: 'Whether this node does its part, 1 or 0; /readyz says why not',
  });
  const registry = metrics.gauge('isthmus_registry_session_healthy', {
    help: "Whether the session with the own cluster's registry is accepted, or being made, 1 or 0; absent without one",
  });
  metrics.onCollect(() => {
    ready.set(sources.readiness.missing().length === 0 ? 1 : 0, {});
    const session = sources.registry();
    if (session !== undefined) registry.set(session.healthy ? 1 : 0, {});
  });
  addStateMetrics(metrics, sources);
  addAuditMetrics(metrics, sources.audit);
  addTrafficMetrics(metrics, sources.datapath);
  addMonitorMetrics(metrics, () => sources.monitor.statistics());
  addCapacityMetrics(metrics, sources.datapath);
}

function addStateMetrics(metrics: Metrics, sources: AgentMetricsSources): void {
  const table = (name: string, help: string) =>
    metrics.gauge(`isthmus_table_${name}`, { help, labels: ['table'] });
  const rows = table('rows', 'Rows that the kernel shall hold');
  const pending = table('pending', 'Rows that are not written yet');
  const failed = table('failed', 'Rows that could not be written and are tried again');
  const kept = table(
    'kept',
    'Rows of an earlier process that nobody has asked for or given up yet',
  );
  const count = (name: string, help: string) => metrics.gauge(`isthmus_${name}`, { help });
  const endpoints = count('endpoints', 'Endpoints of this node');
  const unnamed = count('endpoints_without_identity', 'Endpoints whose identity is not known yet');
  const policies = count('policies', 'Policies of the own cluster');
  const policyProblems = count(
    'policy_problems',
    'Parts of policies that are not enforced as written',
  );
  const entries = count('policy_entries', 'Entries of the policy map that all endpoints need');
  const largest = count(
    'endpoint_policy_entries_max',
    'Entries of the policy map that the endpoint with the most of them needs',
  );
  const limit = count(
    'endpoint_policy_entries_limit',
    'Entries of the policy map that one endpoint may need (--bpf-policy-map-max)',
  );
  const overfull = count(
    'endpoints_overfull',
    'Endpoints that are closed because they need more entries of the policy map than there may be',
  );
  const identities = count('identities', 'Identities known, of all clusters');
  const services = metrics.gauge('isthmus_services', {
    help: 'Services, local (of the own cluster) and global (with backends of peers)',
    labels: ['scope'],
  });
  const serviceConflicts = count('service_conflicts', 'Services on which clusters disagree');
  const addressConflicts = metrics.gauge('isthmus_address_conflicts', {
    help: 'Addresses that a cluster claims and does not get, because another holds them',
    labels: ['target_cluster'],
  });
  metrics.onCollect(() => {
    const status = sources.engine.status();
    for (const { name, ...counts } of status.tables) {
      const label = { table: name };
      rows.set(counts.desired, label);
      pending.set(counts.pending, label);
      failed.set(counts.failed, label);
      kept.set(counts.adopted, label);
    }
    endpoints.set(status.endpoints.length, {});
    unnamed.set(status.endpoints.filter(({ labels }) => labels === undefined).length, {});
    policies.set(status.policies.length, {});
    policyProblems.set(
      status.policies.reduce((sum, { problems }) => sum + problems.length, 0),
      {},
    );
    entries.set(status.policyPressure.entries, {});
    largest.set(status.policyPressure.largest, {});
    limit.set(status.policyPressure.maxEach, {});
    overfull.set(status.endpoints.filter(({ isOverfull }) => isOverfull).length, {});
    identities.set(status.identities, {});
    services.set(status.services.local, { scope: 'local' });
    services.set(status.services.global, { scope: 'global' });
    serviceConflicts.set(status.serviceConflicts.length, {});
    const names = sources.clusterNames();
    for (const [id, refused] of conflictsByCluster(status)) {
      addressConflicts.set(refused, { target_cluster: names.get(id) ?? `id ${id}` });
    }
  });
}

function addAuditMetrics(metrics: Metrics, audit: AgentMetricsSources['audit']): void {
  const wrong = metrics.counter('isthmus_audit_wrong_rows_total', {
    help: 'Rows of which the kernel held something else than it should when it was read back',
    labels: ['table'],
  });
  const entries = metrics.gauge('isthmus_table_kernel_entries', {
    help: 'Entries of a table that were in the kernel when it was read back last',
    labels: ['table'],
  });
  const finished = metrics.gauge('isthmus_audit_finished_timestamp_seconds', {
    help: 'When the kernel was last compared with what is wanted, seconds since 1970; absent before the first time',
  });
  const duration = metrics.gauge('isthmus_audit_duration_seconds', {
    help: 'How long that took, other work in between included',
  });
  metrics.onCollect(() => {
    const { at, durationMs, tables } = audit();
    for (const { table, latest, wrong: count } of tables) {
      wrong.set(count, { table });
      entries.set(latest.entries, { table });
    }
    if (at !== undefined) finished.set(at / 1000, {});
    if (durationMs !== undefined) duration.set(durationMs / 1000, {});
  });
}

function addCapacityMetrics(metrics: Metrics, datapath: AgentMetricsSources['datapath']): void {
  const capacity = metrics.gauge('isthmus_map_max_entries', {
    help: 'Most entries that an eBPF map can hold',
    labels: ['map'],
  });
  metrics.onCollect(() => {
    for (const { map, maxEntries } of datapath.capacities()) capacity.set(maxEntries, { map });
  });
}

/** Addresses refused, by the id of the cluster that claims them. */
export function conflictsByCluster(
  status: Pick<EngineStatus, 'addressConflicts'>,
): ReadonlyMap<number, number> {
  const refused = new Map<number, number>();
  for (const conflict of status.addressConflicts) {
    for (const id of conflict.refused) refused.set(id, (refused.get(id) ?? 0) + 1);
  }
  return refused;
}
