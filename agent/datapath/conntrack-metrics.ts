import type { Metrics } from '../../mesh/runtime/metrics.ts';
import type { DatapathUpkeep } from './desired.ts';

/**
 * Adds how full the maps are, and what it costs to look after them. The counts are those of the last
 * collection: nothing is read from the kernel at a scrape.
 */
export function addConntrackMetrics(
  metrics: Metrics,
  upkeep: Pick<DatapathUpkeep, 'report'>,
): void {
  const entries = metrics.gauge('isthmus_map_entries', {
    help: 'Entries of a map, as the last collection or count found it',
    labels: ['map'],
  });
  // Cilium's name and label, so that its dashboards and alerts can be used.
  const pressure = metrics.gauge('cilium_bpf_map_pressure', {
    help: 'The same as a part of what the map can hold, 0 to 1; a full map of flows forgets what was silent longest, a full table takes no more rows',
    labels: ['map_name'],
  });
  const deleted = metrics.counter('isthmus_map_expired_total', {
    help: 'Expired entries that were taken out of a map',
    labels: ['map'],
  });
  const rounds = metrics.counter('isthmus_conntrack_gc_runs_total', {
    help: 'Collections of expired entries',
  });
  const busy = metrics.counter('isthmus_conntrack_gc_busy_seconds_total', {
    help: 'Time that they had the CPU',
  });
  const interval = metrics.gauge('isthmus_conntrack_gc_interval_seconds', {
    help: 'Time between two of them at present',
  });
  const tunnelMtu = metrics.gauge('isthmus_tunnel_mtu_bytes', {
    help: 'Largest packet that fits into the tunnel',
  });
  const largerMtus = metrics.gauge('isthmus_endpoints_with_larger_mtu', {
    help: 'Endpoints that can send larger packets than fit, and learn of it by path MTU discovery',
  });
  metrics.onCollect(() => {
    const { garbage, ...path } = upkeep.report();
    for (const { map, entries: count, maxEntries, deleted: gone } of garbage.maps) {
      entries.set(count, { map });
      pressure.set(count / maxEntries, { map_name: map });
      deleted.set(gone, { map });
    }
    rounds.set(garbage.rounds, {});
    busy.set(garbage.busyMs / 1000, {});
    interval.set(garbage.intervalMs / 1000, {});
    tunnelMtu.set(path.tunnelMtu, {});
    largerMtus.set(path.largerMtus.length, {});
  });
}
