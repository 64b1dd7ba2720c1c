import fc from 'fast-check';
import { test } from 'tap';
import { createMassDeleteGuard } from './mass-delete-guard.ts';

const names = (count: number, from = 0): string[] =>
  Array.from({ length: count }, (_, index) => `k${from + index}`);

const cases: readonly [
  name: string,
  end: { gone: number; held: number; isMarked: boolean },
  held: boolean,
][] = [
  ['most of many without a marker', { gone: 51, held: 101, isMarked: false }, true],
  ['everything without a marker', { gone: 1000, held: 1000, isMarked: false }, true],
  ['most of many with a marker', { gone: 1000, held: 1000, isMarked: true }, false],
  ['half of many', { gone: 60, held: 120, isMarked: false }, false],
  ['all of few', { gone: 100, held: 100, isMarked: false }, false],
];
for (const [name, { gone, held, isMarked }, isHeld] of cases) {
  test(`a list that takes ${name} is ${isHeld ? 'held back' : 'believed'}`, async (t) => {
    const guard = createMassDeleteGuard({ ttlMs: 1000 });
    const let_go = guard.listed('ips', { gone: names(gone), held, isMarked, now: 5 });
    t.equal(let_go.length, isHeld ? 0 : gone);
    t.same(guard.status(), isHeld ? [{ kind: 'ips', count: gone, since: 5 }] : []);
  });
}

test('the marker, a new list and the time each end it', async (t) => {
  const guard = createMassDeleteGuard({ ttlMs: 1000 });
  const hold = (now: number) =>
    guard.listed('ips', { gone: names(150), held: 200, isMarked: false, now });
  hold(0);
  guard.returned('ips', 'k0');
  t.same(guard.marked('ips'), names(149, 1), 'the marker');
  t.same(guard.marked('ips'), []);
  hold(0);
  t.same(hold(600), [], 'another list without a marker changes nothing');
  t.same(guard.due(999), []);
  t.same(guard.due(1000), [{ kind: 'ips', names: names(150) }], 'the time, from the first list on');
  t.same(guard.status(), []);
  hold(2000);
  for (const name of names(140)) guard.returned('ips', name);
  t.same(
    guard.listed('ips', { gone: names(10, 140), held: 200, isMarked: false, now: 2001 }),
    names(10, 140),
    'what is still missing from a list that has most again',
  );
  t.same(guard.status(), []);
  const endless = createMassDeleteGuard({ ttlMs: 0 });
  endless.listed('ips', { gone: names(150), held: 200, isMarked: false, now: 0 });
  t.same(endless.due(1e12), [], 'without a bound it waits for the marker');
});

test('whatever happens, nothing is held back for longer than allowed, and nothing is let go twice', async () => {
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('list' as const),
      from: fc.nat(300),
      count: fc.nat(300),
      isMarked: fc.boolean(),
    }),
    fc.record({ kind: fc.constant('returned' as const), key: fc.nat(600) }),
    fc.record({ kind: fc.constant('time' as const), ms: fc.nat(700) }),
    fc.record({ kind: fc.constant('marked' as const) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const guard = createMassDeleteGuard({ ttlMs: 1000 });
      const since = new Map<string, number>();
      let now = 0;
      const letGo = (list: readonly string[]): void => {
        for (const name of list) since.delete(name);
      };
      for (const one of steps) {
        if (one.kind === 'time') now += one.ms;
        else if (one.kind === 'returned') {
          guard.returned('ips', `k${one.key}`);
          since.delete(`k${one.key}`);
        } else if (one.kind === 'marked') letGo(guard.marked('ips'));
        else {
          // What is held back was not named by this list either, unless it was told to be back.
          const gone = [...new Set([...since.keys(), ...names(one.count, one.from)])];
          const before = guard.listed('ips', { gone, held: 600, isMarked: one.isMarked, now });
          if (before.length === 0)
            for (const name of gone) if (!since.has(name)) since.set(name, now);
          letGo(before);
        }
        const due = guard.due(now).flatMap(({ names: list }) => list);
        if (new Set(due).size !== due.length || !due.every((name) => since.has(name))) return false;
        letGo(due);
        if ([...since.values()].some((at) => now - at >= 1000)) return false;
        if (guard.count('ips') !== since.size) return false;
      }
      return true;
    }),
    { numRuns: 500 },
  );
});
