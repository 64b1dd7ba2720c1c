import { getEventListeners } from 'node:events';
import { test } from 'tap';
import { onAbort } from './abort-callbacks.ts';
import { systemClock } from './clock.ts';

test('onAbort() calls everybody once, in order, through one listener', (t) => {
  const ending = new AbortController();
  const { signal } = ending;
  const called: string[] = [];
  const same = (): void => void called.push('same');
  onAbort(signal, same);
  onAbort(signal, same);
  const takeBack = onAbort(signal, () => called.push('taken back'));
  onAbort(signal, () => called.push('last'));
  t.equal(getEventListeners(signal, 'abort').length, 1);
  takeBack();
  takeBack();
  ending.abort();
  t.same(called, ['same', 'same', 'last']);
  onAbort(signal, () => called.push('too late'))();
  t.same(called, ['same', 'same', 'last']);
  t.end();
});

test('onAbort() leaves no listener when nobody waits, and listens again', (t) => {
  const ending = new AbortController();
  const { signal } = ending;
  const called: number[] = [];
  const first = onAbort(signal, () => called.push(1));
  const second = onAbort(signal, () => called.push(2));
  first();
  t.equal(getEventListeners(signal, 'abort').length, 1);
  second();
  t.equal(getEventListeners(signal, 'abort').length, 0);
  onAbort(signal, () => called.push(3));
  first();
  t.equal(getEventListeners(signal, 'abort').length, 1, 'who has gone takes nobody along');
  ending.abort();
  t.same(called, [3]);
  t.end();
});

test('a hundred sleeps on one signal are no leak', async (t) => {
  const ending = new AbortController();
  const { signal } = ending;
  const reason = new Error('enough');
  const sleeps = Array.from({ length: 100 }, () => systemClock.sleep(60_000, signal));
  t.equal(getEventListeners(signal, 'abort').length, 1);
  ending.abort(reason);
  const ended = await Promise.allSettled(sleeps);
  t.ok(ended.every((one) => one.status === 'rejected' && one.reason === reason));
  await t.rejects(systemClock.sleep(1, signal), reason);
});
