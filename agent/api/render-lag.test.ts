import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { clockProblems, LAG_HEADER, type LagReport, lagRow } from './render-lag.ts';

function report(differenceMs: number, uncertaintyMs: number): LagReport {
  return {
    name: parseClusterName('beta'),
    own: false,
    lag: {
      kind: 'measured',
      clock: { differenceMs, uncertaintyMs, steps: 0 },
      recent: { ips: { samples: 60, p50Ms: 2.34, p99Ms: 140.6, maxMs: 150 } },
    },
  };
}

test('lags are shown by kind, with the clock beside them', (t) => {
  const row = lagRow(report(-1234, 2));
  t.same(row, ['beta', '-', '-', '2.3/141', '-', '-1.2 s (within 2.0 ms)']);
  t.equal(row?.length, LAG_HEADER.length);
  t.end();
});

test('a lag that is not known is said to be so, and not shown as none', (t) => {
  const base = { name: parseClusterName('beta'), own: true };
  t.same(lagRow({ ...base, lag: { kind: 'unknown', reason: 'it writes no stamps' } }), [
    'beta (own)',
    'unknown: it writes no stamps',
  ]);
  t.equal(lagRow({ ...base, lag: undefined }), undefined);
  t.same(clockProblems({ ...base, lag: { kind: 'unknown', reason: '' } }), []);
  t.end();
});

test('a clock that is seconds off is a problem, unless it may be right', (t) => {
  const cases: readonly [number, number, RegExp | undefined][] = [
    [0, 1, undefined],
    [-3000, 1, undefined],
    [8000, 6000, undefined],
    [-3100, 1, /cluster beta: its clock is 3\.1 s behind ours: look at the time daemons/],
    [90_000, 10, /its clock is 90\.0 s ahead of ours/],
  ];
  for (const [differenceMs, uncertaintyMs, problem] of cases) {
    const problems = clockProblems(report(differenceMs, uncertaintyMs));
    t.match(problems, problem === undefined ? [] : [problem], `${differenceMs} ± ${uncertaintyMs}`);
    t.equal(problems.length, problem === undefined ? 0 : 1);
  }
  t.end();
});
