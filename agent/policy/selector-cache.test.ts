import fc from 'fast-check';
import { test } from 'tap';
import type { Labels } from '../../mesh/wire/identity.ts';
import { type Requirement, type Selector, selectorMatches } from './selector.ts';
import { createSelectorCache, type SelectorHandle } from './selector-cache.ts';

const KEYS = ['app', 'tier', 'io.kubernetes.pod.namespace'];
const VALUES = ['a', 'b', 'c'];

const labels = fc
  .uniqueArray(fc.tuple(fc.constantFrom('k8s', 'other'), fc.constantFrom(...KEYS)), {
    maxLength: 4,
    selector: (pair) => pair.join(),
  })
  .chain((names) =>
    fc
      .tuple(...names.map(() => fc.constantFrom(...VALUES)))
      .map(
        (values): Labels =>
          names.map(([source, key], index) => ({ source, key, value: values[index] ?? '' })),
      ),
  );
const requirement = fc
  .record({
    source: fc.constantFrom('k8s', 'any'),
    key: fc.constantFrom(...KEYS),
    operator: fc.constantFrom<Requirement['operator']>(
      'In',
      'In',
      'NotIn',
      'Exists',
      'DoesNotExist',
    ),
    values: fc.uniqueArray(fc.constantFrom(...VALUES), { minLength: 1 }),
  })
  .map((one): Requirement => (one.operator.endsWith('In') ? one : { ...one, values: [] }));
const selector: fc.Arbitrary<Selector> = fc.array(requirement, { maxLength: 3 });

const step = fc.oneof(
  fc.record({
    kind: fc.constant('identity' as const),
    id: fc.integer({ min: 1000, max: 1008 }),
    labels: fc.option(labels, { nil: undefined }),
  }),
  fc.record({ kind: fc.constant('add' as const), selector }),
  fc.record({ kind: fc.constant('remove' as const), which: fc.nat(100) }),
);

test('selectors in use have the identities that a look at each would find, and tell of every change', async () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 50 }), (steps) => {
      const cache = createSelectorCache();
      const known = new Map<number, Labels>();
      const used: { selector: Selector; handle: SelectorHandle; told: Set<number> }[] = [];
      for (const one of steps) {
        if (one.kind === 'identity') {
          cache.setIdentity(one.id, one.labels);
          if (one.labels === undefined) known.delete(one.id);
          else known.set(one.id, one.labels);
        } else if (one.kind === 'add') {
          const told = new Set<number>();
          const handle = cache.add(one.selector, (id, isIn) => {
            if (isIn) told.add(id);
            else told.delete(id);
          });
          for (const id of handle.identities) told.add(id);
          used.push({ selector: one.selector, handle, told });
        } else if (used.length > 0) {
          used.splice(one.which % used.length, 1)[0]?.handle.remove();
        }
        for (const { selector: asked, handle, told } of used) {
          const wanted = [...known].flatMap(([id, has]) =>
            selectorMatches(asked, has) ? [id] : [],
          );
          const found = [...handle.identities].filter((id) => id >= 1000);
          if (found.sort().join() !== wanted.sort().join()) return false;
          if ([...told].sort().join() !== [...handle.identities].sort().join()) return false;
        }
        if (cache.identityCount !== known.size) return false;
      }
      return true;
    }),
    { numRuns: 300 },
  );
});

test('a cache knows the reserved identities, and counts neither them nor local ones', async (t) => {
  const cache = createSelectorCache();
  const world = cache.add(
    [{ source: 'reserved', key: 'world', operator: 'In', values: [''] }],
    () => undefined,
  );
  t.same([...world.identities], [2]);
  cache.setIdentity((1 << 24) + 1, [{ source: 'reserved', key: 'world', value: '' }]);
  t.same([...world.identities], [2, (1 << 24) + 1]);
  t.equal(cache.identityCount, 0);
  cache.setIdentity((1 << 24) + 1, undefined);
  cache.setIdentity(70_000, []);
  t.equal(cache.identityCount, 1);
  t.ok([...cache.identities()].length > 8);
});
