import fc from 'fast-check';
import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createWorkQueue, type WorkQueue } from './work-queue.ts';

const never = new AbortController().signal;

/** Takes what is due now, without waiting. */
async function takeNow(queue: WorkQueue): Promise<string | undefined> {
  return queue.ready === 0 ? undefined : (await queue.take(never)).key;
}

test('a key that waits is not queued twice, and one being worked on runs once more', async (t) => {
  const queue = createWorkQueue({ clock: createManualClock() });
  queue.add('a');
  queue.add('b');
  queue.add('a');
  t.equal(queue.ready, 2);
  t.equal((await queue.take(never)).key, 'a');
  queue.add('a');
  queue.add('a');
  t.equal(queue.ready, 1, 'nobody else gets a key that is being worked on');
  t.equal((await queue.take(never)).key, 'b');
  queue.done('a');
  t.equal((await queue.take(never)).key, 'a', 'what was wanted meanwhile is done afterwards');
  queue.done('a');
  queue.done('b');
  t.equal(queue.ready + queue.running + queue.delayed, 0);
});

test('delays: the earliest counts, and what is due is not delayed again', async (t) => {
  const clock = createManualClock();
  const queue = createWorkQueue({ clock });
  queue.addAfter('a', 500);
  queue.addAfter('a', 100);
  queue.addAfter('a', 900);
  const taken = queue.take(never);
  await clock.advance(99);
  t.equal(queue.running, 0);
  await clock.advance(1);
  t.equal((await taken).key, 'a');
  queue.addAfter('a', 50);
  queue.done('a');
  t.equal(queue.delayed, 1, 'a delay that was asked for during the work still counts');
  await clock.advance(50);
  t.equal((await queue.take(never)).key, 'a');
  queue.done('a');
  queue.add('b');
  queue.addAfter('b', 1000);
  t.equal(queue.delayed, 0);
});

test('a delay that ends during the work makes the key run again', async (t) => {
  const clock = createManualClock();
  const queue = createWorkQueue({ clock });
  queue.add('a');
  await queue.take(never);
  queue.addAfter('a', 10);
  await clock.advance(20);
  const waiting = queue.take(never);
  await clock.advance(1);
  queue.done('a');
  const taken = await waiting;
  t.equal(taken.key, 'a');
  t.equal(taken.waitedMs, 11, 'it waited from the time at which it was due');
});

test('retry() backs off by key, with jitter, up to the longest delay', (t) => {
  const clock = createManualClock();
  const queue = createWorkQueue({ clock, retryMinMs: 100, retryMaxMs: 1000, random: () => 1 });
  const delays = Array.from({ length: 6 }, () => queue.retry('a'));
  t.same(delays, [100, 200, 400, 800, 1000, 1000]);
  t.equal(queue.retry('b'), 100, 'another key has its own');
  t.equal(queue.retry('c', 5000), 5000, 'what the server asks for counts where it is more');
  queue.forget('a');
  t.equal(queue.retry('a'), 100);
  const jittered = createWorkQueue({ clock, retryMinMs: 100, random: () => 0 });
  t.equal(jittered.retry('a'), 50);
  t.end();
});

test('groups take turns, within a group the oldest is first', async (t) => {
  const queue = createWorkQueue({
    clock: createManualClock(),
    groupOf: (key) => key.slice(0, 1),
  });
  for (const key of ['a1', 'a2', 'a3', 'a4', 'b1', 'b2', 'c1']) queue.add(key);
  const order: (string | undefined)[] = [];
  for (let each = 0; each < 7; each += 1) order.push(await takeNow(queue));
  t.same(order, ['a1', 'b1', 'c1', 'a2', 'b2', 'a3', 'a4']);
});

