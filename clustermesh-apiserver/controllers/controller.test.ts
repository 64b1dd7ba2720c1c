import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createController, type Reconcile } from './controller.ts';
import { recordingLogger } from './testing/recording-logger.ts';
import { createWorkQueue, type WorkQueueOptions } from './work-queue.ts';

function rig(reconcile: Reconcile, options: Partial<WorkQueueOptions> = {}) {
  const clock = createManualClock();
  const { logger, lines } = recordingLogger();
  const queue = createWorkQueue({ clock, random: () => 1, ...options });
  const keys: string[] = [];
  const stop = new AbortController();
  const controller = createController({
    name: 'test',
    queue,
    reconcile,
    workers: 2,
    timeoutMs: 5000,
    allKeys: () => keys,
    clock,
    logger,
  });
  return { clock, lines, queue, keys, stop, controller };
}

test('an error is tried again for that key only, logged once while it says the same', async (t) => {
  const runs: string[] = [];
  let words = 'server says no';
  let isBroken = true;
  const { clock, lines, queue, stop, controller } = rig(async (key) => {
    runs.push(key);
    if (key === 'bad' && isBroken) throw new Error(words);
    return undefined;
  });
  const running = controller.run(stop.signal);
  queue.add('bad');
  queue.add('good');
  await clock.advance(0);
  t.same(runs, ['bad', 'good']);
  await clock.advance(100 + 200 + 400);
  t.same(runs, ['bad', 'good', 'bad', 'bad', 'bad'], 'backed off, and the other key is left alone');
  t.equal(lines.filter(({ level }) => level === 'warn').length, 1);
  const [failing] = controller.status().failing;
  t.match(failing, { key: 'bad', message: 'server says no', attempts: 4, since: 0 });
  words = 'server says never';
  await clock.advance(800);
  t.equal(lines.filter(({ level }) => level === 'warn').length, 2, 'other words are logged');
  isBroken = false;
  await clock.advance(2000);
  t.equal(controller.status().failingCount, 0);
  t.match(lines.at(-1), { level: 'info', message: 'reconcile works again' });
  t.match(controller.status(), { reconciled: 7, failures: 5, running: 0, delayed: 0 });
  stop.abort();
  await running;
});

test('one that hangs is stopped and tried again, and holds up nobody else', async (t) => {
  let hung = 0;
  const { clock, queue, stop, controller } = rig((key, signal) => {
    if (key !== 'hangs') return Promise.resolve(undefined);
    hung += 1;
    return new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
  });
  const running = controller.run(stop.signal);
  queue.add('hangs');
  for (const key of ['a', 'b', 'c']) queue.add(key);
  await clock.advance(4999);
  t.match(controller.status(), { reconciled: 3, running: 1, failures: 0 });
  await clock.advance(1);
  t.match(controller.status().failing, [{ key: 'hangs', message: /longer than 5 s/ }]);
  await clock.advance(100);
  t.equal(hung, 2);
  stop.abort();
  await running;
  t.equal(controller.status().failures, 1, 'what the end cut off is no failure');
});

test('a server that asks for time is given it', async (t) => {
  const { clock, queue, stop, controller } = rig(async () => {
    throw Object.assign(new Error('slow down'), { retryAfterMs: 30_000 });
  });
  const running = controller.run(stop.signal);
  queue.add('a');
  await clock.advance(29_999);
  t.equal(controller.status().reconciled, 1);
  await clock.advance(1);
  t.equal(controller.status().reconciled, 2);
  stop.abort();
  await running;
});

test('it begins with all keys, and comes back to them when the queue overflowed', async (t) => {
  const runs: string[] = [];
  const { clock, keys, queue, stop, controller } = rig(
    async (key) => {
      runs.push(key);
      return undefined;
    },
    { maxKeys: 3 },
  );
  keys.push('a', 'b', 'c', 'd', 'e', 'f', 'g');
  const running = controller.run(stop.signal);
  await clock.advance(0);
  t.same(runs, keys, 'all, though three fit at a time');
  runs.splice(0);
  for (const key of ['u', 'v', 'w', 'x']) queue.add(key);
  keys.push('u', 'v', 'w', 'x');
  await clock.advance(0);
  t.ok(runs.includes('x'), 'x did not fit, and is reached all the same');
  t.equal(runs.length, 3 + keys.length, 'once each, after the three that fitted');
  stop.abort();
  await running;
});

test('a result that backs off asks for looks that are later and later', async (t) => {
  const times: number[] = [];
  const { clock, queue, stop, controller } = rig(async () => {
    times.push(clock.monotonic());
    return { againAfterMs: 150, backsOff: true };
  });
  const running = controller.run(stop.signal);
  queue.add('a');
  await clock.advance(1200);
  t.same(times, [0, 150, 350, 750]);
  t.equal(controller.status().failures, 0);
  stop.abort();
  await running;
});

test('a result asks for another look', async (t) => {
  let runs = 0;
  const { clock, queue, stop, controller } = rig(async () => {
    runs += 1;
    return runs < 3 ? { againAfterMs: 1000 } : undefined;
  });
  const running = controller.run(stop.signal);
  queue.add('a');
  await clock.advance(10_000);
  t.equal(runs, 3);
  t.equal(controller.status().failures, 0);
  stop.abort();
  await running;
});
