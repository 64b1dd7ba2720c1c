/** Watches that share a stream: each goes its own way, and none is another's trouble. */
import { type Test, test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import {
  HOSTILE_HEADER,
  type HostileScript,
  type HostileWatch,
  openHostileEtcd,
  wirePair,
} from '../testing/hostile-etcd.ts';
import { describeEvent, openWatchLog, type WatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';
import type { KvStore } from './kvstore.ts';

const skip = etcdSkipReason(process.env);
const retry = { minMs: 20, maxMs: 200 };
const EMPTY = { header: HOSTILE_HEADER, kvs: [], more: false };
const at = (revision: number): object => ({ ...HOSTILE_HEADER, revision: String(revision) });
const change = (key: string, revision: number): object => ({
  type: 'PUT',
  kv: wirePair(key, { revision }),
});
const untilGone = (watch: HostileWatch): Promise<void> =>
  new Promise((resolve) => watch.signal.addEventListener('abort', () => resolve(), { once: true }));

/** A log for each prefix, all listed. */
async function openLogs(store: KvStore, prefixes: readonly string[]): Promise<WatchLog[]> {
  const logs = prefixes.map((prefix) => openWatchLog(store, { prefix }));
  for (const log of logs) await log.until('the list', () => log.of('synced').length === 1);
  return logs;
}

test('watches on one stream of etcd', { skip }, async (t: Test) => {
  await using server = await openEtcdServer();
  await using writer = await openEtcd({ endpoints: [server.endpoint] });
  await using proxy = await openFaultyProxy({ targetPort: server.port });
  const through = { endpoints: [`http://127.0.0.1:${proxy.port}`], retry };

  await t.test('all go on where they were when the stream is cut', async (t) => {
    await using store = await openEtcd(through);
    const names = Array.from({ length: 20 }, (_, index) => `cut-${index}/`);
    const logs = await openLogs(store, names);
    for (let round = 0; round < 3; round += 1) {
      for (const name of names) await writer.put(`${name}before-${round}`, 'x');
      proxy.setFaults({ refuse: true });
      proxy.cut();
      for (const name of names) await writer.put(`${name}meanwhile-${round}`, 'x');
      proxy.setFaults({});
      for (const log of logs) await log.until('both', () => log.held.size === 2 * round + 2);
    }
    for (const log of logs) {
      t.equal(log.of('list-start').length, 1);
      t.ok(log.of('disconnected').length > 0);
      await log[Symbol.asyncDispose]();
    }
  });

  await t.test('one whose place was compacted lists anew, the others go on', async (t) => {
    await using store = await openEtcd(through);
    await writer.put('old/1', 'x');
    const [old, busy] = await openLogs(store, ['old/', 'busy/']);
    if (old === undefined || busy === undefined) throw new Error('cannot be');
    for (let index = 0; index < 20; index += 1) await writer.put(`busy/${index}`, 'x');
    await busy.until('its changes', () => busy.held.size === 20);
    proxy.setFaults({ refuse: true });
    proxy.cut();
    await old.until('the cut', () => old.of('disconnected').length > 0);
    await writer.put('busy/end', 'x');
    const revision = (await writer.count('busy/')).revision;
    await server.etcdctl('compact', String(revision - 1n));
    proxy.setFaults({});
    await old.until('another list', () => old.of('synced').length === 2);
    await busy.until('its change', () => busy.held.has('busy/end'));
    t.same(old.of('list-start').map(describeEvent), ['list-start first', 'list-start compacted']);
    t.equal(busy.of('list-start').length, 1);
    await writer.put('old/2', 'x');
    await old.until('a change', () => old.held.has('old/2'));
    for (const log of [old, busy]) await log[Symbol.asyncDispose]();
  });

  await t.test('one that ends leaves the others alone, and can be opened again', async (t) => {
    await using store = await openEtcd({ endpoints: [server.endpoint], retry });
    const [first, second] = await openLogs(store, ['one/', 'two/']);
    if (first === undefined || second === undefined) throw new Error('cannot be');
    for (let round = 0; round < 5; round += 1) {
      await using again = openWatchLog(store, { prefix: 'one/' });
      await again.until('the list', () => again.of('synced').length === 1);
      await writer.put(`one/${round}`, 'x');
      await again.until('the change', () => again.held.has(`one/${round}`));
    }
    await first[Symbol.asyncDispose]();
    await writer.put('two/1', 'x');
    await second.until('the change', () => second.held.has('two/1'));
    t.equal(second.of('disconnected').length, 0);
    await second[Symbol.asyncDispose]();
  });

  await t.test('one whose reader does not read makes nobody wait, and loses nothing', async (t) => {
    await using store = await openEtcd({ endpoints: [server.endpoint], retry });
    const stopping = new AbortController();
    const slow = store.watch({ prefix: 'slow/' }, { signal: stopping.signal });
    const events = slow[Symbol.asyncIterator]();
    while ((await events.next()).value.kind !== 'synced');
    await using quick = openWatchLog(store, { prefix: 'quick/' });
    await quick.until('the list', () => quick.of('synced').length === 1);
    for (let index = 0; index < 40; index += 1) {
      await writer.put(`slow/${String(index).padStart(2, '0')}`, Buffer.alloc(256 * 1024));
    }
    await writer.put('quick/1', 'x');
    await quick.until('its change, behind 10 MiB', () => quick.held.has('quick/1'));
    const seen: string[] = [];
    while (seen.length < 40) {
      const { value } = await events.next();
      if (value.kind === 'put') seen.push(value.pair.key);
      else t.fail(`unexpected ${describeEvent(value)}`);
    }
    t.same(
      seen,
      Array.from({ length: 40 }, (_, index) => `slow/${String(index).padStart(2, '0')}`),
    );
    stopping.abort();
    await events.next();
    t.equal(quick.of('disconnected').length, 0);
  });
});

/** A store on a scripted server. */
async function openScripted(watch: HostileScript['watch'], options: object = {}) {
  const server = await openHostileEtcd({
    range: () => EMPTY,
    ...(watch === undefined ? {} : { watch }),
  });
  const store = await openEtcd({ endpoints: [server.endpoint], retry, ...options });
  return {
    server,
    store,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

test('two hundred watches are one call', async (t) => {
  await using scripted = await openScripted(untilGone);
  const { server, store } = scripted;
  const logs = await openLogs(
    store,
    Array.from({ length: 250 }, (_, index) => `${index}/`),
  );
  await logs.at(-1)?.until('the calls', () => server.streams() >= 2);
  t.equal(server.streams(), 2);
  for (const log of logs) await log[Symbol.asyncDispose]();
});

test('a sign of life that overtakes changes is no other etcd', async (t) => {
  await using scripted = await openScripted(
    async (watch) => {
      await systemClock.sleep(150);
      watch.write({ header: at(20), watch_id: '-1' });
      watch.write({ header: at(15), events: [change('a/1', 15)] });
      await untilGone(watch);
    },
    { progressIntervalMs: 250 },
  );
  await using log = openWatchLog(scripted.store, { prefix: 'a/' });
  await log.until('the change', () => log.held.has('a/1'));
  t.same(log.events.map(describeEvent).slice(-2), ['progress', 'put a/1']);
  t.equal(log.of('disconnected').length, 0);
  t.equal(log.of('list-start').length, 1);
});

test('but an etcd that is behind what it has said before is another one', async (t) => {
  let opened = 0;
  await using scripted = await openScripted(
    async (watch) => {
      opened += 1;
      // Behind the list at 10, and nothing but a sign of life has told of 20.
      if (opened > 1) return untilGone(watch);
      await systemClock.sleep(150);
      watch.write({ header: at(20), watch_id: '-1' });
    },
    { progressIntervalMs: 250 },
  );
  await using log = openWatchLog(scripted.store, { prefix: 'a/' });
  await log.until('the sign of life', () => log.of('progress').length > 0);
  await log.until('another list', () => log.of('list-start').length > 1);
  t.equal(log.of('list-start')[1]?.reason, 'cluster-changed');
});

test('a stream on which others speak is alive for those of whom nothing is said', async (t) => {
  await using scripted = await openScripted(
    async (watch) => {
      if (watch.key !== 'busy/') return untilGone(watch);
      for (let revision = 11; !watch.signal.aborted; revision += 1) {
        watch.write({ header: at(revision), events: [change('busy/1', revision)] });
        await systemClock.sleep(10);
      }
    },
    { progressIntervalMs: 50 },
  );
  const [idle, busy] = await openLogs(scripted.store, ['idle/', 'busy/']);
  if (idle === undefined || busy === undefined) throw new Error('cannot be');
  await idle.until('signs of life', () => idle.of('progress').length >= 5);
  t.equal(idle.of('disconnected').length, 0);
  t.equal(idle.of('progress')[0]?.revision, 10n, 'no more is claimed than was told');
  for (const log of [idle, busy]) await log[Symbol.asyncDispose]();
});

const LIES: readonly [name: string, message: object, expected: RegExp][] = [
  [
    'a change for a watch that is not open',
    { header: at(11), watch_id: '7', events: [change('a/1', 11)] },
    /speaks of watch 7, which is not open/,
  ],
];
for (const [name, message, expected] of LIES) {
  test(`${name} ends the stream, and is not told`, async (t) => {
    await using scripted = await openScripted(async (watch) => {
      watch.write(message);
      await untilGone(watch);
    });
    await using log = openWatchLog(scripted.store, { prefix: 'a/' });
    await log.until('the failure', () => log.of('disconnected').length > 0);
    t.match(log.of('disconnected')[0]?.error, { code: 'invalid', message: expected });
    t.equal(log.held.size, 0);
  });
}

test('one id for two watches ends the stream', async (t) => {
  await using scripted = await openScripted(async (watch) => {
    if (watch.key === 'b/') watch.write({ header: at(10), watch_id: '0', created: true });
    await untilGone(watch);
  });
  const { store } = scripted;
  const [first, second] = await openLogs(store, ['a/', 'b/']);
  // The made-up answer is taken for that of the third.
  await using third = openWatchLog(store, { prefix: 'c/' });
  await third.until('the list', () => third.of('synced').length === 1);
  for (const log of [first, second]) await log?.[Symbol.asyncDispose]();
  t.pass('no watch waits for ever');
});
