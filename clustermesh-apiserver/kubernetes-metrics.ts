/** How far an API server is read, as metrics. Read at each scrape. */
import type { Metrics } from '../mesh/runtime/metrics.ts';
import type { KubernetesProgress } from './cluster-source.ts';

const KIND = ['kind'] as const;

/** Adds the metrics of a cluster that is read from an API server; `progress` is undefined before that begins. */
export function addKubernetesMetrics(
  metrics: Metrics,
  progress: () => KubernetesProgress | undefined,
): void {
  const complete = metrics.gauge('isthmus_kubernetes_kind_complete', {
    help: 'Whether all objects of a kind have been read, 1 or 0; nothing made of a kind that has not is marked as complete',
    labels: KIND,
  });
  const followed = metrics.gauge('isthmus_kubernetes_kind_followed', {
    help: 'Whether changes of a kind are seen as they happen, 1 or 0; /status says why not',
    labels: KIND,
  });
  const objects = metrics.gauge('isthmus_kubernetes_objects', {
    help: 'Objects of a kind that are known',
    labels: KIND,
  });
  const kept = metrics.gauge('isthmus_kubernetes_objects_kept', {
    help: 'Objects that went with their CustomResourceDefinition and are kept for a time',
    labels: KIND,
  });
  const lists = metrics.counter('isthmus_kubernetes_lists_total', {
    help: 'Complete lists of a kind: many of them mean that connections to the API server break',
    labels: KIND,
  });
  const silences = metrics.counter('isthmus_kubernetes_silent_watches_total', {
    help: 'Watches of a kind that were silent for too long and were opened anew',
    labels: KIND,
  });
  metrics.onCollect(() => {
    const now = progress();
    if (now?.kind !== 'reading') return;
    for (const report of now.kinds) {
      const label = { kind: report.kind };
      const isFollowed = report.state === 'synced' || report.state === 'not-installed';
      complete.set(report.complete ? 1 : 0, label);
      followed.set(isFollowed ? 1 : 0, label);
      objects.set(report.objects, label);
      kept.set(report.kept, label);
      lists.set(report.lists, label);
      silences.set(report.silences, label);
    }
  });
}
