import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvEvent } from '../../mesh/kvstore/kvstore.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { nodeLeaf } from '../../pki/names.ts';
import { type Gate, listenGate } from './gate.ts';
import { openGateFixture, until } from './testing/gate-fixture.ts';
import { openRawClient } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const STATE = { key: Buffer.from('cilium/state/'), range_end: Buffer.from('cilium/state0') };

test('our own client lists 50,000 keys and follows them', { skip, timeout: 180_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const direct = fixture.direct();
  const total = 50_000;
  const value = Buffer.from('{"IP":"10.0.0.1","Mask":null,"HostIP":"192.0.2.1","ID":65793}');
  for (let from = 0; from < total; from += 100) {
    const success = Array.from({ length: 100 }, (_, index) => ({
      request_put: { key: Buffer.from(`cilium/state/ip/v1/default/${from + index}`), value },
    }));
    await direct.call('KV', 'Txn', { success });
  }
  const tls = await fixture.tls(fixture.own, nodeLeaf('n1'));
  const store = await openEtcd({ endpoints: [fixture.endpoint], tls });
  t.teardown(() => store[Symbol.asyncDispose]());
  const { pairs } = await store.list('cilium/state/ip/v1/default/');
  t.equal(pairs.length, total);
  t.equal(pairs[777]?.value.toString(), value.toString());

  const stopping = new AbortController();
  const seen: KvEvent[] = [];
  const reading = (async () => {
    for await (const event of store.watch(
      { prefix: 'cilium/state/ip/v1/default/' },
      { signal: stopping.signal },
    )) {
      if (event.kind === 'put' && event.pair.value.length === value.length) continue;
      seen.push(event);
    }
  })();
  await until('it is synced', () => seen.some(({ kind }) => kind === 'synced'));
  await direct.call('KV', 'Put', {
    key: Buffer.from('cilium/state/ip/v1/default/1'),
    value: Buffer.from('changed'),
  });
  await until('the change is told', () => seen.at(-1)?.kind === 'put');
  t.same(
    seen.map(({ kind }) => kind),
    ['list-start', 'synced', 'put'],
  );
  stopping.abort();
  await reading;
});

test('etcd behind the gate goes away and comes back', { skip, timeout: 180_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const stopping = new AbortController();
  const gate: Gate = await listenGate({
    address: { host: '127.0.0.1', port: 0 },
    clusterName: 'alpha',
    certFile: fixture.server.certificate,
    keyFile: fixture.server.privateKey,
    ownCaFile: fixture.server.ca,
    upstream: { endpoints: [etcd.endpoint] },
    signal: stopping.signal,
  });
  t.teardown(() => gate[Symbol.asyncDispose]());
  const tls = await fixture.tls(fixture.own, nodeLeaf('n1'));
  const endpoint = `https://127.0.0.1:${gate.address.port}`;
  const raw = openRawClient(endpoint, tls);
  t.teardown(() => raw[Symbol.dispose]());
  const store = await openEtcd({ endpoints: [endpoint], tls });
  t.teardown(() => store[Symbol.asyncDispose]());

  const values = new Map<string, string>();
  const events: KvEvent[] = [];
  const reading = (async () => {
    const target = { prefix: 'cilium/state/' };
    for await (const event of store.watch(target, { signal: stopping.signal })) {
      events.push(event);
      if (event.kind === 'put') values.set(event.pair.key, event.pair.value.toString());
      if (event.kind === 'delete') values.delete(event.key);
    }
  })();
  t.teardown(async () => {
    stopping.abort();
    await reading;
  });
  const put = (key: string, value: string): Promise<string> =>
    etcd.etcdctl('put', `cilium/state/${key}`, value);
  await put('a', '1');
  await until('it is told', () => values.get('cilium/state/a') === '1');
  const watch = raw.watch(STATE);
  await until('a raw watch is created', () => watch.answers.length === 1);

  await t.test('killed: streams end as unavailable, calls fail in time', async (t) => {
    await etcd.kill();
    await until('the raw watch has ended', () => watch.error !== undefined);
    t.match(watch.error?.message, 'UNAVAILABLE: etcdserver: etcd is out of reach');
    const began = systemClock.monotonic();
    await t.rejects(raw.call('KV', 'Range', STATE), { code: 14 });
    t.ok(systemClock.monotonic() - began < 5000);
    t.notMatch(watch.error?.message, String(etcd.port), 'nothing is told of where etcd is');
  });

  await t.test('back: our client goes on from where it was', async (t) => {
    const lists = events.filter(({ kind }) => kind === 'list-start').length;
    await etcd.start();
    await put('b', '2');
    await until('it is told', () => values.get('cilium/state/b') === '2');
    t.equal(events.filter(({ kind }) => kind === 'list-start').length, lists, 'without a list');
  });

  await t.test('wiped: clients are shown another etcd', async (t) => {
    await etcd.wipe();
    await put('c', '3');
    await until('the new content is told', () => values.get('cilium/state/c') === '3');
    await until('the old content is gone', () => values.size === 1);
    t.equal(values.get('cilium/state/a'), undefined);
  });

  await t.test('wiped with the same token: they see the revisions fall', async (t) => {
    for (let index = 0; index < 20; index += 1) await put('d', String(index));
    await until('all is told', () => values.get('cilium/state/d') === '19');
    await etcd.wipe({ sameToken: true });
    await put('e', '5');
    await until('the new content is told', () => values.get('cilium/state/e') === '5');
    await until('the old content is gone', () => values.size === 1);
    t.equal(events.filter(({ kind }) => kind === 'list-start').length, 3);
  });

  await t.test('stopped for a while: nothing is told, nothing is lost', async (t) => {
    const quiet = raw.watch(STATE);
    await until('a raw watch is created', () => quiet.answers.length === 1);
    etcd.pause();
    quiet.send({ progress_request: {} });
    await systemClock.sleep(1500);
    t.equal(quiet.answers.length, 1, 'the gate does not answer for an etcd that does not');
    etcd.resume();
    await until('then it does', () => quiet.answers.at(-1)?.watchId === -1);
    t.equal(quiet.error, undefined);
    quiet.cancel();
  });
});
