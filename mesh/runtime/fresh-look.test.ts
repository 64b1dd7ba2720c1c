import { test } from 'tap';
import { createFreshLook } from './fresh-look.ts';

test('ask() resolves when a look that began after it has been taken in', async (t) => {
  const look = createFreshLook();
  let rung = 0;
  look.onAsked(() => {
    rung += 1;
  });
  const { signal } = new AbortController();
  const earlier = look.begin();
  let isDone = false;
  const asked = look.ask(signal).then(() => {
    isDone = true;
  });
  t.equal(rung, 1);
  earlier();
  await new Promise((resolve) => setImmediate(resolve));
  t.notOk(isDone, 'a look that was under way may have missed it');
  look.begin()();
  await asked;
});

test('ask() ends with its signal', async (t) => {
  const look = createFreshLook();
  const ending = new AbortController();
  const asked = look.ask(ending.signal);
  ending.abort(new Error('enough'));
  await t.rejects(asked, { message: 'enough' });
  await t.rejects(look.ask(ending.signal), { message: 'enough' });
});
