import { describeEvent, openWatchLog, type WatchLog } from '../testing/watch-log.ts';
import { type ConformanceCase, untilOk } from './conformance-case.ts';

/** What every watch does: order, resumption, new lists. */
export const WATCHES: readonly ConformanceCase[] = [
  {
    name: 'watch() lists, says synced, then tells changes in the order of writing',
    run: async (t, { store }) => {
      for (const key of ['a/2', 'a/1', 'ab/1']) await store.put(key, 'x');
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      t.same(log.events.map(describeEvent), ['list-start first', 'put a/1', 'put a/2', 'synced 2']);
      await store.put('a/3', 'y');
      await store.put('ab/2', 'y');
      await store.delete('a/1');
      await store.transact({
        compare: [],
        then: [
          { kind: 'put', key: 'a/4', value: 'z' },
          { kind: 'delete', key: 'a/2' },
        ],
      });
      await store.put('a/end', '');
      await log.until('the changes', () => log.held.has('a/end'));
      t.same(deltas(log), ['put a/3', 'delete a/1', 'put a/4', 'delete a/2', 'put a/end']);
      t.same(
        [...log.held],
        [
          ['a/3', 'y'],
          ['a/4', 'z'],
          ['a/end', ''],
        ],
      );
    },
  },
  {
    name: 'watchBatches() tells what watch() tells, in lists that are not empty',
    run: async (t, { store }) => {
      for (let key = 0; key < 1500; key += 100) {
        const then = Array.from({ length: 100 }, (_, more) => ({
          kind: 'put' as const,
          key: `a/${key + more}`,
          value: 'x',
        }));
        await store.transact({ compare: [], then });
      }
      const ending = new AbortController();
      const sizes: number[] = [];
      const told: string[] = [];
      for await (const batch of store.watchBatches({ prefix: 'a/' }, { signal: ending.signal })) {
        sizes.push(batch.length);
        told.push(...batch.map(describeEvent));
        if (told.at(-1) === 'synced 1500') await store.delete('a/7');
        if (told.at(-1) === 'delete a/7') ending.abort();
      }
      t.equal(told[0], 'list-start first');
      t.same(told.slice(-2), ['synced 1500', 'delete a/7']);
      t.equal(new Set(told.slice(1, -2)).size, 1500);
      t.ok(
        sizes.every((size) => size > 0 && size <= 1024),
        `lists of ${Math.max(...sizes)} at most`,
      );
    },
  },
  {
    name: 'watch() of one key tells of no other',
    run: async (t, { store }) => {
      await using log = openWatchLog(store, { key: 'a/b' });
      await log.until('the list', () => log.of('synced').length === 1);
      await store.put('a/b/c', '1');
      await store.put('a/b', '2');
      await store.delete('a/b');
      await log.until('the deletion', () => log.of('delete').length === 1);
      t.same(deltas(log), ['put a/b', 'delete a/b']);
    },
  },
  {
    name: 'watch() loses nothing of 2,000 changes made while it lists and follows',
    run: async (t, { store, direct }) => {
      const logs: WatchLog[] = [];
      const write = async (writer: number): Promise<void> => {
        for (let i = 0; i < 250; i += 1) {
          await direct.put(`a/${writer}/${i % 50}`, String(i));
          if (writer === 0 && i % 60 === 10) logs.push(openWatchLog(store, { prefix: 'a/' }));
        }
      };
      await Promise.all(Array.from({ length: 8 }, (_, writer) => write(writer)));
      const wanted = new Map(
        (await store.list('a/')).pairs.map((p) => [p.key, p.value.toString()]),
      );
      t.equal(wanted.size, 400);
      for (const log of logs) {
        await log.until('the last state', () => sameMap(log.held, wanted));
        const revisions = log.of('put').map(({ pair }) => pair.modRevision);
        const live = revisions.slice(log.events.findIndex((e) => e.kind === 'synced') - 1);
        t.same(
          live,
          [...live].sort((a, b) => Number(a - b)),
          'in order of revision',
        );
        await log[Symbol.asyncDispose]();
      }
    },
  },
  {
    name: 'watch() goes on after a cut where it was, without a new list',
    run: async (t, { store, direct, disconnect, reconnect }) => {
      for (let i = 0; i < 30; i += 1) await direct.put(`a/${i}`, '0');
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await disconnect();
      await log.until('the cut', () => log.of('disconnected').length > 0);
      for (let i = 0; i < 1500; i += 1) await direct.put(`a/${i % 300}`, String(i));
      await direct.delete('a/7');
      await direct.put('a/end', '');
      await reconnect();
      await log.until('the last change', () => log.held.has('a/end'));
      t.equal(log.of('list-start').length, 1);
      t.equal(log.of('put').length, 30 + 1500 + 1, 'every change is told once');
      t.same(log.of('delete').map(describeEvent), ['delete a/7']);
    },
  },
  {
    name: 'watch() says progress when it is back and nothing has changed',
    run: async (t, { store, disconnect, reconnect }) => {
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await disconnect();
      await log.until('the cut', () => log.of('disconnected').length > 0);
      t.equal(log.of('disconnected')[0]?.error.code, 'unavailable');
      await reconnect();
      await log.until('a sign of life', () => log.events.at(-1)?.kind === 'progress');
      t.equal(log.of('list-start').length, 1);
    },
  },
  {
    name: 'watch() lists again after a compaction while cut off, with derived deletes',
    run: async (t, { store, direct, disconnect, reconnect, compact }) => {
      for (const key of ['a/kept', 'a/gone', 'a/changed']) await direct.put(key, '1');
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await disconnect();
      await log.until('the cut', () => log.of('disconnected').length > 0);
      await direct.delete('a/gone');
      await direct.put('a/changed', '2');
      await direct.put('a/new', '2');
      await compact();
      await direct.put('a/later', '2');
      await reconnect();
      await log.until('the second list', () => log.of('synced').length === 2);
      t.same(log.of('list-start').map(describeEvent), ['list-start first', 'list-start compacted']);
      t.same(log.of('delete').map(describeEvent), ['delete a/gone derived']);
      t.same([...log.held.keys()].sort(), ['a/changed', 'a/kept', 'a/later', 'a/new']);
      t.equal(log.held.get('a/changed'), '2');
    },
  },
  {
    name: 'watchBatches() that derives nothing leaves it to its reader what a new list left out',
    run: async (t, { store, direct, disconnect, reconnect, compact }) => {
      for (const key of ['a/kept', 'a/gone']) await direct.put(key, '1');
      const ending = new AbortController();
      const told: string[] = [];
      const options = { signal: ending.signal, derives: false };
      for await (const batch of store.watchBatches({ prefix: 'a/' }, options)) {
        told.push(...batch.map(describeEvent));
        const lists = told.filter((event) => event.startsWith('synced')).length;
        if (lists === 1 && batch.at(-1)?.kind === 'synced') await disconnect();
        if (lists === 1 && batch.at(-1)?.kind === 'disconnected') {
          await direct.delete('a/gone');
          await direct.put('a/new', '2');
          await compact();
          await direct.put('a/later', '2');
          await reconnect();
        }
        if (lists === 2) await direct.delete('a/kept');
        if (told.at(-1) === 'delete a/kept') ending.abort();
      }
      const again = told.slice(told.indexOf('list-start compacted'));
      t.same(
        again.filter((event) => event !== 'progress'),
        [
          'list-start compacted',
          ...['put a/kept', 'put a/later', 'put a/new', 'synced 3'],
          'delete a/kept',
        ],
      );
    },
  },
  {
    name: 'watch() lists again when the store comes back as another cluster',
    run: async (t, { store, direct, wipe }) => {
      for (const key of ['a/1', 'a/2']) await direct.put(key, 'old');
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      const before = store.clusterId;
      await wipe();
      await untilOk(() => direct.put('a/2', 'new'));
      await log.until(
        'the second list',
        () => log.of('synced').length >= 2 && log.held.get('a/2') === 'new',
      );
      t.same(log.of('list-start').map(describeEvent), [
        'list-start first',
        'list-start cluster-changed',
      ]);
      t.ok(log.of('delete').some((event) => describeEvent(event) === 'delete a/1 derived'));
      t.same([...log.held], [['a/2', 'new']]);
      t.not(store.clusterId, before);
    },
  },
  {
    name: 'watch() waits for a store that is not there yet, and says so',
    run: async (t, { store, direct, disconnect, reconnect }) => {
      await direct.put('a/1', '1');
      await disconnect();
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the failure', () => log.of('disconnected').length > 0);
      t.equal(log.of('list-start').length, 0);
      await reconnect();
      await log.until('the list', () => log.of('synced').length === 1);
      t.same(log.of('list-start').map(describeEvent), ['list-start first']);
      t.ok(log.held.has('a/1'));
    },
  },
];

function deltas(log: WatchLog): string[] {
  const synced = log.events.findIndex((event) => event.kind === 'synced');
  return log.events
    .slice(synced + 1)
    .filter((event) => event.kind !== 'progress')
    .map(describeEvent);
}

function sameMap(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  return a.size === b.size && [...b].every(([key, value]) => a.get(key) === value);
}
