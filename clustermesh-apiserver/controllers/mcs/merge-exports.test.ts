import fc from 'fast-check';
import { test } from 'tap';
import { supportedFamilies } from './ip-families.ts';
import { mergeExports } from './merge-exports.ts';
import { isDnsLabel, isLabelValue, isQualifiedName } from './object-names.ts';
import { arbitraryExports, exportOf } from './testing/exports.ts';

test('mergeExports() of nothing is nothing', async (t) => {
  t.equal(mergeExports([]), undefined);
});

test('mergeExports(): the oldest wins, then the cluster whose name comes first', async (t) => {
  const type = (...exports: Parameters<typeof mergeExports>[0]) => mergeExports(exports)?.type;
  const older = exportOf('zeta', { type: 'Headless' });
  const newer = exportOf('alpha', { age: 1 });
  t.equal(type(newer, older), 'Headless', 'age counts before the name');
  t.equal(type(older, exportOf('alpha')), 'ClusterSetIP', 'of two as old the name counts');
});

test('mergeExports() names the clusters in the order of their names', async (t) => {
  const merged = mergeExports([
    exportOf('gamma'),
    exportOf('alpha', { age: 2 }),
    exportOf('beta', { age: 1 }),
  ]);
  t.strictSame(merged?.clusters, ['alpha', 'beta', 'gamma']);
});

/** Families that clusters export, oldest first, and what is common. */
const FAMILIES: readonly {
  name: string;
  exported: readonly (readonly string[] | undefined)[];
  families: readonly string[] | undefined;
}[] = [
  { name: 'all the same', exported: [['IPv4'], ['IPv4']], families: ['IPv4'] },
  { name: 'what is common', exported: [['IPv4', 'IPv6'], ['IPv6']], families: ['IPv6'] },
  {
    name: 'in the order of the oldest',
    exported: [
      ['IPv6', 'IPv4'],
      ['IPv4', 'IPv6'],
    ],
    families: ['IPv6', 'IPv4'],
  },
  { name: 'none common: passed over', exported: [['IPv4'], ['IPv6']], families: ['IPv4'] },
  {
    name: 'an older one that is passed over does not count for the third',
    exported: [['IPv4', 'IPv6'], ['IPv4'], ['IPv6']],
    families: ['IPv4'],
  },
  { name: 'silent clusters have no say', exported: [undefined, ['IPv6']], families: ['IPv6'] },
  { name: 'all silent', exported: [undefined, []], families: undefined },
  { name: 'unknown words are nothing', exported: [['IPv9'], ['IPv4']], families: ['IPv4'] },
];

for (const { name, exported, families } of FAMILIES) {
  test(`mergeExports(): families, ${name}`, async (t) => {
    const merged = mergeExports(
      exported.map((list, index) => exportOf(`c${index}`, { ipFamilies: list, age: index })),
    );
    t.strictSame(merged?.ipFamilies, families);
  });
}

test('supportedFamilies() keeps the order of the exports, or takes ours', async (t) => {
  t.strictSame(supportedFamilies(['IPv6', 'IPv4'], ['IPv4', 'IPv6']), ['IPv6', 'IPv4']);
  t.strictSame(supportedFamilies(['IPv6', 'IPv4'], ['IPv4']), ['IPv4']);
  t.strictSame(supportedFamilies(['IPv6'], ['IPv4']), []);
  t.strictSame(supportedFamilies(undefined, ['IPv4', 'IPv6']), ['IPv4', 'IPv6']);
});

test('mergeExports() leaves out labels and annotations that Kubernetes would refuse', async (t) => {
  const merged = mergeExports([
    exportOf('alpha', {
      labels: { 'app.example/part': 'db', 'bad key': 'x', good: 'not a label value!' },
      annotations: { 'note.example/text': 'anything at all!', '/': 'x', big: 'x'.repeat(300_000) },
    }),
  ]);
  t.strictSame(merged?.labels, { 'app.example/part': 'db' });
  t.strictSame(merged?.annotations, { 'note.example/text': 'anything at all!' });
  t.equal(merged?.refused.length, 4);
});

test('mergeExports() of anything can be written, and is the same in every cluster', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(arbitraryExports, fc.infiniteStream(fc.nat()), (exports, random) => {
        const merged = mergeExports(exports);
        if (merged === undefined) throw new Error('nothing came of it');
        const names = merged.ports.map(({ name }) => name);
        const numbers = merged.ports.map(({ port, protocol }) => `${port}/${protocol}`);
        const shuffled = exports
          .map((one) => ({ one, at: random.next().value }))
          .sort((a, b) => a.at - b.at);
        return (
          new Set(names).size === names.length &&
          new Set(numbers).size === numbers.length &&
          (names.length < 2 || names.every(isDnsLabel)) &&
          merged.ports.every(({ port }) => port >= 1) &&
          Object.entries(merged.labels).every(([k, v]) => isQualifiedName(k) && isLabelValue(v)) &&
          Object.keys(merged.annotations).every((key) => isQualifiedName(key.toLowerCase())) &&
          (merged.affinitySeconds ?? 1) >= 1 &&
          (merged.ipFamilies?.length ?? 1) >= 1 &&
          JSON.stringify(mergeExports(shuffled.map(({ one }) => one))) === JSON.stringify(merged)
        );
      }),
      { numRuns: 300 },
    ),
  );
});

test('mergeExports(): no port of the oldest export is lost to a newer one', async (t) => {
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(arbitraryExports, (exports) => {
        const alone = mergeExports(exports.slice(0, 1));
        const older = exports.slice(0, 1).map((one) => ({ ...one, exportedAt: 0 }));
        const together = mergeExports([...older, ...exports.slice(1)]);
        const text = (ports: readonly object[] | undefined) => JSON.stringify(ports ?? []);
        return text(together?.ports.slice(0, alone?.ports.length)) === text(alone?.ports);
      }),
      { numRuns: 300 },
    ),
  );
});
