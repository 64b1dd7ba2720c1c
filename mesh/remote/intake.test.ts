import fc from 'fast-check';
import { test } from 'tap';
import type { KvEvent } from '../kvstore/kvstore.ts';
import { systemClock } from '../runtime/clock.ts';
import { createIntake, type LaneHandler } from './intake.ts';

const put = (key: string, revision: number, bytes = 1): KvEvent => ({
  kind: 'put',
  pair: {
    key,
    value: Buffer.alloc(bytes, revision & 255),
    modRevision: BigInt(revision),
    lease: 0n,
  },
});
const gone = (key: string, revision: number): KvEvent => ({
  kind: 'delete',
  key,
  modRevision: BigInt(revision),
  derived: false,
});
const LIST: KvEvent = { kind: 'list-start', reason: 'first' };
const SYNCED: KvEvent = { kind: 'synced', revision: 1n, count: 0 };

function collect(): LaneHandler & { readonly seen: string[]; readonly blurs: bigint[] } {
  const seen: string[] = [];
  const blurs: bigint[] = [];
  return {
    seen,
    blurs,
    event(event) {
      if (event.kind === 'put') seen.push(`${event.pair.key}@${event.pair.modRevision}`);
      else if (event.kind === 'delete') seen.push(`-${event.key}@${event.modRevision}`);
      else seen.push(event.kind);
      return undefined;
    },
    blurred: (revision) => blurs.push(revision),
    rested: () => undefined,
  };
}

test('a later change takes the place of one that still waits, but never across the end of a list', async (t) => {
  const handler = collect();
  const lane = createIntake().open('beta', handler);
  await lane.push([
    LIST,
    put('a', 1),
    put('a', 2),
    SYNCED,
    put('a', 3),
    put('b', 4),
    gone('a', 5),
    put('b', 6),
  ]);
  await systemClock.sleep(5);
  t.same(handler.seen, ['list-start', 'a@1', 'a@2', 'synced', '-a@5', 'b@6']);
  t.same(handler.blurs, [5n, 6n]);
  await lane.close();
});

test('whatever is pushed, the last change of each key is the last that is handled', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(fc.tuple(fc.nat(5), fc.boolean()), { minLength: 1, maxLength: 8 }), {
        maxLength: 12,
      }),
      async (batches) => {
        const held = new Map<string, number>();
        const model = new Map<string, number>();
        let revision = 0;
        const lane = createIntake({ maxEvents: 4 }).open('beta', {
          event(event) {
            if (event.kind === 'put') held.set(event.pair.key, Number(event.pair.modRevision));
            if (event.kind === 'delete') held.delete(event.key);
            return revision % 3 === 0 ? Promise.resolve() : undefined;
          },
          blurred: () => undefined,
          rested: () => undefined,
        });
        for (const batch of batches) {
          const events = batch.map(([number, isGone]) => {
            revision += 1;
            const key = `k${number}`;
            if (isGone) model.delete(key);
            else model.set(key, revision);
            return isGone ? gone(key, revision) : put(key, revision);
          });
          await lane.push(events);
        }
        for (let turn = 0; turn < 500 && lane.queued() > 0; turn += 1) await systemClock.sleep(0);
        await systemClock.sleep(1);
        await lane.close();
        return [...model].sort().join() === [...held].sort().join();
      },
    ),
    { numRuns: 100 },
  );
});

test('a full lane lets its connection wait, by number and by bytes, and serves others meanwhile', async (t) => {
  const intake = createIntake({ maxEvents: 10, maxBytes: 1000 });
  let release = (): void => undefined;
  const blocked = new Promise<void>((resolve) => {
    release = resolve;
  });
  const slow = intake.open('slow', {
    event: () => blocked,
    blurred: () => undefined,
    rested: () => undefined,
  });
  const handler = collect();
  const normal = intake.open('normal', handler);
  let isThrough = false;
  await slow.push([put('a', 1)]);
  await systemClock.sleep(5);
  const pushing = slow.push([put('b', 2, 1001)]).then(() => {
    isThrough = true;
  });
  await systemClock.sleep(5);
  t.equal(isThrough, false, 'more bytes than may wait');
  t.match(intake.status('slow'), { queued: 1, paused: 1 });
  await normal.push([put('a', 1)]);
  await systemClock.sleep(5);
  t.same(handler.seen, ['a@1'], 'the other cluster is served');
  release();
  await pushing;
  await slow.close();
  await normal.close();
  intake.forget('slow');
  t.match(intake.status('slow'), { queued: 0, paused: 0 });
});

test('what a handler throws ends its lane alone', async (t) => {
  const intake = createIntake();
  const failing = intake.open('beta', {
    event: () => {
      throw new Error('broken');
    },
    blurred: () => undefined,
    rested: () => undefined,
  });
  const rejecting = intake.open('beta', {
    event: async () => {
      throw new Error('broken later');
    },
    blurred: () => undefined,
    rested: () => undefined,
  });
  const handler = collect();
  const fine = intake.open('beta', handler);
  const pushTwice = async (lane: typeof failing): Promise<void> => {
    await lane.push([put('a', 1)]);
    await systemClock.sleep(5);
    await lane.push([put('a', 2)]);
  };
  await t.rejects(pushTwice(failing), { message: 'broken' });
  await t.rejects(pushTwice(rejecting), { message: 'broken later' });
  await fine.push([put('a', 1)]);
  await systemClock.sleep(5);
  t.same(handler.seen, ['a@1']);
  for (const lane of [failing, rejecting, fine]) await lane.close();
});

test('a cluster that floods takes its turns, and no more: another waits for a few of them at most', async (t) => {
  const intake = createIntake();
  const spin = (): undefined => {
    // Twenty microseconds of work, as for a value that is decoded.
    const ends = performance.now() + 0.02;
    while (performance.now() < ends);
    return undefined;
  };
  const flooding = intake.open('flood', {
    event: spin,
    blurred: () => undefined,
    rested: () => undefined,
  });
  let isOver = false;
  let handled = 0;
  const flood = (async (): Promise<void> => {
    for (let round = 0; !isOver; round += 1) {
      await flooding.push(
        Array.from({ length: 1024 }, (_, index) => put(`k${round}-${index}`, round)),
      );
    }
  })();
  const lags: number[] = [];
  let sentAt = 0;
  const normal = intake.open('normal', {
    event: () => {
      lags.push(performance.now() - sentAt);
      handled += 1;
      return undefined;
    },
    blurred: () => undefined,
    rested: () => undefined,
  });
  for (let index = 0; index < 50; index += 1) {
    await systemClock.sleep(5);
    sentAt = performance.now();
    await normal.push([put('a', index)]);
    while (handled <= index) await systemClock.sleep(0);
  }
  isOver = true;
  await flooding.close();
  await flood;
  await normal.close();
  lags.sort((a, b) => a - b);
  const median = lags[25] ?? 0;
  t.comment(`median ${median.toFixed(1)} ms, longest ${lags.at(-1)?.toFixed(1)} ms`);
  t.ok(median < 50, 'with 4,096 events of the other waiting all the time, 80 ms of work');
});
