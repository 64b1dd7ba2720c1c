import { test } from 'tap';
import type { BackendUse } from '../../mesh/remote/peer-state.ts';
import { type DecisionInput, decideUse, drainUse } from './decision.ts';

const NONE: BackendUse = { level: 'none', reason: '' };
const LAST: BackendUse = { level: 'last', reason: 'its control plane is silent' };
const GONE: BackendUse = {
  level: 'gone',
  reason: 'silent for more than 120 s, and none of its nodes answers',
};

const SILENT = { isStale: true, silentMs: 130_000, cause: 'peer' } as const;
const DEAD = { kind: 'dead', nodesAsked: 3 } as const;
const ALIVE = { kind: 'alive' } as const;

const cases: readonly [name: string, input: Partial<DecisionInput>, expected: BackendUse][] = [
  ['a peer that speaks is used', { life: { ...SILENT, isStale: false, silentMs: 0 } }, NONE],
  ['a silent one is used last', { path: ALIVE }, LAST],
  ['also while nobody was asked yet', { path: { kind: 'unknown' } }, LAST],
  ['a silent one whose nodes are silent, too, goes', { path: DEAD }, GONE],
  ['but not before its time', { path: DEAD, life: { ...SILENT, silentMs: 119_999 } }, LAST],
  ['and never with a time of 0', { path: DEAD, ttlMs: 0 }, LAST],
  [
    'one that speaks again and is not trusted yet stays gone while its nodes are silent',
    { path: DEAD, before: GONE, life: { ...SILENT, silentMs: 0 } },
    GONE,
  ],
  ['and is used last as soon as they answer', { path: ALIVE, before: GONE }, LAST],
  [
    'when our mirror is what failed nothing is withdrawn',
    { path: DEAD, life: { ...SILENT, cause: 'mirror' } },
    NONE,
  ],
  ['nor given back', { path: ALIVE, before: GONE, life: { ...SILENT, cause: 'mirror' } }, GONE],
  ['with `never` nothing happens', { path: DEAD, mode: 'never' }, NONE],
  ['with `always` the same decides', { path: DEAD, mode: 'always' }, GONE],
  ['and a living data path holds it off', { path: ALIVE, mode: 'always' }, LAST],
];

for (const [name, input, expected] of cases) {
  test(`decideUse(): ${name} (promise 1)`, async (t) => {
    const use = decideUse({
      life: SILENT,
      path: { kind: 'unknown' },
      before: NONE,
      mode: 'auto',
      ttlMs: 120_000,
      ...input,
    });
    t.same(use, expected);
  });
}

test('a cluster without any known node is told as such', async (t) => {
  const use = decideUse({
    life: SILENT,
    path: { kind: 'dead', nodesAsked: 0 },
    before: LAST,
    mode: 'auto',
    ttlMs: 60_000,
  });
  t.same(use, { level: 'gone', reason: 'silent for more than 60 s, and no node of it is known' });
});

test('a drained cluster is used last, a dead one stays gone', async (t) => {
  t.match(drainUse(NONE), { level: 'last', reason: /drained/ });
  t.match(drainUse(LAST), { level: 'last', reason: /drained/ });
  t.same(drainUse(GONE), GONE);
});
