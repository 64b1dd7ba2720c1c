import { type Test, test } from 'tap';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createSyncStore } from './sync-store.ts';

const signal = new AbortController().signal;

/** A sync store over a store in memory. It writes once `start` is called. */
async function rig(t: Test, options: { maxValueBytes?: number; clock?: Clock } = {}) {
  const { clock = systemClock, ...limits } = options;
  const store = createMemoryStore(limits);
  const lease = await store.lease(900);
  const logger = createLogger('test', { level: 'silent' });
  const sync = createSyncStore({ store, lease, clock, logger });
  const stopping = new AbortController();
  let running: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    stopping.abort();
    await running;
  };
  t.teardown(stop);
  const writes: string[] = [];
  const transact = store.transact;
  store.transact = async (transaction, rest) => {
    const answer = await transact(transaction, rest);
    for (const op of transaction.then) writes.push(`${op.kind} ${op.key}`);
    return answer;
  };
  return {
    store,
    lease,
    sync,
    stop,
    /** Every write that was done, in order. */
    writes,
    start: () => {
      running = sync.run(stopping.signal);
    },
    read: async (key: string) => (await store.get(key))?.value.toString(),
  };
}

test('upsert() coalesces, and drops what is there already', async (t) => {
  const { sync, writes, start, read } = await rig(t);
  for (const value of ['1', '2', '3']) sync.upsert('a/b', value);
  start();
  await sync.flushed(signal);
  sync.upsert('a/b', '3');
  await sync.flushed(signal);
  t.same(writes, ['put a/b']);
  t.equal(await read('a/b'), '3');
});

test('a change that comes alone is written at once, those of a stream together', async (t) => {
  const clock = createManualClock();
  const { sync, store, writes, start } = await rig(t, { clock });
  const sizes: number[] = [];
  const transact = store.transact;
  store.transact = async (transaction, rest) => {
    sizes.push(transaction.then.length);
    return transact(transaction, rest);
  };
  start();
  sync.upsert('a/alone', '1');
  await sync.flushed(signal);
  t.same(sizes, [1], 'nobody has turned the clock');
  sync.upsert('a/second', '1');
  await clock.advance(9);
  for (let key = 0; key < 40; key += 1) sync.upsert(`a/${key}`, '1');
  t.same(sizes, [1]);
  const written = sync.flushed(signal);
  await clock.advance(1);
  await written;
  t.same(sizes, [1, 41]);
  for (let key = 0; key < 100; key += 1) sync.upsert(`b/${key}`, '1');
  await sync.flushed(signal);
  t.same(sizes, [1, 41, 100], 'a whole transaction waits for nothing');
  t.equal(writes.length, 142);
});

test('delete() deletes only what was written or adopted', async (t) => {
  const { store, sync, writes, start } = await rig(t);
  await store.put('a/foreign', 'x');
  start();
  sync.delete('a/foreign');
  sync.upsert('a/own', 'x');
  await sync.flushed(signal);
  sync.delete('a/own');
  await sync.flushed(signal);
  t.same(writes, ['put a/own', 'delete a/own']);
  await sync.adopt(['a/'], signal);
  sync.upsert('a/wanted', 'x');
  t.equal(sync.sweep(['']), 1);
  await sync.flushed(signal);
  t.same(
    (await store.list('a/')).pairs.map(({ key }) => key),
    ['a/wanted'],
  );
});

test('a change during a write is not lost, whatever it is', async (t) => {
  const cases: readonly [string, readonly (string | undefined)[]][] = [
    ['another value', ['1', '2']],
    ['the value before', ['0', '1', '0']],
    ['a deletion', ['1', undefined]],
    ['a deletion and the value again', ['1', undefined, '1']],
  ];
  for (const [what, values] of cases) {
    await t.test(what, async (t) => {
      const { store, sync, start, read } = await rig(t);
      const transact = store.transact;
      const steps = [...values];
      const next = (): void => {
        if (steps.length === 0) return;
        const value = steps.shift();
        if (value === undefined) sync.delete('a/b');
        else sync.upsert('a/b', value);
      };
      store.transact = async (...call) => {
        const answer = transact(...call);
        next();
        return answer;
      };
      next();
      start();
      await eventually('all steps', () => steps.length === 0 && sync.status.pending === 0);
      t.equal(await read('a/b'), values.at(-1));
    });
  }
});

