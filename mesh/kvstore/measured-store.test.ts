import { test } from 'tap';
import { createManualClock } from '../testing/manual-clock.ts';
import { KvError, type KvStore } from './kvstore.ts';
import {
  createKvStatistics,
  measureStore,
  OPERATION_BOUNDS,
  scopeOfKey,
} from './measured-store.ts';
import { createMemoryStore } from './memory.ts';

test('calls are counted by what they are about, what they do and how they end', async (t) => {
  const clock = createManualClock();
  const statistics = createKvStatistics();
  const inner = createMemoryStore();
  const slow: KvStore = {
    ...inner.connect(),
    async put(...args) {
      await clock.advance(30);
      await inner.put(...args);
    },
    list: () =>
      Promise.reject(new KvError('unavailable', 'etcd is not there', { retryable: true })),
    delete: () => Promise.reject(new DOMException('gone', 'AbortError')),
  };
  const store = measureStore(slow, { statistics, clock });
  const key = 'cilium/state/nodes/v1/alpha/n1';
  await store.put(key, 'value');
  t.equal((await store.get(key))?.value.toString(), 'value');
  await store.transact({ compare: [], then: [{ kind: 'delete', key }] });
  await t.rejects(store.list('cilium/state/ip/v1/'), { code: 'unavailable' });
  await t.rejects(store.delete(key), { name: 'AbortError' }, 'what was given up counts nowhere');
  const found = [...statistics.durations()].map(({ operation, counts, sum }) => ({
    ...operation,
    bucket: OPERATION_BOUNDS[counts.findIndex((count) => count > 0)],
    sum,
  }));
  const nodes = { scope: 'nodes/v1', outcome: 'success' };
  t.same(found, [
    { ...nodes, kind: 'set', action: 'Update', bucket: 0.05, sum: 0.03 },
    { ...nodes, kind: 'read', action: 'Get', bucket: 0.005, sum: 0 },
    { ...nodes, kind: 'set', action: 'Transact', bucket: 0.005, sum: 0 },
    { scope: 'ip/v1', outcome: 'fail', kind: 'read', action: 'ListPrefix', bucket: 0.005, sum: 0 },
  ]);
  t.same([...statistics.unavailable], [['unavailable', 1]]);
});

test('a measured store is the store in all else', async (t) => {
  const inner = createMemoryStore();
  const store = measureStore(inner, {
    statistics: createKvStatistics(),
    clock: createManualClock(),
  });
  await store.put('a/1', 'x');
  t.equal(store.clusterId, inner.clusterId);
  t.match(await store.count('a/'), { count: 1 });
  const ending = new AbortController();
  for await (const event of store.watch({ prefix: 'a/' }, { signal: ending.signal })) {
    if (event.kind === 'synced') break;
  }
  t.equal(await store.deletePrefix('a/'), 1);
  await store[Symbol.asyncDispose]();
});

test('there is a fixed number of scopes, whatever the keys', (t) => {
  const cases: readonly [string, string][] = [
    ['cilium/state/nodes/v1/alpha/n1', 'nodes/v1'],
    ['cilium/cache/identities/v1/alpha/id/1', 'identities/v1'],
    ['cilium/synced/alpha/cilium/state/ip/v1', 'synced'],
    ['cilium/.heartbeat', 'heartbeat'],
    ['cilium/cluster-config/alpha', 'cluster-config'],
    ['isthmus/mesh/stamp', 'isthmus/mesh'],
    ['cilium/state/anything/v1/x', 'other'],
    ['cilium/else', 'other'],
    ['anything', 'other'],
    ['', 'other'],
  ];
  for (const [key, scope] of cases) t.equal(scopeOfKey(key), scope, key);
  t.end();
});
