import type { Test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { describeEvent, openWatchLog, type WatchLog } from '../testing/watch-log.ts';
import { KvError, type KvErrorCode, type KvLease, type KvStore } from './kvstore.ts';

/** A store under test, empty at the start, and the ways to break it. */
export interface ConformanceSubject extends AsyncDisposable {
  /** A client that `disconnect` cuts off. Values above 1 MiB in one request are refused, pages hold 10 keys. */
  readonly store: KvStore;
  /** A client of the same data that is never cut off. */
  readonly direct: KvStore;
  disconnect(): Promise<void>;
  reconnect(): Promise<void>;
  /** Compacts the whole history. */
  compact(): Promise<void>;
  /** Begins again as another cluster without data. */
  wipe(): Promise<void>;
  /** Lets a lease expire at the server. */
  expireLease(lease: KvLease): Promise<void>;
}

/** One behaviour that every store has. */
interface Case {
  readonly name: string;
  readonly run: (t: Test, subject: ConformanceSubject) => Promise<void>;
}

/** Runs the tests that every KvStore passes, each on a subject of its own. */
export async function testConformance(
  t: Test,
  options: { open: () => Promise<ConformanceSubject>; skip?: string | false },
): Promise<void> {
  for (const { name, run } of [...READ_WRITE, ...TRANSACTIONS, ...WATCHES, ...LEASES, ...ENDINGS]) {
    await t.test(name, { skip: options.skip ?? false }, async (t) => {
      await using subject = await options.open();
      await run(t, subject);
    });
  }
}

const READ_WRITE: readonly Case[] = [
  {
    name: 'get() returns what put() stored, byte by byte',
    run: async (t, { store }) => {
      const value = Buffer.from([0, 255, 1, 128, 10, 195, 40]);
      await store.put('a/binary', value);
      await store.put('a/text-ü', 'grün');
      const pair = await store.get('a/binary');
      t.same(pair?.value, value);
      t.equal(pair?.lease, 0n);
      t.equal((await store.get('a/text-ü'))?.value.toString(), 'grün');
      t.equal(await store.get('a/none'), undefined);
      t.equal(await store.get('a/'), undefined, 'a key is not a prefix');
      t.match(store.clusterId, /^[0-9a-f]+$/);
    },
  },
  {
    name: 'list() returns all keys below a prefix, in order of their bytes, at one revision',
    run: async (t, { store }) => {
      const keys = Array.from({ length: 95 }, (_, i) => `a/cluster-1/${i}`);
      for (const key of [...keys, 'a/cluster-10/x', 'a/cluster-1', 'a/cluster-1/é', 'a/cluster-1/~']) {
        await store.put(key, key);
      }
      const { pairs, revision } = await store.list('a/cluster-1/');
      const expected = [...keys, 'a/cluster-1/é', 'a/cluster-1/~'].sort((a, b) =>
        Buffer.compare(Buffer.from(a), Buffer.from(b)),
      );
      t.same(
        pairs.map((pair) => pair.key),
        expected,
      );
      t.ok(pairs.every((pair) => pair.value.toString() === pair.key && pair.modRevision <= revision));
      t.same((await store.list('b/')).pairs, []);
    },
  },
  {
    name: 'delete() and deletePrefix() say what was there',
    run: async (t, { store }) => {
      for (const key of ['a/1', 'a/2', 'a/3', 'ab/1']) await store.put(key, 'x');
      t.equal(await store.delete('a/1'), true);
      t.equal(await store.delete('a/1'), false);
      t.equal(await store.deletePrefix('a/'), 2);
      t.equal(await store.deletePrefix('a/'), 0);
      t.ok(await store.get('ab/1'), 'a sibling prefix stays');
    },
  },
  {
    name: 'a prefix without a slash, an empty key and an oversize value are refused, and harm no later call',
    run: async (t, { store }) => {
      const signal = new AbortController().signal;
      await rejectsWith(t, 'invalid', () => store.list('a/cluster-1'));
      await rejectsWith(t, 'invalid', () => store.deletePrefix('a'));
      await rejectsWith(t, 'invalid', async () => store.watch({ prefix: 'a' }, { signal }));
      await rejectsWith(t, 'invalid', async () => store.get(''));
      await rejectsWith(t, 'invalid', () => store.lease(0));
      const large = Buffer.alloc(1024 * 1024 + 1);
      await rejectsWith(t, 'too-large', () => store.put('a/large', large), /a\/large.*1048577 bytes/);
      const then = [{ kind: 'put', key: 'a/large', value: large }] as const;
      await rejectsWith(t, 'too-large', () => store.transact({ compare: [], then }));
      await store.put('a/small', Buffer.alloc(1024 * 1024));
      t.equal((await store.get('a/small'))?.value.length, 1024 * 1024);
      t.equal(await store.get('a/large'), undefined);
    },
  },
  {
    name: 'calls fail as unavailable while cut off, and work again afterwards',
    run: async (t, { store, disconnect, reconnect }) => {
      await store.put('a/1', '1');
      await disconnect();
      await rejectsWith(t, 'unavailable', () => store.get('a/1'));
      await rejectsWith(t, 'unavailable', () => store.put('a/1', '2'));
      await rejectsWith(t, 'unavailable', () => store.list('a/'));
      await reconnect();
      await untilOk(() => store.put('a/1', '3'));
      await untilOk(() => store.get('a/1'));
      t.equal((await store.get('a/1'))?.value.toString(), '3');
    },
  },
];

const TRANSACTIONS: readonly Case[] = [
  {
    name: 'transact() applies one branch, wholly and at one revision',
    run: async (t, { store }) => {
      await store.put('a/old', '1');
      const old = await store.get('a/old');
      const first = await store.transact({
        compare: [
          { key: 'a/new', exists: false },
          { key: 'a/old', modRevision: old?.modRevision ?? 0n },
        ],
        then: [
          { kind: 'put', key: 'a/new', value: '2' },
          { kind: 'put', key: 'a/also', value: Buffer.from([1]) },
          { kind: 'delete', key: 'a/old' },
        ],
        otherwise: [{ kind: 'put', key: 'a/wrong', value: 'x' }],
      });
      t.equal(first.succeeded, true);
      const { pairs } = await store.list('a/');
      t.same(
        pairs.map((pair) => pair.key),
        ['a/also', 'a/new'],
      );
      t.ok(pairs.every((pair) => pair.modRevision === first.revision));
      const second = await store.transact({
        compare: [{ key: 'a/new', exists: false }],
        then: [{ kind: 'delete', key: 'a/new' }],
        otherwise: [{ kind: 'put', key: 'a/otherwise', value: '3' }],
      });
      t.equal(second.succeeded, false);
      t.ok(await store.get('a/new'));
      t.equal((await store.get('a/otherwise'))?.value.toString(), '3');
      const stale = await store.transact({
        compare: [{ key: 'a/new', modRevision: first.revision - 1n }],
        then: [{ kind: 'delete', key: 'a/new' }],
      });
      t.equal(stale.succeeded, false);
      t.equal((await store.transact({ compare: [{ key: 'a/new', exists: true }], then: [] })).succeeded, true);
    },
  },
  {
    name: 'transact() refuses a key written twice and too many operations',
    run: async (t, { store }) => {
      const twice = [
        { kind: 'put', key: 'a/1', value: '1' },
        { kind: 'delete', key: 'a/1' },
      ] as const;
      await rejectsWith(t, 'invalid', () => store.transact({ compare: [], then: twice }), /a\/1 twice/);
      const many = Array.from({ length: 129 }, (_, i) => ({ kind: 'delete', key: `a/${i}` }) as const);
      await rejectsWith(t, 'invalid', () => store.transact({ compare: [], then: many }), /at most 128/);
    },
  },
  {
    name: 'compare-and-swap by eight racing writers counts every one of them',
    run: async (t, { store, direct }) => {
      let created = 0;
      const increment = async (client: KvStore): Promise<void> => {
        for (;;) {
          const pair = await client.get('a/counter');
          const value = String(Number(pair?.value.toString() ?? 0) + 1);
          const { succeeded } = await client.transact({
            compare: [
              pair === undefined
                ? { key: 'a/counter', exists: false }
                : { key: 'a/counter', modRevision: pair.modRevision },
            ],
            then: [{ kind: 'put', key: 'a/counter', value }],
          });
          if (succeeded && pair === undefined) created += 1;
          if (succeeded) return;
        }
      };
      const writers = Array.from({ length: 8 }, async (_, i) => {
        for (let round = 0; round < 5; round += 1) await increment(i % 2 === 0 ? store : direct);
      });
      await Promise.all(writers);
      t.equal((await store.get('a/counter'))?.value.toString(), '40');
      t.equal(created, 1, 'one writer found no key');
    },
  },
];

const WATCHES: readonly Case[] = [
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
      t.same([...log.held], [['a/3', 'y'], ['a/4', 'z'], ['a/end', '']]);
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
      const wanted = new Map((await store.list('a/')).pairs.map((p) => [p.key, p.value.toString()]));
      t.equal(wanted.size, 400);
      for (const log of logs) {
        await log.until('the last state', () => sameMap(log.held, wanted));
        const revisions = log.of('put').map(({ pair }) => pair.modRevision);
        const live = revisions.slice(log.events.findIndex((e) => e.kind === 'synced') - 1);
        t.same(live, [...live].sort((a, b) => Number(a - b)), 'in order of revision');
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
    name: 'watch() lists again when the store comes back as another cluster',
    run: async (t, { store, direct, wipe }) => {
      for (const key of ['a/1', 'a/2']) await direct.put(key, 'old');
      const before = store.clusterId ?? (await store.get('a/1'), store.clusterId);
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await wipe();
      await untilOk(() => direct.put('a/2', 'new'));
      await log.until('the second list', () => log.of('synced').length >= 2 && log.held.get('a/2') === 'new');
      t.same(log.of('list-start').map(describeEvent), ['list-start first', 'list-start cluster-changed']);
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

const LEASES: readonly Case[] = [
  {
    name: 'a lost lease is made again and tells its owner, who puts its keys again',
    run: async (t, { store, direct, expireLease }) => {
      await using lease = await store.lease(2);
      const first = lease.id;
      t.ok(first > 0n);
      let lost = 0;
      lease.onLost(() => {
        lost += 1;
      });
      await store.put('a/leased', '1', { lease });
      await store.transact({ compare: [], then: [{ kind: 'put', key: 'a/too', value: '1', lease }] });
      await store.put('a/free', '1');
      t.equal((await store.get('a/leased'))?.lease, first);
      await using log = openWatchLog(direct, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await expireLease(lease);
      await log.until('the expiry', () => !log.held.has('a/leased') && !log.held.has('a/too'));
      await log.until('the new lease', () => lost === 1);
      t.not(lease.id, first);
      t.not(lease.id, 0n);
      await store.put('a/leased', '2', { lease });
      t.equal((await store.get('a/leased'))?.lease, lease.id);
      t.ok(log.held.has('a/free'));
    },
  },
  {
    name: 'disposing of a lease leaves its keys, revoking it deletes them',
    run: async (t, { store }) => {
      const kept = await store.lease(60);
      const ended = await store.lease(60);
      await store.put('a/kept', '1', { lease: kept });
      await store.put('a/ended', '1', { lease: ended });
      await kept[Symbol.asyncDispose]();
      await kept[Symbol.asyncDispose]();
      await ended.revoke();
      t.ok(await store.get('a/kept'));
      t.equal(await store.get('a/ended'), undefined);
      await rejectsWith(t, 'unavailable', () => store.put('a/ended', '2', { lease: ended }));
    },
  },
  {
    name: 'leases that went with a wiped store are made again',
    run: async (t, { store, wipe }) => {
      await using lease = await store.lease(2);
      let lost = 0;
      lease.onLost(() => {
        lost += 1;
      });
      await wipe();
      await until(() => lost === 1);
      await untilOk(() => store.put('a/1', '1', { lease }));
      t.equal((await store.get('a/1'))?.lease, lease.id);
    },
  },
];

const ENDINGS: readonly Case[] = [
  {
    name: 'a watch ends quietly by its signal, by leaving the loop, and when the store is disposed of',
    run: async (t, { store }) => {
      await store.put('a/1', '1');
      const stopping = new AbortController();
      let seen = 0;
      for await (const event of store.watch({ prefix: 'a/' }, { signal: stopping.signal })) {
        seen += 1;
        if (event.kind === 'synced') stopping.abort();
      }
      t.equal(seen, 3);
      for await (const event of store.watch({ prefix: 'a/' }, { signal: new AbortController().signal })) {
        if (event.kind === 'put') break;
      }
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      await store[Symbol.asyncDispose]();
      await log[Symbol.asyncDispose]();
      t.equal(log.of('disconnected').length, 0);
    },
  },
  {
    name: 'an aborted call fails with the reason of its signal',
    run: async (t, { store }) => {
      const reason = new Error('enough');
      const signal = AbortSignal.abort(reason);
      await t.rejects(store.get('a/1', { signal }), reason);
      await t.rejects(store.put('a/1', '1', { signal }), reason);
      await t.rejects(store.list('a/', { signal }), reason);
      await t.rejects(store.transact({ compare: [], then: [] }, { signal }), reason);
    },
  },
  {
    name: 'a disposed store refuses every call, and is disposed of twice without harm',
    run: async (t, { store }) => {
      await store.put('a/1', '1');
      await store.lease(60);
      await store[Symbol.asyncDispose]();
      await store[Symbol.asyncDispose]();
      await rejectsWith(t, 'closed', () => store.get('a/1'));
      await rejectsWith(t, 'closed', () => store.put('a/1', '1'));
      await rejectsWith(t, 'closed', () => store.list('a/'));
      await rejectsWith(t, 'closed', () => store.delete('a/1'));
      await rejectsWith(t, 'closed', () => store.lease(10));
    },
  },
];

async function rejectsWith(
  t: Test,
  code: KvErrorCode,
  run: () => Promise<unknown>,
  message = /./,
): Promise<void> {
  try {
    await run();
    t.fail(`expected a KvError ${code}`);
  } catch (error) {
    t.ok(error instanceof KvError, 'it is a KvError');
    t.match(error, { code, message });
  }
}

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

async function until(condition: () => boolean): Promise<void> {
  await untilOk(async () => {
    if (!condition()) throw new Error('not yet');
  });
}

/** Repeats what fails until it does not, for 15 s. */
async function untilOk(run: () => Promise<unknown>): Promise<void> {
  const deadline = systemClock.monotonic() + 15_000;
  for (;;) {
    try {
      await run();
      return;
    } catch (error) {
      if (systemClock.monotonic() > deadline) throw error;
    }
    await systemClock.sleep(20);
  }
}
