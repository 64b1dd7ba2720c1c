import { test } from 'tap';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import { type GeneratedOptions, generateCluster } from './generated-cluster.ts';
import { SERVICE_SORTS } from './generated-services.ts';
import { pathsOf } from './kube-writer.ts';
import { seededRandom } from './seeded-random.ts';

const STYLES = ['pods', 'cilium-endpoints', 'cilium-endpoint-slices'] as const;
const OPTIONS: Omit<GeneratedOptions, 'style'> = {
  cluster: 'alpha',
  clusterId: 1,
  seed: 7,
  sizes: { nodes: 20, namespaces: 5, identities: 30, pods: 200, services: 60, endpoints: 5 },
  exports: 'v1beta1',
};

function byPath(objects: readonly KubernetesObject[]): Map<string, string> {
  return new Map(objects.map((object) => [pathsOf(object).item, JSON.stringify(object)]));
}

for (const style of STYLES) {
  test(`generateCluster() comes to the same by its steps as it says itself: ${style}`, async (t) => {
    const [one, other] = [1, 2].map(() => generateCluster({ ...OPTIONS, style }));
    if (one === undefined || other === undefined) return;
    const state = byPath(one.objects());
    t.strictSame(state, byPath(other.objects()), 'the same seed makes the same cluster');
    const kinds = new Set<string>();
    for (let step = 0; step < 10; step += 1) {
      const changes = one.step();
      t.equal(JSON.stringify(changes), JSON.stringify(other.step()), 'and the same steps');
      for (const { kind, object } of changes) {
        kinds.add(`${kind} ${object.kind}`);
        const { item } = pathsOf(object);
        if (kind === 'put') state.set(item, JSON.stringify(object));
        else t.ok(state.delete(item), `${item} was there to be deleted`);
      }
    }
    t.strictSame(new Map([...state].sort()), new Map([...byPath(one.objects())].sort()));
    for (const kind of ['Node', 'Service', 'EndpointSlice', 'ServiceExport']) {
      t.ok(kinds.has(`put ${kind}`) && kinds.has(`delete ${kind}`), `${kind}s come and go`);
    }
  });
}

test('generateCluster() has a Service of every sort, and names nothing twice', async (t) => {
  const objects = generateCluster({ ...OPTIONS, style: 'cilium-endpoints' }).objects();
  const names = objects
    .filter(({ kind }) => kind === 'Service')
    .map(({ metadata }) => metadata.name);
  for (const { name } of SERVICE_SORTS) {
    t.ok(
      names.some((service) => service.startsWith(`svc-${name}-`)),
      name,
    );
  }
  t.equal(byPath(objects).size, objects.length);
});

test('seededRandom() comes again from its seed, and is spread', async (t) => {
  const draw = (seed: number): number[] => {
    const random = seededRandom(seed);
    return Array.from({ length: 2000 }, () => random.integer(10));
  };
  t.strictSame(draw(1), draw(1));
  t.notSame(draw(1), draw(2));
  const counts = draw(3).reduce(
    (all, value) => {
      all[value] = (all[value] ?? 0) + 1;
      return all;
    },
    Array.from({ length: 10 }, () => 0),
  );
  t.ok(counts.every((count) => count > 150 && count < 250));
  t.throws(() => seededRandom(1).pick([]), { message: 'there is nothing to pick from' });
});
