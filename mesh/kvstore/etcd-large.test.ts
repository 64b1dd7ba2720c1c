import { type Test, test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { type EtcdServer, etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import { openWatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';
import type { KvOp, KvStore } from './kvstore.ts';

const skip = etcdSkipReason(process.env);
const PREFIX = 'cilium/state/ip/v1/default/';
const COUNT = 50_000;
const ROUND_TRIP_MS = 60;

test('large amounts in etcd', { skip }, async (t: Test) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  await writeAddresses(store);

  await t.test(`a list of ${COUNT} ip keys is whole, whatever the size of its pages`, async (t) => {
    for (const pageSize of [1_000, 10_000]) {
      await using reader = await openEtcd({ endpoints: [server.endpoint], pageSize });
      const { pairs } = await reader.list(PREFIX);
      t.equal(pairs.length, COUNT);
      t.equal(new Set(pairs.map(({ key }) => key)).size, COUNT);
      t.ok(pairs.every(({ key, value }) => value.includes(key.slice(PREFIX.length))));
    }
  });

  await t.test('the pages of a list are of one revision while others write', async (t) => {
    await using reader = await openEtcd({ endpoints: [server.endpoint], pageSize: 500 });
    const last = `${PREFIX}99.0.0.1`;
    const listing = reader.list(PREFIX);
    await store.put(last, 'x');
    const { pairs, revision } = await listing;
    t.ok(pairs.every(({ modRevision }) => modRevision <= revision));
    t.ok(pairs.length === COUNT || pairs.at(-1)?.key === last);
    await store.delete(last);
  });

  await t.test(
    'the first sync over a round trip of 60 ms costs little more than the round trips',
    async (t) => {
      const near = await timeFirstSync(server.port, 0);
      const far = await timeFirstSync(server.port, ROUND_TRIP_MS / 2);
      // Connecting takes two round trips, each page and the watch one.
      const roundTrips = 3 + Math.ceil(COUNT / 10_000);
      const budget = 1.5 * near + roundTrips * ROUND_TRIP_MS + 250;
      t.ok(
        far <= budget,
        `${Math.round(near)} ms near, ${Math.round(far)} ms far, budget ${Math.round(budget)} ms`,
      );
    },
  );

  await t.test('a value of 3 MiB is listed, watched and read', async (t) => {
    const value = Buffer.alloc(3 * 1024 * 1024, 'abc');
    await using log = openWatchLog(store, { prefix: 'large/' });
    await log.until('the list', () => log.of('synced').length === 1);
    await store.put('large/1', value);
    await log.until('the value', () => log.held.has('large/1'));
    t.ok(log.of('put')[0]?.pair.value.equals(value));
    t.ok((await store.get('large/1'))?.value.equals(value));
    t.ok((await store.list('large/')).pairs[0]?.value.equals(value));
    await t.rejects(store.put('large/2', Buffer.alloc(16 * 1024 * 1024)), { code: 'too-large' });
    await store.put('large/3', 'at once after a refusal');
  });

  await t.test('pages shrink where values are too large for one message', async (t) => {
    for (let i = 0; i < 8; i += 1) await store.put(`huge/${i}`, Buffer.alloc(12 * 1024 * 1024, i));
    const { pairs } = await store.list('huge/');
    t.same(
      pairs.map(({ value }) => [value.length, value[0]]),
      Array.from({ length: 8 }, (_, i) => [12 * 1024 * 1024, i]),
    );
  });
});

test('what etcd refuses as too large is told as such', { skip }, async (t: Test) => {
  await using server: EtcdServer = await openEtcdServer({ args: ['--max-request-bytes=1000000'] });
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  await t.rejects(store.put('a/1', Buffer.alloc(1_100_000)), {
    code: 'too-large',
    retryable: false,
  });
  await t.rejects(store.put('a/1', Buffer.alloc(3_000_000)), {
    code: 'too-large',
    retryable: false,
  });
  await store.put('a/1', 'at once after a refusal');
});

async function writeAddresses(store: KvStore): Promise<void> {
  let batch: KvOp[] = [];
  const running: Promise<unknown>[] = [];
  for (let i = 0; i < COUNT; i += 1) {
    const ip = `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`;
    const value = JSON.stringify({
      IP: ip,
      Mask: null,
      HostIP: '192.168.1.1',
      ID: 65_536 + (i % 500),
      Key: 0,
      Metadata: '',
      K8sNamespace: 'default',
      K8sPodName: `pod-${i}`,
      NamedPorts: null,
    });
    batch.push({ kind: 'put', key: `${PREFIX}${ip}`, value });
    if (batch.length === 125 || i === COUNT - 1) {
      running.push(store.transact({ compare: [], then: batch }));
      batch = [];
      if (running.length === 16) await Promise.all(running.splice(0));
    }
  }
  await Promise.all(running);
}

async function timeFirstSync(targetPort: number, delayMs: number): Promise<number> {
  await using proxy = await openFaultyProxy({ targetPort, faults: { delayMs } });
  await using reader = await openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`] });
  const stopping = new AbortController();
  const start = systemClock.monotonic();
  for await (const event of reader.watch({ prefix: PREFIX }, { signal: stopping.signal })) {
    if (event.kind === 'synced') break;
  }
  return systemClock.monotonic() - start;
}
