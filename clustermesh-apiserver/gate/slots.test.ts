import { test } from 'tap';
import { createSlots } from './slots.ts';

test('places are taken in turn and given back once', async (t) => {
  const slots = createSlots(1);
  const { signal } = new AbortController();
  const first = await slots.acquire(signal);
  const leaving = new AbortController();
  const second = slots.acquire(leaving.signal);
  const third = slots.acquire(signal);
  leaving.abort(new Error('left'));
  await t.rejects(second, /left/);
  first();
  first();
  const release = await third;
  t.equal(slots.taken, 1);
  release();
  t.equal(slots.taken, 0);
  await t.rejects(slots.acquire(AbortSignal.abort(new Error('gone'))), /gone/);
});
