/** Calls to etcd as metrics, with Cilium's names (`pkg/metrics`, `pkg/kvstore/metrics.go`). */
import type { Metrics } from '../runtime/metrics.ts';
import { type KvStatistics, OPERATION_BOUNDS } from './measured-store.ts';

/** Adds them; `prefix` is what Cilium puts before the names in that process, such as `cilium_`. */
export function addKvMetrics(
  metrics: Metrics,
  statistics: KvStatistics,
  { prefix }: { readonly prefix: string },
): void {
  const durations = metrics.pulledHistogram(`${prefix}kvstore_operations_duration_seconds`, {
    help: 'How long calls to etcd took, watches apart',
    labels: ['scope', 'kind', 'action', 'outcome'],
  });
  const unavailable = metrics.counter(`${prefix}kvstore_quorum_errors_total`, {
    help: 'Calls that failed because no etcd answered, or one without a quorum',
    labels: ['error'],
  });
  metrics.onCollect(() => {
    for (const { operation, counts, sum } of statistics.durations()) {
      durations.set({ bounds: OPERATION_BOUNDS, counts, sum }, { ...operation });
    }
    for (const [error, count] of statistics.unavailable) unavailable.set(count, { error });
  });
}
