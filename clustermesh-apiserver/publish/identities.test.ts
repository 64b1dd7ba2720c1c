import { type Test, test } from 'tap';
import { KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { encodeLabels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import {
  type MaxConnectedClusters,
  parseClusterId,
  parseClusterName,
} from '../../mesh/wire/ids.ts';
import {
  openEtcdUnderTest,
  openMemoryUnderTest,
  type StoreUnderTest,
} from '../testing/publishing-rig.ts';
import { createIdentityAllocator, type IdentityAllocator } from './identities.ts';
import { ALLOCATIONS_PREFIX } from './identity-places.ts';

const IDS = 'cilium/state/identities/v1/id/';
const signal = new AbortController().signal;
const PUBLIC = { isLocal: false, signal };

const labels = (app: string) => labelsFromRecord({ app, 'io.cilium.k8s.policy.cluster': 'alpha' });
const text = (app: string): string => encodeLabels(labels(app));

async function loaded(
  store: KvStore,
  options: { id?: number; max?: MaxConnectedClusters; random?: () => number } = {},
): Promise<IdentityAllocator> {
  const max = options.max ?? 255;
  const allocator = createIdentityAllocator({
    store,
    cluster: parseClusterName('alpha'),
    clusterId: parseClusterId(options.id ?? 1, max),
    maxConnectedClusters: max,
    ...(options.random === undefined ? {} : { random: options.random }),
  });
  await allocator.load(signal);
  return allocator;
}

async function connected(t: Test, under: StoreUnderTest): Promise<KvStore> {
  const store = await under.connect();
  t.teardown(() => store[Symbol.asyncDispose]());
  return store;
}

test('allocate() stays in the range of the cluster, for 255 and 511 clusters', async (t) => {
  const cases: readonly [number, MaxConnectedClusters, number, number][] = [
    [1, 255, 65_536 + 256, 131_071],
    [255, 255, 255 * 65_536 + 256, 256 * 65_536 - 1],
    [1, 511, 32_768 + 256, 65_535],
    [511, 511, 511 * 32_768 + 256, 512 * 32_768 - 1],
  ];
  for (const [id, max, first, last] of cases) {
    for (const random of [() => 0, () => 0.999_999_999]) {
      const allocator = await loaded(createMemoryStore(), { id, max, random });
      for (const app of ['a', 'b', 'c']) {
        const number = await allocator.allocate(labels(app), PUBLIC);
        t.ok(number >= first && number <= last, `${number} of cluster ${id} of ${max}`);
      }
    }
  }
});

for (const [kind, skip] of [
  ['memory', false],
  ['etcd', etcdSkipReason(process.env)],
] as const) {
  const open = (t: Test) => (kind === 'memory' ? openMemoryUnderTest() : openEtcdUnderTest(t));

  test(`allocate() on ${kind}: same labels, same number, over restarts`, { skip }, async (t) => {
    const store = await connected(t, await open(t));
    const first = await loaded(store);
    const web = await first.allocate(labels('web'), PUBLIC);
    t.equal(await first.allocate(labels('web'), PUBLIC), web);
    t.not(await first.allocate(labels('db'), PUBLIC), web);
    t.equal((await store.get(IDS + web))?.value.toString(), text('web'));
    t.equal((await store.get(ALLOCATIONS_PREFIX + text('web')))?.value.toString(), String(web));
    const second = await loaded(store);
    t.equal(await second.allocate(labels('web'), PUBLIC), web);
  });

  test(`allocate() on ${kind}: racing allocators agree, and give no number twice`, {
    skip,
  }, async (t) => {
    const under = await open(t);
    // All begin at the same number, so that they meet at every one.
    const allocators = await Promise.all(
      [1, 2, 3].map(async () => loaded(await connected(t, under), { random: () => 0.5 })),
    );
    const apps = Array.from({ length: 40 }, (_, index) => `app-${index}`);
    const given = await Promise.all(
      allocators.map((allocator, turn) => {
        const order = turn === 1 ? [...apps].reverse() : apps;
        return Promise.all(
          order.map(async (app) => [app, await allocator.allocate(labels(app), PUBLIC)] as const),
        );
      }),
    );
    const numbers = given.map((pairs) => new Map(pairs));
    for (const app of apps) {
      t.equal(new Set(numbers.map((map) => map.get(app))).size, 1, `${app} has one number`);
    }
    t.equal(new Set(numbers[0]?.values()).size, apps.length, 'and no two have the same');
    const { pairs } = await (await connected(t, under)).list(IDS);
    t.equal(pairs.length, apps.length, 'nothing is left of the lost races');
  });

  test(`collectGarbage() on ${kind} deletes what is unused, and only that`, { skip }, async (t) => {
    const store = await connected(t, await open(t));
    const allocator = await loaded(store);
    const web = await allocator.allocate(labels('web'), PUBLIC);
    const db = await allocator.allocate(labels('db'), PUBLIC);
    await store.put('cilium/state/identities/v1/id/131330', 'of another cluster id;');
    await store.put(`${ALLOCATIONS_PREFIX}k8s:damaged=;`, 'nonsense');
    t.equal(await allocator.collectGarbage(new Set([text('web')]), { signal }), 3);
    const left = [
      ...(await store.list(IDS)).pairs,
      ...(await store.list(ALLOCATIONS_PREFIX)).pairs,
    ];
    t.same(
      left.map(({ key }) => key),
      [IDS + web, ALLOCATIONS_PREFIX + text('web')],
    );
    t.notOk(allocator.known.has(text('db')));
    t.ok((await allocator.allocate(labels('db'), PUBLIC)) > 0, `${db} or another number`);
  });
}

test('allocate() tells that the range is used up, and leaves the others as they are', async (t) => {
  const store = createMemoryStore();
  const first = 511 * 32_768 + 256;
  const last = 512 * 32_768 - 1;
  for (let id = first; id < last; id += 1) await store.put(IDS + id, 'k8s:taken=;');
  const allocator = await loaded(store, { id: 511, max: 511 });
  t.equal(await allocator.allocate(labels('web'), PUBLIC), last, 'the only one left');
  await t.rejects(allocator.allocate(labels('db'), PUBLIC), {
    name: 'IdentityError',
    code: 'exhausted',
    message: /all 32512 numbers from 16744704 to 16777215 are in use/,
  });
  t.equal(await allocator.allocate(labels('web'), PUBLIC), last);
  await store.delete(IDS + first);
  const again = await loaded(store, { id: 511, max: 511 });
  t.equal(await again.allocate(labels('db'), PUBLIC), first);
});

test('allocate() replaces a number of another cluster id and a damaged one', async (t) => {
  const store = createMemoryStore();
  const former = await (await loaded(store, { id: 7 })).allocate(labels('web'), PUBLIC);
  await store.put(ALLOCATIONS_PREFIX + text('db'), 'nonsense');
  const allocator = await loaded(store, { id: 1 });
  const web = await allocator.allocate(labels('web'), PUBLIC);
  t.ok(web >= 65_536 + 256 && web < 2 * 65_536, `${web} instead of ${former}`);
  const db = await allocator.allocate(labels('db'), PUBLIC);
  t.equal((await store.get(ALLOCATIONS_PREFIX + text('db')))?.value.toString(), String(db));
  await allocator.collectGarbage(new Set([text('web'), text('db')]), { signal });
  t.equal(await store.get(IDS + former), undefined, 'the former number goes');
});

test('allocate() passes on a failure of the store, and works afterwards', async (t) => {
  const store = createMemoryStore();
  const allocator = await loaded(store);
  store.faults.failNext(new KvError('timeout', 'too slow', { retryable: true }));
  await t.rejects(allocator.allocate(labels('web'), PUBLIC), { code: 'timeout' });
  t.ok(await allocator.allocate(labels('web'), PUBLIC));
});

test('restore() puts lost numbers back, and tells which ones somebody else has', async (t) => {
  const store = createMemoryStore();
  const allocator = await loaded(store);
  const web = await allocator.allocate(labels('web'), PUBLIC);
  const db = await allocator.allocate(labels('db'), PUBLIC);
  const api = await allocator.allocate(labels('api'), PUBLIC);
  t.same(await allocator.restore(signal), [], 'nothing is lost');
  store.faults.wipe();
  await store.put(IDS + db, 'k8s:other=;');
  await store.put(ALLOCATIONS_PREFIX + text('api'), String(api + 1));
  t.same([...(await allocator.restore(signal))].sort(), [text('api'), text('db')]);
  t.equal((await store.get(IDS + web))?.value.toString(), text('web'));
  t.equal((await store.get(ALLOCATIONS_PREFIX + text('web')))?.value.toString(), String(web));
  t.not(await allocator.allocate(labels('db'), PUBLIC), db);
  t.equal(await allocator.allocate(labels('api'), PUBLIC), api + 1);
});
