/** What is done with what clusters say, before it is used, as metrics: refused, compared, held back, queued. */
import type { Metrics } from '../runtime/metrics.ts';
import type { PeerStatus } from './peer.ts';

const TARGET = ['target_cluster'] as const;
const BY_KIND = ['target_cluster', 'kind'] as const;
const BY_REASON = ['target_cluster', 'reason'] as const;

/** Adds them. Returns what is to be called with each cluster at each scrape. */
export function addIntakeMetrics(metrics: Metrics): (cluster: PeerStatus) => void {
  const refused = metrics.gauge('isthmus_peer_refused_values', {
    help: 'Values of a cluster that are refused at present, by reason',
    labels: BY_REASON,
  });
  const refusals = metrics.counter('isthmus_peer_refused_values_total', {
    help: 'Values of a cluster that were refused, by reason; each attempt counts',
    labels: BY_REASON,
  });
  const lists = metrics.counter('isthmus_peer_lists_total', {
    help: 'How often the whole of a kind was read: once at first, and after each loss of the thread',
    labels: BY_KIND,
  });
  const verified = metrics.gauge('isthmus_peer_verified', {
    help: 'How the latest comparison with the server and with the publisher ended: one series of value 1 a kind',
    labels: [...BY_KIND, 'result', 'digest'],
  });
  const verifiedAt = metrics.gauge('isthmus_peer_verified_timestamp_seconds', {
    help: 'When a kind was compared last, seconds since 1970',
    labels: BY_KIND,
  });
  const heldBack = metrics.gauge('isthmus_peer_held_back_entries', {
    help: 'Entries that a list left out and that are kept all the same, until the marker of the kind is back',
    labels: BY_KIND,
  });
  const backends = metrics.gauge('isthmus_peer_unknown_backends', {
    help: 'Backends of a cluster that do not count, since its own tables do not have their addresses',
    labels: TARGET,
  });
  const contested = metrics.gauge('isthmus_peer_contested_ranges', {
    help: 'Ranges of a cluster that it does not get, because another one has them',
    labels: TARGET,
  });
  const queued = metrics.gauge('isthmus_peer_queued_events', {
    help: 'Events of a cluster that wait to be looked at',
    labels: TARGET,
  });
  const coalesced = metrics.counter('isthmus_peer_coalesced_events_total', {
    help: 'Events that a later one of the same key replaced while they waited',
    labels: TARGET,
  });
  const paused = metrics.counter('isthmus_peer_paused_total', {
    help: 'How often a cluster had to wait because it says more than its share',
    labels: TARGET,
  });

  return (cluster) => {
    const target = { target_cluster: cluster.name };
    for (const [reason, count] of Object.entries(cluster.refused.byReason)) {
      refused.set(count, { ...target, reason });
    }
    for (const [reason, count] of Object.entries(cluster.refused.total)) {
      refusals.set(count, { ...target, reason });
    }
    for (const [kind, count] of Object.entries(cluster.lists))
      lists.set(count, { ...target, kind });
    for (const { kind, result, digest, at } of cluster.verified) {
      verified.set(1, { ...target, kind, result, digest });
      verifiedAt.set(at / 1000, { ...target, kind });
    }
    for (const { kind, count } of cluster.heldBack) heldBack.set(count, { ...target, kind });
    backends.set(cluster.unknownBackends.count, target);
    contested.set(cluster.announces.contested.length, target);
    queued.set(cluster.intake.queued, target);
    coalesced.set(cluster.intake.coalesced, target);
    paused.set(cluster.intake.paused, target);
  };
}
