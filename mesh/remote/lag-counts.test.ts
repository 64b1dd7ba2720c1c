import fc from 'fast-check';
import { test } from 'tap';
import { createLagCounts, LAG_BOUNDS_SECONDS } from './lag-counts.ts';

test('totals count each lag in its bucket, the last one what is above all', (t) => {
  const counts = createLagCounts();
  for (const lagMs of [0, 1, 1.1, 2.5, 99, 60_000, 60_001, 1e9]) counts.add(lagMs, 0);
  const { total } = counts;
  t.same([...total.counts], [2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2]);
  t.equal(total.counts.length, LAG_BOUNDS_SECONDS.length + 1);
  t.ok(Math.abs(total.sum - 1_000_120.1046) < 1e-6, `${total.sum}`);
  t.end();
});

test('quantiles are right within a tenth', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.3, max: 100_000, noNaN: true }), {
        minLength: 1,
        maxLength: 300,
      }),
      (lags) => {
        const counts = createLagCounts();
        for (const lag of lags) counts.add(lag, 1000);
        const recent = counts.recent(2000);
        if (recent === undefined || recent.samples !== lags.length) return false;
        const sorted = [...lags].sort((a, b) => a - b);
        const isNear = (found: number, share: number): boolean => {
          const true_ = sorted[Math.ceil(sorted.length * share) - 1] ?? Number.NaN;
          return found >= true_ * 0.9 && found <= true_ * 1.1;
        };
        return (
          isNear(recent.p50Ms, 0.5) && isNear(recent.p99Ms, 0.99) && recent.maxMs === sorted.at(-1)
        );
      },
    ),
  );
  t.pass('of any lags');
  t.end();
});

test('what is recent is forgotten after five minutes, totals are not', (t) => {
  const counts = createLagCounts();
  t.equal(counts.recent(0), undefined);
  counts.add(10, 0);
  counts.add(20, 240_000);
  t.equal(counts.recent(299_000)?.samples, 2);
  t.equal(counts.recent(300_000)?.samples, 1);
  t.equal(counts.recent(600_000), undefined);
  t.equal(
    counts.total.counts.reduce((sum, count) => sum + count, 0),
    2,
  );
  t.end();
});
