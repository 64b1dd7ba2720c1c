/** What became of packets, under Cilium's names and labels (`pkg/metrics/metrics.go`, `pkg/maps/metricsmap`), and ours. */
import type { Metrics } from '../../mesh/runtime/metrics.ts';
import { FIRST_DROP_REASON, REASONS } from '../../mesh/wire/maps.ts';
import type { Datapath, DatapathCounter } from '../datapath/desired.ts';
import type { MonitorStatistics } from '../monitor/monitor.ts';

/**
 * What Cilium calls a reason that has one of its numbers (`pkg/monitor/api/drop.go`): its dashboards ask for these
 * words. Reasons of ours have their own names.
 */
export const CILIUM_REASONS: ReadonlyMap<number, string> = new Map([
  [132, 'Invalid source ip'],
  [133, 'Policy denied'],
  [134, 'Invalid packet'],
  [136, 'Fragmentation needed'],
  [139, 'Unsupported L3 protocol'],
  [141, 'Error writing to packet'],
  [147, 'Error retrieving tunnel key'],
  [152, 'No matching local container found'],
  [158, 'Service backend not found'],
  [160, 'No tunnel/encapsulation endpoint (datapath BUG!)'],
  [167, 'No mapping for NAT masquerade'],
  [168, 'Unsupported protocol for NAT masquerade'],
  [169, 'FIB lookup failed'],
  [171, 'Invalid identity'],
  [172, 'Unknown sender'],
  [175, 'First logical datagram fragment not found'],
  [181, 'Policy denied by denylist'],
  [202, 'Host datapath not ready'],
]);

const NUMBERS: ReadonlyMap<string, number> = new Map(
  [...REASONS].map(([number, name]) => [name, number]),
);

/** Adds metrics of what the programs count. */
export function addTrafficMetrics(metrics: Metrics, datapath: Pick<Datapath, 'counters'>): void {
  const family = (name: string, help: string) =>
    metrics.counter(name, { help, labels: ['reason', 'direction'] });
  const packets = family(
    'isthmus_datapath_packets_total',
    'Packets that the eBPF programs judged, by what became of them',
  );
  const bytes = family('isthmus_datapath_bytes_total', 'Bytes of those packets');
  const dropPackets = family('cilium_drop_count_total', 'Packets dropped, as Cilium counts them');
  const dropBytes = family('cilium_drop_bytes_total', 'Bytes of those packets');
  const forward = (name: string, help: string) =>
    metrics.counter(name, { help, labels: ['direction'] });
  const forwardPackets = forward(
    'cilium_forward_count_total',
    'Packets that went on, as Cilium counts them',
  );
  const forwardBytes = forward('cilium_forward_bytes_total', 'Bytes of those packets');
  metrics.onCollect(() => {
    const sums = { ingress: { packets: 0, bytes: 0 }, egress: { packets: 0, bytes: 0 } };
    for (const counter of datapath.counters()) {
      const { reason, direction } = counter;
      const count = { packets: Number(counter.packets), bytes: Number(counter.bytes) };
      packets.set(count.packets, { reason, direction });
      bytes.set(count.bytes, { reason, direction });
      if (isDrop(counter)) {
        const labels = { reason: ciliumReason(reason), direction: direction.toUpperCase() };
        dropPackets.set(count.packets, labels);
        dropBytes.set(count.bytes, labels);
      } else if (FORWARDED.includes(reason)) {
        sums[direction].packets += count.packets;
        sums[direction].bytes += count.bytes;
      }
    }
    for (const direction of ['ingress', 'egress'] as const) {
      const labels = { direction: direction.toUpperCase() };
      forwardPackets.set(sums[direction].packets, labels);
      forwardBytes.set(sums[direction].bytes, labels);
    }
  });
}

/** Of what went on, that which is a packet: translations are calls of sockets. */
const FORWARDED: readonly string[] = ['forwarded', 'forwarded-overlay', 'passed-to-stack'];

/** What a program counts that this agent does not know is named after its number. */
function isDrop({ reason }: DatapathCounter): boolean {
  const number = NUMBERS.get(reason) ?? Number(/^reason-(\d+)$/.exec(reason)?.[1]);
  return number >= FIRST_DROP_REASON;
}

function ciliumReason(reason: string): string {
  return CILIUM_REASONS.get(NUMBERS.get(reason) ?? -1) ?? reason;
}

/** Adds metrics of the events that are told to listeners. */
export function addMonitorMetrics(metrics: Metrics, statistics: () => MonitorStatistics): void {
  const listeners = metrics.gauge('isthmus_monitor_listeners', {
    help: 'Who listens to events of this node now',
  });
  const read = metrics.counter('isthmus_monitor_events_total', {
    help: 'Events that were read',
    labels: ['kind'],
  });
  const lost = metrics.counter('isthmus_monitor_events_lost_total', {
    help: 'Events that were left out: too many in a second (rate-limit), the agent too slow (ring), a listener too slow (listener)',
    labels: ['kind', 'where'],
  });
  const undecodable = metrics.counter('isthmus_monitor_events_undecodable_total', {
    help: 'Events that could not be decoded',
  });
  metrics.onCollect(() => {
    const now = statistics();
    listeners.set(now.listeners, {});
    for (const [kind, count] of Object.entries(now.read)) read.set(count, { kind });
    for (const { where, of, count } of now.lost) lost.set(count, { kind: of, where });
    undecodable.set(now.undecodable, {});
  });
}