test('a rewrite during a write is not lost, and a wait for it ends', async (t) => {
  const { store, sync, start, read } = await rig(t);
  const transact = store.transact;
  let flushed: Promise<void> | undefined;
  store.transact = async (...call) => {
    const answer = await transact(...call);
    if (flushed === undefined) {
      // Somebody else writes before our answer is here, and the watcher is faster than the answer.
      await store.put('a/b', 'foreign');
      sync.rewrite('a/b');
      flushed = sync.flushed(signal);
    }
    return answer;
  };
  sync.upsert('a/b', 'own');
  start();
  await eventually('the rewrite', async () => flushed !== undefined && sync.status.pending === 0);
  await flushed;
  t.equal(await read('a/b'), 'own');
});

test('a write without an answer is not believed to be undone', async (t) => {
  const { store, sync, start, read } = await rig(t);
  const transact = store.transact;
  let failing = false;
  store.transact = async (...call) => {
    const answer = await transact(...call);
    if (!failing) return answer;
    failing = false;
    sync.upsert('a/b', '1');
    throw new KvError('timeout', 'no answer', { retryable: true });
  };
  start();
  sync.upsert('a/b', '1');
  await sync.flushed(signal);
  failing = true;
  sync.upsert('a/b', '2');
  await sync.flushed(signal);
  t.equal(await read('a/b'), '1', 'it is written again although it was the last value known');
});

test('failed writes are retried until they succeed, and hold the last keys back', async (t) => {
  const { store, sync, writes, start } = await rig(t);
  store.faults.failNext(new KvError('unavailable', 'away', { retryable: true }), 3);
  sync.upsert('z/marker', 'now', { last: true });
  for (let index = 0; index < 250; index += 1) sync.upsert(`a/${index}`, 'x');
  start();
  await sync.flushed(signal);
  t.equal(writes.length, 251);
  t.equal(writes.at(-1), 'put z/marker');
  t.equal(sync.status.lastError, undefined);
});

test('a last key waits for what was pending before it, and for nothing that comes later', async (t) => {
  const { store, sync, writes, start } = await rig(t);
  const { transact } = store;
  let made = 0;
  // Each write finds another change when it is done, as in a cluster that never stands still.
  store.transact = async (transaction, rest) => {
    const answer = await transact(transaction, rest);
    if (made < 200) sync.upsert(`a/more${made}`, 'x');
    made += 1;
    return answer;
  };
  for (const key of ['a/1', 'a/2']) sync.upsert(key, 'x');
  sync.upsert('m/first', 'x', { last: true });
  sync.upsert('a/3', 'x');
  start();
  await sync.flushed(signal);
  const at = writes.indexOf('put m/first');
  for (const key of ['a/1', 'a/2', 'a/3']) t.ok(writes.indexOf(`put ${key}`) < at, key);
  t.ok(made < 20, `it took ${made} writes`);
  await eventually('the rest', () => sync.status.pending === 0);
  t.equal(writes.length, 204);
});

test('a lost lease writes every key again, the last ones last', async (t) => {
  const { store, lease, sync, writes, start } = await rig(t);
  sync.upsert('z/marker', 'now', { last: true });
  sync.upsert('a/1', 'x');
  start();
  await sync.flushed(signal);
  sync.upsert('a/2', 'x');
  await sync.flushed(signal);
  store.faults.expireLease(lease);
  await sync.flushed(signal);
  t.same(writes.slice(3).sort(), ['put a/1', 'put a/2', 'put z/marker']);
  t.equal(writes.at(-1), 'put z/marker');
  const { pairs } = await store.list('a/');
  t.ok(pairs.every((pair) => pair.lease === lease.id));
});

test('a refused value is left out, its neighbours are written, a smaller one is taken', async (t) => {
  const { sync, start, store, read } = await rig(t, { maxValueBytes: 100 });
  sync.upsert('a/1', 'x');
  sync.upsert('a/huge', 'y'.repeat(200));
  sync.upsert('a/2', 'x');
  start();
  await sync.flushed(signal);
  t.same(
    (await store.list('a/')).pairs.map(({ key }) => key),
    ['a/1', 'a/2'],
  );
  t.match(sync.status.refused, { 'a/huge': /a\/huge|bytes/ });
  sync.upsert('a/huge', 'small');
  await sync.flushed(signal);
  t.equal(await read('a/huge'), 'small');
  t.same(sync.status.refused, {});
});

test('flushed() ends when its signal aborts; keys stay when run() ends', async (t) => {
  const { sync, start, stop, read } = await rig(t);
  sync.upsert('a/b', '1');
  const ending = new AbortController();
  const waiting = sync.flushed(ending.signal);
  ending.abort(new Error('enough'));
  await t.rejects(waiting, { message: 'enough' });
  start();
  await sync.flushed(signal);
  await stop();
  t.equal(await read('a/b'), '1');
});
