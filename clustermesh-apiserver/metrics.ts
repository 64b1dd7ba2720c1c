/** The apiserver's state as metrics: what is published, who reads it, what it runs on. Read at each scrape. */
import { addKvMetrics } from '../mesh/kvstore/kv-metrics.ts';
import type { KvStatistics } from '../mesh/kvstore/measured-store.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { BucketCounts, Metrics } from '../mesh/runtime/metrics.ts';
import {
  clusterLocalIdentityBits,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
} from '../mesh/wire/ids.ts';
import type { KubernetesProgress } from './cluster-source.ts';
import { addControllersMetrics } from './controllers/controllers-metrics.ts';
import type { Controllers } from './controllers/run.ts';
import { addEnrollmentMetrics } from './enrollment-metrics.ts';
import type { EtcdState } from './etcd/embedded-etcd.ts';
import type { GateStatus } from './gate/gate.ts';
import { addKubernetesMetrics } from './kubernetes-metrics.ts';
import type { PublisherStatus } from './publish/publisher.ts';
import type { OfficeStatus } from './registry/enrollment-office.ts';

/** Cilium's prefix for its apiserver (`clustermesh-apiserver/metrics`). */
const PREFIX = 'cilium_clustermesh_apiserver_';

/** What the metrics are made of; what is undefined has not been started yet. */
export interface ApiserverMetricsSources {
  readonly cluster: string;
  readonly maxConnectedClusters: MaxConnectedClusters;
  readonly missing: () => readonly string[];
  readonly published: () => PublisherStatus | undefined;
  readonly queueTimes: () => BucketCounts | undefined;
  readonly manifestProblems: () => number;
  /** Undefined: the cluster does not come from an API server. */
  readonly kubernetes?: (() => KubernetesProgress | undefined) | undefined;
  /** Undefined: nothing is written to Kubernetes. */
  readonly controllers?: (() => Controllers | undefined) | undefined;
  readonly gate: () => GateStatus | undefined;
  /** Undefined: no machine can enrol here. */
  readonly enrollment?: (() => OfficeStatus | undefined) | undefined;
  readonly etcd: () => EtcdState | undefined;
  readonly kvStatistics: KvStatistics;
  readonly clock: Clock;
}

/** Adds an apiserver's metrics. The time of the call is the start that `bootstrap_seconds` counts from. */
export function addApiserverMetrics(metrics: Metrics, sources: ApiserverMetricsSources): void {
  addReadiness(metrics, sources);
  addPublished(metrics, sources);
  addGate(metrics, sources);
  const { enrollment, kubernetes, controllers } = sources;
  if (enrollment !== undefined) addEnrollmentMetrics(metrics, enrollment);
  if (kubernetes !== undefined) addKubernetesMetrics(metrics, kubernetes);
  if (controllers !== undefined) addControllersMetrics(metrics, { controllers });
  addKvMetrics(metrics, sources.kvStatistics, { prefix: PREFIX });
}

function addReadiness(metrics: Metrics, sources: ApiserverMetricsSources): void {
  const { clock } = sources;
  const startedAt = clock.monotonic();
  let bootstrapSeconds: number | undefined;
  const bootstrap = metrics.gauge(`${PREFIX}bootstrap_seconds`, {
    help: 'How long it took from the start until everything was published; absent until then',
  });
  const ready = metrics.gauge('isthmus_ready', {
    help: 'Whether this apiserver does its part, 1 or 0; /readyz says why not',
  });
  const etcd = metrics.gauge('isthmus_embedded_etcd_running', {
    help: 'Whether the embedded etcd runs, 1 or 0; absent with an etcd run by others',
  });
  metrics.onCollect(() => {
    if (sources.published()?.ready === true) {
      bootstrapSeconds ??= (clock.monotonic() - startedAt) / 1000;
    }
    if (bootstrapSeconds !== undefined) bootstrap.set(bootstrapSeconds, {});
    ready.set(sources.missing().length === 0 ? 1 : 0, {});
    const state = sources.etcd();
    if (state !== undefined) etcd.set(state.kind === 'running' ? 1 : 0, {});
  });
}

