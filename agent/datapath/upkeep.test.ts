/** What the upkeep says of the maps, on real ones. */
import { join } from 'node:path';
import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { addConntrackMetrics } from './conntrack-metrics.ts';
import { loadObjects, MAP_NAMES } from './object.ts';
import { openEndpointsTable } from './ops/endpoints.ts';
import { openIpcacheTable } from './ops/ipcache.ts';
import { openPolicyTable } from './ops/policy.ts';
import { openServicesTable } from './ops/services.ts';
import { OBJECT_FILES } from './preflight.ts';
import { kernelSkipReason, OBJECT_DIR, openTestBpffs } from './testing/bpffs.ts';
import { testEndpoint, testPolicy, testPrefix } from './testing/program-run.ts';
import { testBackend, testFrontend } from './testing/service-maps.ts';
import { createUpkeep } from './upkeep.ts';

/** What has no entries that could become too many: one for all, one a reason or kind, or bytes. */
const WITHOUT_ENTRIES = [
  'mesh_scratch',
  'mesh_firewall',
  'mesh_metrics',
  'mesh_config',
  'mesh_events',
  'mesh_event_control',
  'mesh_event_buckets',
];

test('the upkeep tells how full every table is', { skip: kernelSkipReason() }, async (t) => {
  await using bpffs = await openTestBpffs('upkeep');
  const names = MAP_NAMES.filter((name) => !WITHOUT_ENTRIES.includes(name));
  using objects = loadObjects(
    OBJECT_FILES.map((name) => join(OBJECT_DIR, name)),
    {
      pinFolder: join(bpffs.path, 'maps'),
      mapSizes: Object.fromEntries(names.map((name) => [name, 1000])),
    },
  );
  const { maps } = objects;
  const tables = { ipcache: openIpcacheTable(maps), endpoints: openEndpointsTable(maps) };
  tables.endpoints.apply({
    upserts: [testEndpoint(1, '10.1.0.2'), testEndpoint(2, '10.1.0.3')],
    deletes: [],
  });
  const prefixes = Array.from({ length: 100 }, (_, index) => testPrefix(`10.2.0.${index}/32`, 9));
  tables.ipcache.apply({ upserts: [...prefixes, testPrefix('fd00::1/128', 9)], deletes: [] });
  openPolicyTable(maps).apply({ upserts: [testPolicy(1, 300), testPolicy(2, 300)], deletes: [] });
  openServicesTable(maps, { maglevTableSize: 251 }).apply({
    upserts: [
      testFrontend([testBackend(1), testBackend(2), testBackend(3)], {
        affinitySeconds: 60,
        algorithm: 'maglev',
      }),
    ],
    deletes: [],
  });
  const upkeep = createUpkeep({
    maps,
    tables,
    routingMode: 'tunnel',
    tunnelMtu: 1450,
    gcIntervalMs: 1,
  });
  const stopping = new AbortController();
  const running = upkeep.run(
    { clock: systemClock, logger: { warn: (what: unknown) => t.fail(JSON.stringify(what)) } },
    stopping.signal,
  );
  while (upkeep.report().garbage.rounds === 0) await systemClock.sleep(5);
  stopping.abort();
  await running;
  const metrics = createMetrics();
  addConntrackMetrics(metrics, upkeep);
  const text = await metrics.text();
  for (const name of names) {
    t.match(text, `cilium_bpf_map_pressure{map_name="${name}"}`, `${name} has its gauge`);
  }
  for (const [name, entries] of [
    ['mesh_ipcache4', 100],
    ['mesh_ipcache6', 1],
    ['mesh_endpoints', 2],
    ['mesh_policy', 2],
    ['mesh_services', 4],
    ['mesh_backends', 3],
    ['mesh_affinity_members', 3],
    ['mesh_maglev', 4],
  ] as const) {
    t.ok(text.split('\n').includes(`isthmus_map_entries{map="${name}"} ${entries}`), name);
  }
  t.match(text, /cilium_bpf_map_pressure\{map_name="mesh_ipcache4"\} 0\.1\n/);
});
