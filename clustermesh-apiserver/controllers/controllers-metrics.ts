/** Metrics of the controllers; they are read from their status at each scrape. */
import type { Metrics } from '../../mesh/runtime/metrics.ts';
import type { Controllers } from './run.ts';

const CONTROLLER = ['controller'] as const;
const RESULT = ['result'] as const;
const PEER = ['source_cluster'] as const;

/** Adds the metrics. `controllers` is undefined as long as there are none. */
export function addControllersMetrics(
  metrics: Metrics,
  sources: { readonly controllers: () => Controllers | undefined },
): void {
  const leading = metrics.gauge('isthmus_controllers_leading', {
    help: 'Whether this replica leads the controllers: 1, or 0 on standby',
  });
  const terms = metrics.counter('isthmus_controllers_terms_total', {
    help: 'How often this replica began to lead the controllers',
  });
  const depth = metrics.gauge('isthmus_controller_queue_depth', {
    help: 'Keys that wait to be reconciled, those that wait for their time included',
    labels: CONTROLLER,
  });
  const reconciles = metrics.counter('isthmus_controller_reconciles_total', {
    help: 'Reconciles that have ended',
    labels: CONTROLLER,
  });
  const failures = metrics.counter('isthmus_controller_failures_total', {
    help: 'Reconciles that have failed and are tried again',
    labels: CONTROLLER,
  });
  const failing = metrics.gauge('isthmus_controller_failing_keys', {
    help: 'Keys whose last reconcile failed; /status names them',
    labels: CONTROLLER,
  });
  const queueTimes = metrics.pulledHistogram('isthmus_controller_queue_seconds', {
    help: 'How long keys waited until they were reconciled',
    labels: CONTROLLER,
  });
  const workTimes = metrics.pulledHistogram('isthmus_controller_work_seconds', {
    help: 'How long reconciles took',
    labels: CONTROLLER,
  });
  const writes = metrics.counter('isthmus_controller_writes_total', {
    help: 'Objects that were to be written, by what became of it',
    labels: RESULT,
  });
  const events = metrics.counter('isthmus_controller_events_total', {
    help: 'Events for people, by what became of them',
    labels: RESULT,
  });
  const services = metrics.gauge('isthmus_controllers_remote_services', {
    help: 'Global services of a peer that the controllers know of',
    labels: PEER,
  });
  const exports = metrics.gauge('isthmus_controllers_remote_service_exports', {
    help: 'Exports of a peer that the controllers know of',
    labels: PEER,
  });
  metrics.onCollect(() => {
    const status = sources.controllers()?.status;
    if (status === undefined) return;
    leading.set(status.leadership.state === 'leading' ? 1 : 0, {});
    terms.set(status.leadership.terms, {});
    for (const each of status.parts.flatMap((part) => part.controllers)) {
      const label = { controller: each.name };
      depth.set(each.ready + each.delayed, label);
      reconciles.set(each.reconciled, label);
      failures.set(each.failures, label);
      failing.set(each.failingCount, label);
      queueTimes.set(each.queueTimes, label);
      workTimes.set(each.workTimes, label);
    }
    for (const [result, count] of Object.entries(status.writes)) writes.set(count, { result });
    const { written, repeated, dropped } = status.events;
    for (const [result, count] of Object.entries({ written, repeated, dropped })) {
      events.set(count, { result });
    }
    for (const { name, services: known, exports: exported } of status.remote) {
      services.set(known, { source_cluster: name });
      exports.set(exported, { source_cluster: name });
    }
  });
}
