import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { type Labels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import {
  identityRange,
  type MaxConnectedClusters,
  parseClusterId,
  parseClusterName,
} from '../../mesh/wire/ids.ts';
import { identityKey } from '../../mesh/wire/keys.ts';
import { createIdentityAllocator, IdentityError } from './identities.ts';

const { signal } = new AbortController();
const labels = (app: string): Labels =>
  labelsFromRecord({ app, 'io.cilium.k8s.policy.cluster': 'alpha' });

function allocator(
  store: ReturnType<typeof createMemoryStore>,
  options: { id?: number; max?: MaxConnectedClusters; random?: () => number } = {},
) {
  return createIdentityAllocator({
    store,
    cluster: parseClusterName('alpha'),
    clusterId: parseClusterId(options.id ?? 1),
    maxConnectedClusters: options.max ?? 255,
    random: options.random ?? (() => 0),
  });
}

for (const { id, max } of [
  { id: 1, max: 255 },
  { id: 255, max: 255 },
  { id: 511, max: 511 },
] as const) {
  test(`numbers of cluster ${id} in a mesh of ${max} lie in its range`, async (t) => {
    const store = createMemoryStore();
    const identities = allocator(store, { id, max });
    const number = await identities.allocate(labels('web'), signal);
    const range = identityRange(parseClusterId(id, max), max);
    t.ok(
      number >= range.first + 256 && number <= range.last,
      `${number} in ${range.first} to ${range.last}`,
    );
    const pair = await store.get(identityKey(number));
    t.equal(pair?.value.toString(), 'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=alpha;');
    t.equal(pair?.lease, 0n, 'a number outlives its allocator');
  });
}

test('same labels, same number: again, after a restart, and from another allocator', async (t) => {
  const store = createMemoryStore();
  const first = allocator(store);
  const number = await first.allocate(labels('web'), signal);
  t.equal(await first.allocate(labels('web'), signal), number);
  t.not(await first.allocate(labels('db'), signal), number);
  const restarted = allocator(store.connect(), { random: () => 0.5 });
  await restarted.load(signal);
  t.equal(await restarted.allocate(labels('web'), signal), number);
  const unaware = allocator(store.connect(), { random: () => 0.9 });
  t.equal(await unaware.allocate(labels('web'), signal), number, 'also one that never read');
});

test('allocators that race for the same labels and the same numbers agree', async (t) => {
  const store = createMemoryStore();
  const racers = Array.from({ length: 4 }, () => allocator(store.connect()));
  const apps = Array.from({ length: 50 }, (_, index) => labels(`app-${index}`));
  const results = await Promise.all(
    racers.map((racer) => Promise.all(apps.map((app) => racer.allocate(app, signal)))),
  );
  for (const result of results) t.same(result, results[0]);
  t.equal(new Set(results[0]).size, apps.length, 'no number twice');
});

test('when all numbers are used there is a clear error, and those in use go on', async (t) => {
  const store = createMemoryStore();
  const identities = allocator(store, { id: 3, max: 511 });
  await Promise.all(
    Array.from({ length: 2 ** 15 - 256 }, (_, index) =>
      store.put(identityKey((3 * 2 ** 15 + 256 + index) as never), 'k8s:x=y;'),
    ),
  );
  await identities.load(signal);
  await t.rejects(identities.allocate(labels('one-more'), signal), IdentityError);
  await t.rejects(identities.allocate(labels('one-more'), signal), /all 32512 numbers/);
});

test('collectGarbage() deletes what nobody uses, and no number that another allocator took over', async (t) => {
  const store = createMemoryStore();
  const identities = allocator(store);
  const web = await identities.allocate(labels('web'), signal);
  const db = await identities.allocate(labels('db'), signal);
  t.equal(
    await identities.collectGarbage(
      new Set(['k8s:app=web;k8s:io.cilium.k8s.policy.cluster=alpha;']),
      signal,
    ),
    1,
  );
  t.ok(await store.get(identityKey(web)));
  t.notOk(await store.get(identityKey(db)));
});

test('restore() gives everybody the same number after etcd lost its data', async (t) => {
  const store = createMemoryStore();
  const identities = allocator(store);
  const web = await identities.allocate(labels('web'), signal);
  store.faults.wipe();
  t.notOk(await store.get(identityKey(web)));
  await identities.restore(signal);
  t.ok(await store.get(identityKey(web)));
});
