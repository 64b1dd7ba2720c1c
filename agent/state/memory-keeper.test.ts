import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { keepMemory } from './memory-keeper.ts';

const MEBIBYTE = 1024 * 1024;

test('memory is given back when there is much more of it than the last time, and not again for what is in use', async (t) => {
  const clock = createManualClock();
  const ending = new AbortController();
  let free = 0;
  let used = 60 * MEBIBYTE;
  let releases = 0;
  const done = keepMemory(
    {
      nativeBytes: () => used + free,
      release: () => {
        releases += 1;
        free = 0;
      },
      clock,
    },
    ending.signal,
  );
  await clock.advance(1000);
  t.equal(releases, 0);
  free = 15 * MEBIBYTE;
  await clock.advance(1000);
  t.equal(releases, 0, 'too little to be worth it');
  free = 17 * MEBIBYTE;
  await clock.advance(1000);
  t.equal(releases, 1);
  used = 100 * MEBIBYTE;
  await clock.advance(1000);
  t.equal(releases, 2, 'nobody knows that it is in use before it is tried');
  await clock.advance(60_000);
  t.equal(releases, 2);
  used = 70 * MEBIBYTE;
  await clock.advance(1000);
  free = 20 * MEBIBYTE;
  await clock.advance(1000);
  t.equal(releases, 3, 'it is measured against the least since');
  ending.abort();
  await done;
});
