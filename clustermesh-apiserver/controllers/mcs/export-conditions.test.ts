import { test } from 'tap';
import { type StoredCondition, sameConditions, storeConditions } from './condition.ts';
import { type ExportVerdict, exportConditions } from './export-conditions.ts';
import { newsOf } from './export-writer.ts';

const CONFLICT = { reason: 'PortConflict', message: 'ports: 1 of 2 clusters disagree' } as const;

/** Each verdict and its conditions as `type=status reason`. */
const CASES: readonly { verdict: ExportVerdict; conditions: readonly string[] }[] = [
  {
    verdict: { kind: 'exported', conflict: undefined },
    conditions: ['Valid=True Valid', 'Ready=True Ready', 'Conflict=False NoConflicts'],
  },
  {
    verdict: { kind: 'exported', conflict: CONFLICT },
    conditions: ['Valid=True Valid', 'Ready=True Ready', 'Conflict=True PortConflict'],
  },
  {
    verdict: { kind: 'waiting', peers: ['beta'] },
    conditions: ['Valid=True Valid', 'Ready=True Ready', 'Conflict=Unknown Pending'],
  },
  {
    verdict: { kind: 'no-service' },
    conditions: ['Valid=False NoService', 'Ready=False Pending'],
  },
  {
    verdict: { kind: 'invalid-type', type: 'ExternalName' },
    conditions: ['Valid=False InvalidServiceType', 'Ready=False Pending'],
  },
  {
    verdict: { kind: 'unusable', message: 'field spec.ports: expected a list' },
    conditions: ['Valid=False InvalidService', 'Ready=False Pending'],
  },
  {
    verdict: { kind: 'namespace-not-global' },
    conditions: ['Valid=False NamespaceNotGlobal', 'Ready=False Pending'],
  },
];

for (const { verdict, conditions } of CASES) {
  test(`exportConditions() of ${verdict.kind}`, async (t) => {
    t.strictSame(
      exportConditions(verdict).map(({ type, status, reason }) => `${type}=${status} ${reason}`),
      conditions,
    );
  });
}

test('storeConditions() keeps the time of what has not changed', async (t) => {
  const before: readonly StoredCondition[] = storeConditions(
    exportConditions({ kind: 'exported', conflict: undefined }),
    { before: [], generation: 1, now: Date.parse('2026-01-01T00:00:00Z') },
  );
  const after = storeConditions(exportConditions({ kind: 'exported', conflict: CONFLICT }), {
    before,
    generation: 2,
    now: Date.parse('2026-02-01T00:00:00.500Z'),
  });
  t.strictSame(
    after.map(({ type, lastTransitionTime }) => `${type} ${lastTransitionTime}`),
    ['Valid 2026-01-01T00:00:00Z', 'Ready 2026-01-01T00:00:00Z', 'Conflict 2026-02-01T00:00:00Z'],
  );
  t.notOk(sameConditions(after, before));
  t.ok(sameConditions([...after].reverse(), after), 'in any order');
  t.notOk(sameConditions(after.slice(1), after));
});

test('newsOf() tells of what changed, once', async (t) => {
  const news = (verdict: ExportVerdict, before: readonly StoredCondition[]) =>
    newsOf(exportConditions(verdict), before).map(({ type, reason }) => `${type} ${reason}`);
  const stored = (verdict: ExportVerdict) =>
    storeConditions(exportConditions(verdict), { before: [], generation: 1, now: 0 });
  const good: ExportVerdict = { kind: 'exported', conflict: undefined };
  const bad: ExportVerdict = { kind: 'exported', conflict: CONFLICT };
  t.strictSame(news(good, []), ['Normal Exported']);
  t.strictSame(news(good, stored(good)), []);
  t.strictSame(news(bad, stored(good)), ['Warning PortConflict']);
  t.strictSame(news(bad, stored(bad)), []);
  t.strictSame(news(good, stored(bad)), ['Normal NoConflicts']);
  t.strictSame(news({ kind: 'no-service' }, stored(good)), ['Warning NoService']);
  t.strictSame(news({ kind: 'waiting', peers: ['beta'] }, stored(bad)), []);
});
