/** The clusters that a process reads, as metrics: Cilium's names where it has them, ours for what it does not count. */
import type { Metrics } from '../runtime/metrics.ts';
import { canaryPrefix } from '../wire/keys.ts';
import { MESH_KINDS, type MeshKind } from './cluster-sink.ts';
import { addIntakeMetrics } from './intake-metrics.ts';
import { LAG_BOUNDS, type LagBook } from './lag.ts';
import type { PeerStatus } from './peer.ts';

/** What the metrics are made of. */
export interface MeshMetricsSources {
  readonly clusters: () => readonly PeerStatus[];
  readonly lag: LagBook;
  /** Kinds of a cluster that are wholly written, for a process that mirrors. Default: it does not. */
  readonly written?: (cluster: string) => readonly MeshKind[];
}

/**
 * What Cilium puts before the names: its agent says `cilium_clustermesh_remote_clusters`, its kvstoremesh
 * `cilium_kvstoremesh_remote_clusters` (`pkg/clustermesh/common/metrics.go`).
 */
const PREFIXES = {
  agent: { clustermesh: 'cilium_clustermesh_', kvstore: 'cilium_' },
  kvstoremesh: { clustermesh: 'cilium_kvstoremesh_', kvstore: 'cilium_kvstoremesh_' },
} as const;

const TARGET = ['target_cluster'] as const;

/** Adds the metrics of all clusters that a process reads: at most 511 peers, each with a bounded number of series. */
export function addMeshMetrics(
  metrics: Metrics,
  sources: MeshMetricsSources,
  options: { readonly process: keyof typeof PREFIXES },
): void {
  const { clustermesh, kvstore } = PREFIXES[options.process];
  const clusters = metrics.gauge(`${clustermesh}remote_clusters`, {
    help: 'Peers that this process has files of',
  });
  const lastFailure = metrics.gauge(`${clustermesh}remote_cluster_last_failure_ts`, {
    help: 'Latest failure of a connection to a peer, seconds since 1970; 0: none yet',
    labels: TARGET,
  });
  const readiness = metrics.gauge(`${clustermesh}remote_cluster_readiness_status`, {
    help: 'Whether a peer was read completely and is up to date, 1 or 0',
    labels: TARGET,
  });
  const failures = metrics.counter(`${clustermesh}remote_cluster_failures`, {
    help: 'Connections to a peer that failed',
    labels: TARGET,
  });
  const revocations = metrics.counter(`${clustermesh}remote_cluster_cache_revocations`, {
    help: 'How often the backends of a peer were withdrawn because it was silent',
    labels: TARGET,
  });
  const entries = {
    nodes: metrics.gauge(`${clustermesh}remote_cluster_nodes`, {
      help: 'Nodes of a peer that are in use',
      labels: TARGET,
    }),
    services: metrics.gauge(`${clustermesh}remote_cluster_services`, {
      help: 'Services of a peer that are in use',
      labels: TARGET,
    }),
    ips: metrics.gauge(`${clustermesh}remote_cluster_endpoints`, {
      help: 'Addresses of a peer that are in use',
      labels: TARGET,
    }),
  };
  const initialSync = metrics.gauge(`${kvstore}kvstore_initial_sync_completed`, {
    help: 'Whether everything of a kind has been read over the connection of now, 1 or 0',
    labels: ['scope', 'source_cluster', 'action'],
  });
  const state = metrics.gauge('isthmus_peer_state', {
    help: 'The state that a cluster is in now: one series of value 1',
    labels: [...TARGET, 'state'],
  });
  const use = metrics.gauge('isthmus_peer_backend_use', {
    help: 'How services use the backends of a peer: one series of value 1, level none (withdrawn not at all), last or gone',
    labels: [...TARGET, 'level'],
  });
  const notes = metrics.gauge('isthmus_peer_notes', {
    help: 'What is odd about a cluster although its state may be fine: a series of value 1 for each',
    labels: [...TARGET, 'code'],
  });
  const heartbeat = metrics.gauge('isthmus_peer_heartbeat_timestamp_seconds', {
    help: 'When the heartbeat of a cluster was last seen to change, seconds since 1970',
    labels: TARGET,
  });
  const since = metrics.gauge('isthmus_peer_state_since_seconds', {
    help: 'When that state began, seconds since 1970',
    labels: TARGET,
  });
  const held = metrics.gauge('isthmus_peer_entries', {
    help: 'Entries of a cluster that are in use, by kind',
    labels: [...TARGET, 'kind'],
  });
  const tellIntake = addIntakeMetrics(metrics);
  const expiry = metrics.gauge('isthmus_peer_certificate_expiry_timestamp_seconds', {
    help: 'When the certificate by which a cluster lets us in runs out, seconds since 1970',
    labels: TARGET,
  });

  const tell = (cluster: PeerStatus): void => {
    const target = { target_cluster: cluster.name };
    if (cluster.certificateExpiresAt !== undefined) {
      expiry.set(cluster.certificateExpiresAt / 1000, target);
    }
    state.set(1, { ...target, state: cluster.state.kind });
    since.set(cluster.since / 1000, target);
    for (const code of new Set(cluster.notes.map((note) => note.code))) {
      notes.set(1, { ...target, code });
    }
    if (cluster.heartbeat !== undefined) {
      heartbeat.set(cluster.heartbeat.seenAt / 1000, target);
    }
    for (const [kind, count] of Object.entries(cluster.counts))
      held.set(count, { ...target, kind });
    tellIntake(cluster);
    for (const kind of kindsOf(cluster)) {
      initialSync.set(cluster.synced.includes(kind) ? 1 : 0, {
        scope: scopeOf(kind),
        source_cluster: cluster.name,
        action: 'read',
      });
      if (sources.written === undefined) continue;
      initialSync.set(sources.written(cluster.name).includes(kind) ? 1 : 0, {
        scope: scopeOf(kind),
        source_cluster: cluster.name,
        action: 'write',
      });
    }
    if (cluster.own) return;
    readiness.set(cluster.state.kind === 'ready' ? 1 : 0, target);
    lastFailure.set((cluster.lastError?.at ?? 0) / 1000, target);
    failures.set(cluster.failures, target);
    revocations.set(cluster.revocations, target);
    use.set(1, { ...target, level: cluster.use.level });
    entries.nodes.set(cluster.counts.nodes ?? 0, target);
    entries.services.set(cluster.counts.services ?? 0, target);
    entries.ips.set(cluster.counts.ips ?? 0, target);
  };

  metrics.onCollect(() => {
    const peers = sources.clusters();
    clusters.set(peers.filter(({ own }) => !own).length, {});
    for (const cluster of peers) tell(cluster);
  });
  addLagMetrics(metrics, sources.lag);
}

