import { test } from 'tap';
import { createDurationCounts } from '../../mesh/runtime/duration-counts.ts';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { addControllersMetrics } from './controllers-metrics.ts';
import type { Controllers, ControllersStatus } from './run.ts';

test('a scrape has what the status says, and nothing before there are controllers', async (t) => {
  const queueTimes = createDurationCounts();
  for (const milliseconds of [0, 20, 700, 90_000]) queueTimes.observe(milliseconds);
  const status: ControllersStatus = {
    leadership: {
      state: 'leading',
      identity: 'one_x',
      leader: 'one_x',
      since: 0,
      terms: 2,
      problem: undefined,
    },
    parts: [
      {
        name: 'endpoint-slice-sync',
        waitingFor: [],
        problems: [],
        controllers: [
          {
            name: 'endpoint-slice-sync',
            ready: 3,
            delayed: 4,
            running: 1,
            reconciled: 50,
            failures: 6,
            failingCount: 2,
            failing: [],
            queueTimes,
            workTimes: createDurationCounts(),
          },
        ],
      },
    ],
    remote: [
      {
        name: parseClusterName('beta'),
        state: { kind: 'ready' },
        synced: ['services'],
        services: 11,
        exports: 12,
        refused: new Map(),
      },
    ],
    notes: [],
    problems: [],
    writes: { unchanged: 1, written: 2, deleted: 3, foreign: 4, conflicts: 5, outdated: 6 },
    events: { waiting: 0, written: 7, repeated: 8, dropped: 9, lastError: undefined },
  };
  let controllers: Controllers | undefined;
  const metrics = createMetrics({
    onError: (error) => {
      throw error;
    },
  });
  addControllersMetrics(metrics, { controllers: () => controllers });
  t.notMatch(await metrics.text(), /^isthmus_controllers_leading /m);
  controllers = {
    run: () => Promise.resolve(),
    events: { record: () => undefined, run: () => Promise.resolve(), status: status.events },
    status,
  };
  const lines = (await metrics.text()).split('\n');
  const label = 'controller="endpoint-slice-sync"';
  for (const line of [
    'isthmus_controllers_leading 1',
    'isthmus_controllers_terms_total 2',
    `isthmus_controller_queue_depth{${label}} 7`,
    `isthmus_controller_reconciles_total{${label}} 50`,
    `isthmus_controller_failures_total{${label}} 6`,
    `isthmus_controller_failing_keys{${label}} 2`,
    `isthmus_controller_queue_seconds_count{${label}} 4`,
    'isthmus_controller_writes_total{result="outdated"} 6',
    'isthmus_controller_events_total{result="dropped"} 9',
    'isthmus_controllers_remote_services{source_cluster="beta"} 11',
    'isthmus_controllers_remote_service_exports{source_cluster="beta"} 12',
  ]) {
    t.ok(lines.includes(line), line);
  }
  t.match(lines.join('\n'), /isthmus_controller_queue_seconds_bucket\{.*le="0\.025".*\} 2/);
});