test('the rate is kept, after a burst', async (t) => {
  const clock = createManualClock();
  const queue = createWorkQueue({ clock, perSecond: 10, burst: 3 });
  for (let each = 0; each < 20; each += 1) queue.add(String(each));
  let taken = 0;
  const stop = new AbortController();
  const worker = (async () => {
    for (;;) {
      const { key } = await queue.take(stop.signal);
      taken += 1;
      queue.done(key);
    }
  })();
  worker.catch(() => undefined);
  await clock.advance(0);
  t.equal(taken, 3);
  await clock.advance(1000);
  t.equal(taken, 13);
  stop.abort();
  await t.rejects(worker);
});

test('a full queue says so and loses nothing that it took', async (t) => {
  const queue = createWorkQueue({ clock: createManualClock(), maxKeys: 2 });
  t.ok(queue.add('a'));
  t.ok(queue.addAfter('b', 1000));
  t.notOk(queue.add('c'));
  t.ok(queue.add('a'), 'what waits already is no more');
  t.ok(queue.takeOverflow());
  t.notOk(queue.takeOverflow());
  t.equal((await queue.take(never)).key, 'a');
  t.ok(queue.add('c'));
  t.ok(queue.add('a'), 'a key being worked on is not refused');
});

test('take() rejects when its signal aborts', async (t) => {
  const queue = createWorkQueue({ clock: createManualClock() });
  const stop = new AbortController();
  const taking = queue.take(stop.signal);
  stop.abort(new Error('stop'));
  await t.rejects(taking, { message: 'stop' });
  await t.rejects(queue.take(stop.signal), { message: 'stop' });
});

test('whatever the order: never two at a key, nothing lost, every wait counted', async (t) => {
  const key = fc.constantFrom('a', 'b', 'c', 'd');
  const step = fc.oneof(
    fc.record({ kind: fc.constant('add' as const), key }),
    fc.record({ kind: fc.constant('after' as const), key, ms: fc.integer({ min: 1, max: 300 }) }),
    fc.record({ kind: fc.constant('retry' as const), key }),
    fc.record({ kind: fc.constant('advance' as const), ms: fc.integer({ min: 0, max: 200 }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 40 }),
      fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 1, max: 4 }),
      async (steps, workTimes, workers) => {
        const clock = createManualClock();
        const queue = createWorkQueue({ clock, retryMaxMs: 400, perSecond: 100, burst: 5 });
        const stop = new AbortController();
        const atWork = new Set<string>();
        /** When a key was added last, and when a run of it began last. */
        const added = new Map<string, number>();
        const began = new Map<string, number>();
        let runs = 0;
        let event = 0;
        const work = async (): Promise<void> => {
          for (;;) {
            const taken = await queue.take(stop.signal);
            if (atWork.has(taken.key)) throw new Error(`two work on ${taken.key}`);
            if (taken.waitedMs < 0) throw new Error('it waited for less than no time');
            atWork.add(taken.key);
            event += 1;
            began.set(taken.key, event);
            runs += 1;
            await clock.sleep(workTimes[runs % workTimes.length] ?? 0, stop.signal);
            atWork.delete(taken.key);
            queue.done(taken.key);
          }
        };
        const working = Array.from({ length: workers }, work);
        const ended = Promise.allSettled(working);
        for (const each of steps) {
          event += 1;
          if (each.kind === 'advance') await clock.advance(each.ms);
          else {
            added.set(each.key, event);
            if (each.kind === 'add') queue.add(each.key);
            else if (each.kind === 'after') queue.addAfter(each.key, each.ms);
            else queue.retry(each.key);
          }
        }
        await clock.advance(10_000);
        stop.abort(new Error('stop'));
        for (const result of await ended) {
          if (result.status === 'rejected' && result.reason.message !== 'stop') throw result.reason;
        }
        for (const [name, at] of added) {
          if ((began.get(name) ?? 0) < at) throw new Error(`${name} was added and never run`);
        }
        const counted = Array.from(queue.queueTimes.counts).reduce((sum, count) => sum + count, 0);
        return counted === runs && queue.ready + queue.delayed + queue.running === 0;
      },
    ),
    { numRuns: 60 },
  );
  t.pass('held');
});