function addPublished(metrics: Metrics, sources: ApiserverMetricsSources): void {
  const queue = metrics.gauge(`${PREFIX}kvstore_sync_queue_size`, {
    help: 'Keys whose write to etcd is still to be done',
    labels: ['scope', 'source_cluster'],
  });
  const queueTimes = metrics.pulledHistogram('isthmus_publisher_queue_seconds', {
    help: 'How long a changed key waited until etcd had it; the first publication counts, too',
  });
  const errors = metrics.counter(`${PREFIX}kvstore_sync_errors_total`, {
    help: 'Writes to etcd that failed; they are tried again',
    labels: ['scope', 'source_cluster'],
  });
  const initialSync = metrics.gauge(`${PREFIX}kvstore_initial_sync_completed`, {
    help: 'Whether everything that was there at the start has been written, 1 or 0',
    labels: ['scope', 'source_cluster', 'action'],
  });
  const count = (name: string, help: string) =>
    metrics.gauge(`isthmus_published_${name}`, { help });
  const keys = count('keys', 'Keys that etcd shall hold');
  const refused = count('keys_refused', 'Keys whose value etcd will not take');
  const endpoints = count('endpoints', 'Addresses that are published');
  const unnumbered = count(
    'endpoints_without_identity',
    'Addresses that are left out because the cluster has no number left for their labels',
  );
  const leading = metrics.gauge('isthmus_publisher_leading', {
    help: 'Whether this replica is the one that writes, 1 or 0',
  });
  const terms = metrics.counter('isthmus_publisher_terms_total', {
    help: 'How often this replica has become the one that writes',
  });
  const problems = metrics.gauge('isthmus_manifest_problems', {
    help: 'Objects or files that cannot be used; /status names them',
  });
  const identities = metrics.gauge('isthmus_published_identities', {
    help: "Numbers of the cluster's range, used and free",
    labels: ['state'],
  });
  const range =
    2 ** clusterLocalIdentityBits(sources.maxConnectedClusters) - MINIMUM_ALLOCATED_IDENTITY;
  metrics.onCollect(() => {
    problems.set(sources.manifestProblems(), {});
    const published = sources.published();
    if (published === undefined) return;
    // One queue for all kinds: what is written together travels together.
    const label = { scope: 'all', source_cluster: sources.cluster };
    queue.set(published.pending, label);
    const waited = sources.queueTimes();
    if (waited !== undefined) queueTimes.set(waited, {});
    errors.set(published.errors, label);
    initialSync.set(published.ready ? 1 : 0, { ...label, action: 'write' });
    keys.set(published.keys, {});
    refused.set(Object.keys(published.refused).length, {});
    endpoints.set(published.endpoints, {});
    unnumbered.set(published.endpointsWithoutIdentity, {});
    leading.set(published.role.kind === 'leading' ? 1 : 0, {});
    terms.set(published.terms, {});
    identities.set(published.identities, { state: 'used' });
    identities.set(range - published.identities, { state: 'free' });
  });
}

function addGate(metrics: Metrics, { gate }: ApiserverMetricsSources): void {
  const connections = metrics.gauge('isthmus_gate_connections', {
    help: 'Connections to the gate, by kind of caller',
    labels: ['kind'],
  });
  const callers = metrics.gauge('isthmus_gate_callers', {
    help: 'Certificates that are connected to the gate, by kind of caller',
    labels: ['kind'],
  });
  const watches = metrics.gauge('isthmus_gate_watches', {
    help: 'Watches: of callers, of etcd that they share, and of etcd that one caller has to itself to catch up',
    labels: ['kind'],
  });
  const refusals = metrics.counter('isthmus_gate_refusals_total', {
    help: 'Connections and calls that the gate refused, by reason',
    labels: ['reason'],
  });
  const bytes = metrics.counter('isthmus_gate_sent_bytes_total', {
    help: 'Bytes that the gate sent to callers, encryption included',
  });
  const warnings = metrics.gauge('isthmus_gate_warnings', {
    help: 'What a person should know of the files of the gate; /status says what',
  });
  const expiry = metrics.gauge('isthmus_certificate_expiry_timestamp_seconds', {
    help: 'When a certificate in use runs out, seconds since 1970',
    labels: ['use'],
  });
  metrics.onCollect(() => {
    const status = gate();
    if (status === undefined) return;
    const byKind = new Map<string, { connections: number; callers: number }>();
    for (const client of status.clients) {
      const sum = byKind.get(client.kind) ?? { connections: 0, callers: 0 };
      sum.connections += client.connections;
      sum.callers += 1;
      byKind.set(client.kind, sum);
    }
    for (const [kind, sum] of byKind) {
      connections.set(sum.connections, { kind });
      callers.set(sum.callers, { kind });
    }
    watches.set(status.watches, { kind: 'callers' });
    watches.set(status.sharedWatches, { kind: 'shared' });
    watches.set(status.privateWatches, { kind: 'private' });
    for (const [reason, { count }] of Object.entries(status.refused)) {
      refusals.set(count, { reason });
    }
    bytes.set(status.sentBytes, {});
    warnings.set(status.warnings.length, {});
    if (status.certificateExpiresAt !== undefined) {
      expiry.set(status.certificateExpiresAt / 1000, { use: 'gate' });
    }
  });
}
