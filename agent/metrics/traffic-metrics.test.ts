import { test } from 'tap';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { parseScrape } from '../../mesh/testing/scrape-text.ts';
import type { DatapathCounter } from '../datapath/desired.ts';
import { addMonitorMetrics, addTrafficMetrics } from './traffic-metrics.ts';

const counter = (
  reason: string,
  direction: 'ingress' | 'egress',
  packets: bigint,
): DatapathCounter => ({ reason, direction, packets, bytes: packets * 100n });

test("what is dropped and what goes on has Cilium's names, labels and words", async (t) => {
  const metrics = createMetrics();
  const counters = [
    counter('policy-denied', 'ingress', 3n),
    counter('overlay-source-mismatch', 'ingress', 2n),
    counter('reason-199', 'egress', 1n),
    counter('reason-7', 'egress', 50n),
    counter('forwarded', 'ingress', 10n),
    counter('forwarded-overlay', 'egress', 20n),
    counter('passed-to-stack', 'egress', 5n),
    counter('service-translated', 'egress', 9n),
  ];
  addTrafficMetrics(metrics, { counters: () => counters });
  const scrape = parseScrape(await metrics.text());
  const expected: readonly [string, Record<string, string>, number | undefined][] = [
    ['cilium_drop_count_total', { reason: 'Policy denied', direction: 'INGRESS' }, 3],
    ['cilium_drop_bytes_total', { reason: 'Policy denied', direction: 'INGRESS' }, 300],
    ['cilium_drop_count_total', { reason: 'overlay-source-mismatch', direction: 'INGRESS' }, 2],
    ['cilium_drop_count_total', { reason: 'reason-199', direction: 'EGRESS' }, 1],
    ['cilium_drop_count_total', { reason: 'reason-7', direction: 'EGRESS' }, undefined],
    ['cilium_forward_count_total', { direction: 'INGRESS' }, 10],
    ['cilium_forward_count_total', { direction: 'EGRESS' }, 25],
    ['cilium_forward_bytes_total', { direction: 'EGRESS' }, 2500],
    ['isthmus_datapath_packets_total', { reason: 'service-translated', direction: 'egress' }, 9],
    ['isthmus_datapath_bytes_total', { reason: 'policy-denied', direction: 'ingress' }, 300],
    ['isthmus_scrape_errors_total', {}, 0],
  ];
  for (const [name, labels, value] of expected) {
    t.equal(scrape.value(name, labels), value, `${name} ${JSON.stringify(labels)}`);
  }
});

test('events that were read and lost are counted by kind and place', async (t) => {
  const metrics = createMetrics();
  addMonitorMetrics(metrics, () => ({
    listeners: 2,
    read: { drop: 5, trace: 6, service: 7, 'policy-audit': 0 },
    undecodable: 1,
    lost: [
      { where: 'rate-limit', of: 'drop', count: 8 },
      { where: 'listener', of: 'any', count: 9 },
    ],
  }));
  const scrape = parseScrape(await metrics.text());
  const lost = 'isthmus_monitor_events_lost_total';
  t.equal(scrape.value('isthmus_monitor_listeners', {}), 2);
  t.equal(scrape.value('isthmus_monitor_events_total', { kind: 'trace' }), 6);
  t.equal(scrape.value('isthmus_monitor_events_undecodable_total', {}), 1);
  t.equal(scrape.value(lost, { kind: 'drop', where: 'rate-limit' }), 8);
  t.equal(scrape.value(lost, { kind: 'any', where: 'listener' }), 9);
});
