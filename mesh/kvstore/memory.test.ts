import { test } from 'tap';
import { openWatchLog } from '../testing/watch-log.ts';
import { testConformance } from './conformance.ts';
import { KvError } from './kvstore.ts';
import { createMemoryStore } from './memory.ts';

test('the store in memory behaves as every store', async (t) => {
  await testConformance(t, {
    open: async () => {
      const store = createMemoryStore({ maxValueBytes: 1024 * 1024 });
      const { faults } = store;
      return {
        store,
        direct: store.connect({ alwaysConnected: true }),
        disconnect: async () => faults.disconnect(),
        reconnect: async () => faults.reconnect(),
        compact: async () => faults.compact(),
        wipe: async () => faults.wipe(),
        expireLease: async (lease) => faults.expireLease(lease),
        [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
      };
    },
  });
});

test('failNext() fails as many calls as asked, and no watch', async (t) => {
  await using store = createMemoryStore();
  await using log = openWatchLog(store, { prefix: 'a/' });
  const error = new KvError('timeout', 'cannot wait', { retryable: true });
  store.faults.failNext(error, 2);
  await t.rejects(store.put('a/1', '1'), error);
  await t.rejects(store.get('a/1'), error);
  await store.put('a/1', '1');
  await log.until('the key', () => log.held.has('a/1'));
  t.equal(log.of('disconnected').length, 0);
});

test('progress() makes each watch say it once', async (t) => {
  await using store = createMemoryStore();
  await using log = openWatchLog(store, { prefix: 'a/' });
  await log.until('the list', () => log.of('synced').length === 1);
  store.faults.progress();
  await log.until('progress', () => log.of('progress').length === 1);
  store.faults.progress();
  await log.until('progress', () => log.of('progress').length === 2);
  t.equal(log.of('progress').at(-1)?.revision, 1n);
});

test('a value stays as it was put when the caller changes its buffer', async (t) => {
  await using store = createMemoryStore();
  const value = Buffer.from('abc');
  await store.put('a/1', value);
  value.fill(0);
  t.equal((await store.get('a/1'))?.value.toString(), 'abc');
});
