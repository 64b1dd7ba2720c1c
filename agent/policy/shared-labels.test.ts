import fc from 'fast-check';
import { test } from 'tap';
import type { Labels } from '../../mesh/wire/identity.ts';
import { createSelectorCache } from './selector-cache.ts';
import { createSharedLabels } from './shared-labels.ts';

const label = fc.record({
  source: fc.constantFrom('k8s', 'reserved', 'k'),
  key: fc.constantFrom('app', 'io.kubernetes.pod.namespace', '8s:app'),
  value: fc.constantFrom('', 'web', 'd\u00e9j\u00e0 vu'),
});
const labels = fc.array(label, { maxLength: 5 });

test('shared labels are those that were given, one object each, and gone when nobody has them', async () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(4), labels), { maxLength: 60 }), (steps) => {
      const shared = createSharedLabels();
      const held = new Map<number, Labels>();
      for (const [identity, wanted] of steps) {
        const before = held.get(identity);
        const taken = shared.take(wanted);
        if (JSON.stringify(taken) !== JSON.stringify(wanted)) return false;
        held.set(identity, taken);
        if (before !== undefined) shared.drop(before);
        const all = [...held.values()].flat();
        const texts = new Set(all.map((one) => JSON.stringify(one)));
        if (shared.size !== texts.size || new Set(all).size !== texts.size) return false;
      }
      for (const last of held.values()) shared.drop(last);
      return shared.size === 0;
    }),
    { numRuns: 300 },
  );
});

test('identities of a selector cache share labels and give them back', async (t) => {
  const cache = createSelectorCache();
  const web = (cluster: string): Labels => [
    { source: 'k8s', key: 'app', value: 'web' },
    { source: 'k8s', key: 'io.cilium.k8s.policy.cluster', value: cluster },
  ];
  cache.setIdentity(70_000, web('a'));
  cache.setIdentity(140_000, web('b'));
  t.equal(cache.labelsOf(70_000)?.[0], cache.labelsOf(140_000)?.[0], 'one object for both');
  cache.setIdentity(70_000, web('c'));
  t.same(cache.labelsOf(70_000), web('c'));
  cache.setIdentity(70_000, undefined);
  t.equal(cache.labelsOf(70_000), undefined);
  t.same(cache.labelsOf(140_000), web('b'));
  cache.setIdentity(1, undefined);
  t.equal(cache.labelsOf(1), undefined, 'a reserved one, too');
});
