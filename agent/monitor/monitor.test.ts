import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { DatapathError } from '../datapath/datapath-error.ts';
import type { MonitorEvent } from './event.ts';
import { createFilter } from './filter.ts';
import { createMonitor, type MonitorSettings } from './monitor.ts';
import { createFakeEvents, encodePacket, testNames, testPacket } from './testing/records.ts';

/** A monitor over made-up events, running until the end of the test. */
function openMonitor(t: Test, settings: Partial<MonitorSettings> = {}) {
  const events = createFakeEvents();
  const clock = createManualClock({ now: Date.UTC(2025, 0, 1) });
  const ending = new AbortController();
  const monitor = createMonitor({
    traceLevel: 'medium',
    historySize: 0,
    ...settings,
    events,
    names: testNames(),
    clock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const running = monitor.run(ending.signal);
  const end = async (): Promise<void> => {
    ending.abort();
    await running;
  };
  t.teardown(end);
  return { monitor, events, clock, end };
}

/** Listens, and keeps what it hears. */
async function hear(monitor: ReturnType<typeof openMonitor>['monitor'], kinds: string[] = []) {
  const heard: MonitorEvent[] = [];
  const lines: string[] = [];
  const listening = await monitor.listen({
    filter: createFilter({ kinds }),
    onEvent(event, line) {
      heard.push(event);
      lines.push(line());
    },
  });
  return { heard, lines, leave: () => listening[Symbol.asyncDispose]() };
}

const DROP = encodePacket(testPacket());
const TRACE = encodePacket(testPacket({ kind: 'trace', reason: 0 }));

test('events are read, and traced, only while somebody listens', async (t) => {
  const { monitor, events } = openMonitor(t);
  await until('it has begun', () => events.state.level === 'none');
  events.emit(DROP);
  t.equal(events.state.readers, 0);
  const first = await hear(monitor);
  t.match(events.state, { readers: 1, level: 'medium' });
  const second = await hear(monitor, ['trace']);
  t.equal(events.state.readers, 1, 'one reader for all');
  events.emit(DROP, TRACE);
  t.match(first.heard, [
    { kind: 'drop', source: { cluster: 'beta' } },
    { kind: 'trace', reason: 'forwarded' },
  ]);
  t.same(
    first.lines.map((line) => JSON.parse(line)),
    JSON.parse(JSON.stringify(first.heard)),
  );
  t.match(second.heard, [{ kind: 'trace' }]);
  monitor.setTraceLevel('maximum');
  t.equal(events.state.level, 'maximum');
  await first.leave();
  t.equal(events.state.readers, 1);
  await second.leave();
  await second.leave();
  t.match(events.state, { readers: 0, level: 'none' });
  t.equal(monitor.traceLevel, 'maximum', 'it is remembered for the next one');
  t.match(monitor.statistics(), { listeners: 0, read: { drop: 1, trace: 1, service: 0 } });
});

test('the newest events are remembered for who comes later', async (t) => {
  const { monitor, events } = openMonitor(t, { historySize: 3 });
  await until('it reads', () => events.state.readers === 1);
  t.equal(events.state.level, 'none', 'nobody listens: nothing is traced');
  for (const port of [1, 2, 3, 4]) {
    events.emit(encodePacket(testPacket({ length: port })));
  }
  const everything = createFilter({});
  const lengths = (last: number): unknown[] =>
    monitor.recall(everything, last).map((event) => (event.kind === 'drop' ? event.length : event));
  t.same(lengths(10), [2, 3, 4]);
  t.same(lengths(2), [3, 4]);
  t.same(monitor.recall(createFilter({ kinds: ['trace'] }), 10), []);
  const listener = await hear(monitor);
  await listener.leave();
  t.match(events.state, { readers: 1, started: 1 }, 'it goes on without listeners');
});

test('one bad record costs itself alone', async (t) => {
  const { monitor, events } = openMonitor(t);
  const { heard } = await hear(monitor);
  events.emit(DROP, Buffer.from('nonsense'), TRACE);
  t.match(heard, [{ kind: 'drop' }, { kind: 'trace' }]);
  t.equal(monitor.statistics().undecodable, 1);
});

test('what the kernel left out is told within a second', async (t) => {
  const { monitor, events, clock } = openMonitor(t);
  events.counts = [{ kind: 'drop', suppressed: 100, lost: 5 }];
  const { heard } = await hear(monitor);
  const next = async (): Promise<void> => {
    const before = heard.length;
    await until('it is told', async () => {
      await clock.advance(1000);
      return heard.length > before;
    });
  };
  events.counts = [{ kind: 'drop', suppressed: 107, lost: 5 }];
  await next();
  events.counts = [{ kind: 'drop', suppressed: 107, lost: 8 }];
  await next();
  t.match(heard, [
    { kind: 'lost', where: 'rate-limit', of: 'drop', count: 7, node: 'n1' },
    { kind: 'lost', where: 'ring', of: 'drop', count: 3 },
  ]);
  monitor.countLost(9);
  t.same(monitor.statistics().lost, [
    { where: 'rate-limit', of: 'drop', count: 107 },
    { where: 'ring', of: 'drop', count: 8 },
    { where: 'listener', of: 'any', count: 9 },
  ]);
});

test('a reader that fails is started again; one that cannot start is an error for who listens', async (t) => {
  const { monitor, events, clock } = openMonitor(t);
  await until('it has begun', () => events.state.level === 'none');
  events.refusal = new DatapathError('kernel', 'no memory');
  await t.rejects(hear(monitor), { code: 'kernel', message: 'no memory' });
  const { heard } = await hear(monitor);
  t.equal(events.state.started, 1);
  events.fail(new Error('gone'));
  await until('it reads again', async () => {
    await clock.advance(1000);
    return events.state.started === 2 && events.state.readers === 1;
  });
  events.emit(DROP);
  t.match(heard, [{ kind: 'drop' }]);
});

test('the end of the agent ends the reading, though somebody listens', async (t) => {
  const { monitor, events, end } = openMonitor(t, { historySize: 1 });
  await hear(monitor);
  t.equal(events.state.readers, 1);
  await end();
  t.equal(events.state.readers, 0);
  await hear(monitor);
  t.equal(events.state.readers, 0, 'and nothing begins any more');
});
