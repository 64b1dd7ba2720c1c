import { test } from 'tap';
import type { KvStore } from '../kvstore/kvstore.ts';
import { createMemoryStore } from '../kvstore/memory.ts';
import { createSharedStores } from './shared-stores.ts';

/** Counts what is open. */
function openings() {
  const memory = createMemoryStore();
  const counts = { opened: 0, closed: 0 };
  const make = async (): Promise<KvStore> => {
    counts.opened += 1;
    const store = memory.connect({ alwaysConnected: true });
    return {
      ...store,
      get clusterId() {
        return store.clusterId;
      },
      async [Symbol.asyncDispose]() {
        counts.closed += 1;
        await store[Symbol.asyncDispose]();
      },
    };
  };
  return { counts, make };
}

test('clusters with the same file share a connection, until the last of them leaves', async (t) => {
  const { counts, make } = openings();
  const stores = createSharedStores();
  const [first, second, other] = await Promise.all([
    stores.open('a', make),
    stores.open('a', make),
    stores.open('b', make),
  ]);
  t.same(counts, { opened: 2, closed: 0 });
  await first.put('a/1', '1');
  t.equal((await second.get('a/1'))?.value.toString(), '1');
  t.equal(first.clusterId, second.clusterId);
  await first[Symbol.asyncDispose]();
  await first[Symbol.asyncDispose]();
  t.same(counts, { opened: 2, closed: 0 }, 'leaving twice is leaving once');
  t.ok(await second.get('a/1'), 'who stays can go on');
  await second[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
  t.same(counts, { opened: 2, closed: 2 });
  await using again = await stores.open('a', make);
  t.same(counts, { opened: 3, closed: 2 }, 'what was closed is not handed out again');
  t.ok(again);
});

test('a connection that cannot be opened is tried anew by the next', async (t) => {
  const { counts, make } = openings();
  const stores = createSharedStores();
  const fail = (): Promise<KvStore> => Promise.reject(new Error('no such certificate'));
  await t.rejects(stores.open('a', fail), { message: 'no such certificate' });
  await using store = await stores.open('a', make);
  t.ok(store);
  t.same(counts, { opened: 1, closed: 0 });
});
