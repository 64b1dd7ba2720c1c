/** Metrics of a mirror: those of every process that reads clusters, and what it writes. */
import type { LagBook } from '../../mesh/remote/lag.ts';
import { addMeshMetrics } from '../../mesh/remote/mesh-metrics.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Metrics } from '../../mesh/runtime/metrics.ts';
import type { Kvstoremesh } from './kvstoremesh.ts';

const PEER = ['source_cluster'] as const;

/** What the metrics are made of; an undefined mirror has not been started yet. */
export interface KvstoremeshMetricsSources {
  readonly mirror: () => Kvstoremesh | undefined;
  readonly lag: LagBook;
}

/** Adds the mirror's metrics; they are read from its status at each scrape. */
export function addKvstoremeshMetrics(metrics: Metrics, sources: KvstoremeshMetricsSources): void {
  const peers = () => sources.mirror()?.peers ?? [];
  addMeshMetrics(
    metrics,
    {
      clusters: () => peers().map(({ source }) => source),
      lag: sources.lag,
      written: (cluster) =>
        peers().find(({ source }) => source.name === cluster)?.local?.complete ?? [],
    },
    { process: 'kvstoremesh' },
  );
  // Cilium's name (`pkg/clustermesh/kvstoremesh/metrics.go`).
  const leads = metrics.gauge('cilium_kvstoremesh_leader_election_master_status', {
    help: 'Whether this mirror leads: 1, or 0 on standby',
    labels: ['name'],
  });
  const queue = metrics.gauge('cilium_kvstoremesh_kvstore_sync_queue_size', {
    help: 'The same as isthmus_kvstoremesh_pending_keys, by the name that Cilium has for it',
    labels: ['scope', ...PEER],
  });
  const pending = metrics.gauge('isthmus_kvstoremesh_pending_keys', {
    help: 'Keys of a peer whose write to the local etcd is still to be done',
    labels: PEER,
  });
  const keys = metrics.gauge('isthmus_kvstoremesh_keys', {
    help: 'Keys that the local etcd holds of a peer, or shall hold',
    labels: PEER,
  });
  const written = metrics.counter('isthmus_kvstoremesh_written_keys_total', {
    help: 'Writes and deletions of keys of a peer in the local etcd',
    labels: PEER,
  });
  const refused = metrics.gauge('isthmus_kvstoremesh_refused_keys', {
    help: 'Keys of a peer whose value the local etcd does not take',
    labels: PEER,
  });
  metrics.onCollect(() => {
    leads.set(sources.mirror()?.leader === 'leading' ? 1 : 0, { name: 'kvstoremesh' });
    for (const { source, local } of peers()) {
      if (local === undefined) continue;
      const peer = { source_cluster: source.name };
      pending.set(local.pending, peer);
      queue.set(local.pending, { scope: 'all', ...peer });
      keys.set(local.keys, peer);
      written.set(local.written, peer);
      refused.set(Object.keys(local.refused).length, peer);
    }
  });
}

/** Adds when a mirror that is a process of its own was ready. The time of the call is the start that is counted from. */
export function addReadyMetrics(
  metrics: Metrics,
  { missing, clock }: { readonly missing: () => readonly string[]; readonly clock: Clock },
): void {
  const startedAt = clock.monotonic();
  let bootstrapSeconds: number | undefined;
  const ready = metrics.gauge('isthmus_ready', {
    help: 'Whether this mirror does its part, 1 or 0; /readyz says why not',
  });
  const bootstrap = metrics.gauge('cilium_kvstoremesh_bootstrap_seconds', {
    help: 'How long it took from the start until a scrape found it ready; absent until then',
  });
  metrics.onCollect(() => {
    const isReady = missing().length === 0;
    if (isReady) bootstrapSeconds ??= (clock.monotonic() - startedAt) / 1000;
    ready.set(isReady ? 1 : 0, {});
    if (bootstrapSeconds !== undefined) bootstrap.set(bootstrapSeconds, {});
  });
}
