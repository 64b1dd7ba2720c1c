import { test } from 'tap';
import { createManualClock } from './manual-clock.ts';

test('advance() wakes sleepers in order, at their times', async (t) => {
  const clock = createManualClock({ now: 1000 });
  const woken: string[] = [];
  const sleeper = async (name: string, ...naps: number[]): Promise<void> => {
    for (const nap of naps) {
      await clock.sleep(nap);
      woken.push(`${name}@${clock.now()}`);
    }
  };
  const all = Promise.all([sleeper('b', 20, 5, 100), sleeper('a', 10, 12), sleeper('c', 500)]);
  await clock.advance(30);
  t.same(woken, ['a@1010', 'b@1020', 'a@1022', 'b@1025']);
  t.equal(clock.now(), 1030);
  t.equal(clock.monotonic(), 30);
  t.equal(clock.sleeping, 2);
  await clock.advance(470);
  await all;
  t.same(woken.slice(4), ['b@1125', 'c@1500']);
  t.equal(clock.sleeping, 0);
});

test('a sleep ends by its signal', async (t) => {
  const clock = createManualClock();
  const stopping = new AbortController();
  const sleeping = clock.sleep(1000, stopping.signal);
  stopping.abort(new Error('enough'));
  await t.rejects(sleeping, /enough/);
  await t.rejects(clock.sleep(1, stopping.signal), /enough/);
  t.equal(clock.sleeping, 0);
});
