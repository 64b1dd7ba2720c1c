/** Enrollment of machines as metrics. */
import type { Metrics } from '../mesh/runtime/metrics.ts';
import type { OfficeStatus } from './registry/enrollment-office.ts';

/** Adds them; `look` is called at each scrape, and says undefined before enrollment is open. */
export function addEnrollmentMetrics(metrics: Metrics, look: () => OfficeStatus | undefined): void {
  const taken = metrics.counter('isthmus_enrollment_tokens_used_total', {
    help: 'Machines that were given a certificate for a use of a token',
  });
  const repeated = metrics.counter('isthmus_enrollment_repeated_total', {
    help: 'Enrolments that were answered again, without a further use of their token',
  });
  const refused = metrics.counter('isthmus_enrollment_refused_total', {
    help: 'Enrolments that were refused, by reason',
    labels: ['reason'],
  });
  const nodes = metrics.counter('isthmus_enrollment_nodes_total', {
    help: 'Certificates that were given to nodes',
  });
  const nodesRefused = metrics.counter('isthmus_enrollment_nodes_refused_total', {
    help: 'Enrolments of nodes that were refused, by reason',
    labels: ['reason'],
  });
  const connections = metrics.gauge('isthmus_enrollment_connections', {
    help: 'Connections of those who have no certificate yet',
  });
  const renewals = metrics.counter('isthmus_machine_certificate_renewals_total', {
    help: 'Calls for a new certificate of a machine',
    labels: ['result'],
  });
  const end = metrics.gauge('isthmus_enrollment_authority_not_after_seconds', {
    help: 'When the authority ends that signs machines, seconds since 1970; absent when it cannot be used',
  });
  metrics.onCollect(() => {
    const status = look();
    if (status === undefined) return;
    taken.set(status.enrolled, {});
    repeated.set(status.repeated, {});
    for (const [reason, count] of Object.entries(status.refused)) refused.set(count, { reason });
    nodes.set(status.nodes.enrolled, {});
    for (const [reason, count] of Object.entries(status.nodes.refused)) {
      nodesRefused.set(count, { reason });
    }
    connections.set(status.connections, {});
    renewals.set(status.renewed, { result: 'renewed' });
    renewals.set(status.renewalsRefused, { result: 'refused' });
    if (status.authorityNotAfter !== undefined) end.set(status.authorityNotAfter / 1000, {});
  });
}
