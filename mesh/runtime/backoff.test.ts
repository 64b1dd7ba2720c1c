import { test } from 'tap';
import { createBackoff } from './backoff.ts';

test('createBackoff() doubles from its minimum to its maximum, with jitter', async (t) => {
  const highest = createBackoff({ minMs: 100, maxMs: 1000, random: () => 1 });
  t.same(
    Array.from({ length: 6 }, () => highest.next()),
    [100, 200, 400, 800, 1000, 1000],
  );
  const lowest = createBackoff({ minMs: 100, maxMs: 1000, random: () => 0 });
  t.same(
    Array.from({ length: 6 }, () => lowest.next()),
    [50, 100, 200, 400, 500, 500],
  );
  t.equal(lowest.attempts, 6);
  lowest.reset();
  t.equal(lowest.attempts, 0);
  t.equal(lowest.next(), 50);
  for (let i = 0; i < 2000; i += 1) lowest.next();
  t.equal(lowest.next(), 500, 'no overflow');
});
