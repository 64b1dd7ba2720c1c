import { test } from 'tap';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { addConntrackMetrics } from './conntrack-metrics.ts';
import type { UpkeepReport } from './desired.ts';

const REPORT: UpkeepReport = {
  routingMode: 'tunnel',
  tunnelMtu: 1430,
  largerMtus: ['a', 'b', 'c', 'd'].map((name) => ({ hostInterface: `veth${name}`, mtu: 1500 })),
  problems: [],
  garbage: {
    rounds: 3,
    busyMs: 450,
    intervalMs: 22_500,
    maps: [
      { map: 'mesh_ct', entries: 225_000, maxEntries: 250_000, deleted: 70 },
      { map: 'mesh_nat', entries: 10, maxEntries: 100_000, deleted: 0 },
    ],
  },
};

test('addConntrackMetrics() tells how full maps are, and what it costs', async (t) => {
  const metrics = createMetrics();
  addConntrackMetrics(metrics, { report: () => REPORT });
  const text = await metrics.text();
  for (const line of [
    'isthmus_map_entries{map="mesh_ct"} 225000',
    'cilium_bpf_map_pressure{map_name="mesh_ct"} 0.9',
    'isthmus_map_expired_total{map="mesh_ct"} 70',
    'isthmus_conntrack_gc_runs_total 3',
    'isthmus_conntrack_gc_busy_seconds_total 0.45',
    'isthmus_conntrack_gc_interval_seconds 22.5',
    'isthmus_tunnel_mtu_bytes 1430',
    'isthmus_endpoints_with_larger_mtu 4',
  ]) {
    t.ok(text.split('\n').includes(line), line);
  }
});
