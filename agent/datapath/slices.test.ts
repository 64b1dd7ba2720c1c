import { test } from 'tap';
import { atOnce, inSlices } from './slices.ts';

function* steps(count: number, milliseconds: number): Generator<undefined, string> {
  for (let step = 0; step < count; step += 1) {
    const ends = performance.now() + milliseconds;
    while (performance.now() < ends);
    yield;
  }
  return 'done';
}

test('inSlices() lets others have the main loop between steps', async (t) => {
  let turns = 0;
  const count = (): void => {
    turns += 1;
    next = setImmediate(count);
  };
  let next = setImmediate(count);
  t.equal(await inSlices(steps(20, 5)), 'done');
  clearImmediate(next);
  t.ok(turns >= 5, `${turns} turns in a tenth of a second`);
});

test('inSlices() ends with the signal, and hands on what a step throws', async (t) => {
  const stopping = new AbortController();
  setTimeout(() => stopping.abort(new Error('stopped')), 20);
  await t.rejects(inSlices(steps(1_000_000, 1), stopping.signal), { message: 'stopped' });
  const failing = (function* (): Generator<undefined, void> {
    yield;
    throw new Error('broken');
  })();
  await t.rejects(inSlices(failing), { message: 'broken' });
});

test('atOnce() takes all steps', async (t) => {
  t.equal(atOnce(steps(3, 0)), 'done');
});
