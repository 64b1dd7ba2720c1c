import type { Test } from 'tap';
import { openWatchLog } from '../testing/watch-log.ts';
import {
  type ConformanceCase,
  type ConformanceSubject,
  rejectsWith,
  until,
  untilOk,
} from './conformance-case.ts';
import { WATCHES } from './conformance-watches.ts';
import type { KvStore } from './kvstore.ts';

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

const READ_WRITE: readonly ConformanceCase[] = [
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
      for (const key of [
        ...keys,
        'a/cluster-10/x',
        'a/cluster-1',
        'a/cluster-1/é',
        'a/cluster-1/~',
      ]) {
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
      t.ok(
        pairs.every((pair) => pair.value.toString() === pair.key && pair.modRevision <= revision),
      );
      t.same((await store.list('b/')).pairs, []);
    },
  },
  {
    name: 'count() and keys() tell what a prefix held at a revision, until that is compacted away',
    run: async (t, { store, compact }) => {
      for (const key of ['a/1', 'a/2', 'a/3', 'ab/1']) await store.put(key, 'x');
      const { revision } = await store.list('a/');
      await store.delete('a/2');
      await store.put('a/3', 'y');
      for (let index = 0; index < 25; index += 1) await store.put(`a/x${index}`, 'x');
      t.same(await store.count('a/', { revision }), { count: 3, revision });
      t.same(await store.keys('a/', { revision }), { keys: ['a/1', 'a/2', 'a/3'], revision });
      t.equal((await store.count('a/')).count, 27);
      const now = await store.keys('a/');
      t.equal(now.keys.length, 27, 'over several pages');
      t.same(now.keys.slice(0, 3), ['a/1', 'a/3', 'a/x0']);
      t.ok(now.revision > revision);
      t.equal((await store.count('b/')).count, 0);
      await compact();
      await rejectsWith(t, 'compacted', () => store.count('a/', { revision }));
      await rejectsWith(t, 'compacted', () => store.keys('a/', { revision }));
      t.equal((await store.count('a/')).count, 27, 'the newest is still there');
      await rejectsWith(t, 'invalid', () => store.count('a'));
      await rejectsWith(t, 'invalid', () => store.keys('a'));
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
      await rejectsWith(
        t,
        'too-large',
        () => store.put('a/large', large),
        /a\/large.*1048577 bytes/,
      );
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

const TRANSACTIONS: readonly ConformanceCase[] = [
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
      t.equal(
        (await store.transact({ compare: [{ key: 'a/new', exists: true }], then: [] })).succeeded,
        true,
      );
    },
  },
  {
    name: 'transact() refuses a key written twice and too many operations',
    run: async (t, { store }) => {
      const twice = [
        { kind: 'put', key: 'a/1', value: '1' },
        { kind: 'delete', key: 'a/1' },
      ] as const;
      await rejectsWith(
        t,
        'invalid',
        () => store.transact({ compare: [], then: twice }),
        /a\/1 twice/,
      );
      const many = Array.from(
        { length: 129 },
        (_, i) => ({ kind: 'delete', key: `a/${i}` }) as const,
      );
      await rejectsWith(
        t,
        'invalid',
        () => store.transact({ compare: [], then: many }),
        /at most 128/,
      );
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

const LEASES: readonly ConformanceCase[] = [
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
      await store.transact({
        compare: [],
        then: [{ kind: 'put', key: 'a/too', value: '1', lease }],
      });
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
    name: 'a lease is taken over by its id while it lives, and only with the same time to live',
    run: async (t, { store, direct, expireLease }) => {
      const first = await store.lease(60);
      await store.put('a/1', '1', { lease: first });
      const adopted = await direct.lease(60, { adopt: first.id });
      t.equal(adopted.id, first.id);
      t.not((await direct.lease(30, { adopt: first.id })).id, first.id, 'another time to live');
      t.not((await direct.lease(60, { adopt: 4711n })).id, 4711n, 'none of that id');
      await first[Symbol.asyncDispose]();
      await direct.put('a/2', '2', { lease: adopted });
      t.equal((await direct.get('a/1'))?.lease, adopted.id, 'nothing had to be written again');
      let lost = 0;
      adopted.onLost(() => {
        lost += 1;
      });
      await expireLease(first);
      await untilOk(async () => {
        // An etcd says so at the next write or keepalive.
        await direct.put('a/3', '3', { lease: adopted });
        if (lost !== 1) throw new Error('not yet');
      });
      t.not(adopted.id, first.id);
      t.equal(await direct.get('a/1'), undefined);
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

const ENDINGS: readonly ConformanceCase[] = [
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
      for await (const event of store.watch(
        { prefix: 'a/' },
        { signal: new AbortController().signal },
      )) {
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