function addLagMetrics(metrics: Metrics, book: LagBook): void {
  const lags = metrics.pulledHistogram('isthmus_propagation_lag_seconds', {
    help: 'From the write of a change by its publisher to its use here, by kind; one batch a second is measured',
    labels: [...TARGET, 'kind'],
  });
  const known = metrics.gauge('isthmus_propagation_lag_known', {
    help: 'Whether the lag of a cluster is measured, 1 or 0: a Cilium peer has no stamps to measure by',
    labels: TARGET,
  });
  const difference = metrics.gauge('isthmus_clock_difference_seconds', {
    help: "A cluster's clock less ours; absent while it is not known",
    labels: TARGET,
  });
  const uncertainty = metrics.gauge('isthmus_clock_difference_uncertainty_seconds', {
    help: 'By how much the difference of the clocks may be wrong, either way',
    labels: TARGET,
  });
  const steps = metrics.counter('isthmus_clock_steps_total', {
    help: "How often a cluster's clock was seen to be set",
    labels: TARGET,
  });
  metrics.onCollect(() => {
    for (const [cluster, meter] of book.meters()) {
      const target = { target_cluster: cluster };
      for (const [kind, { counts, sum }] of meter.totals()) {
        lags.set({ bounds: LAG_BOUNDS, counts, sum }, { ...target, kind });
      }
      const clock = meter.clock();
      known.set(clock === undefined ? 0 : 1, target);
      if (clock === undefined) continue;
      difference.set(clock.differenceMs / 1000, target);
      uncertainty.set(clock.uncertaintyMs / 1000, target);
      steps.set(clock.steps, target);
    }
  });
}

/** Kinds that are read of a cluster, those of which nothing is there included. */
function kindsOf(cluster: PeerStatus): readonly MeshKind[] {
  return MESH_KINDS.filter((kind) => cluster.counts[kind] !== undefined);
}

/** A kind as Cilium's metrics call it: `nodes/v1` (`pkg/kvstore`, `GetScopeFromKey`). */
export function scopeOf(kind: MeshKind): string {
  switch (kind) {
    case 'local-identities':
    case 'local-ips':
    case 'local-services':
    case 'local-policies':
      return kind;
    default:
      return canaryPrefix(kind).split('/').slice(2).join('/');
  }
}
