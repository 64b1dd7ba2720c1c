import { readFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import { findFreePort } from '../testing/free-port.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../testing/test-certificates.ts';
import { describeEvent, openWatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';
import type { KvStore } from './kvstore.ts';

const skip = etcdSkipReason(process.env);
const retry = { minMs: 20, maxMs: 200 };

test('a watch of etcd', { skip }, async (t: Test) => {
  await using server = await openEtcdServer({ args: ['--grpc-keepalive-min-time=50ms'] });
  const fresh = async (): Promise<void> => {
    await server.etcdctl('del', '', '--from-key');
  };

  await t.test('goes on without a list when etcd is killed and started again', async (t) => {
    await fresh();
    await using store = await openEtcd({ endpoints: [server.endpoint], retry });
    await store.put('a/1', '1');
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    for (let round = 0; round < 2; round += 1) {
      await server.kill();
      await log.until('the cut', () => log.events.at(-1)?.kind === 'disconnected');
      await server.start();
      await log.until('a sign of life', () => log.events.at(-1)?.kind === 'progress');
      await store.put(`a/after-${round}`, '1');
      await log.until('the change', () => log.held.has(`a/after-${round}`));
    }
    t.equal(log.of('list-start').length, 1);
    t.equal(log.of('delete').length, 0);
  });

  await t.test('loses no deletion at the very revision of a compaction (promise 2)', async (t) => {
    await fresh();
    await using proxy = await openFaultyProxy({ targetPort: server.port });
    await using store = await openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`], retry });
    await using writer = await openEtcd({ endpoints: [server.endpoint] });
    await writer.put('a/stays', '1');
    await writer.put('a/goes', '1');
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    proxy.setFaults({ refuse: true });
    proxy.cut();
    await log.until('the cut', () => log.events.at(-1)?.kind === 'disconnected');
    await writer.delete('a/goes');
    await server.compact();
    proxy.setFaults({});
    await log.until('the deletion', () => !log.held.has('a/goes'));
    t.same([...log.held.keys()], ['a/stays']);
    t.equal(log.of('list-start').length, 2, 'it was listed again');
  });

  await t.test(
    'loses none of 5,000 changes when it is cut again and again while catching up',
    async (t) => {
      await fresh();
      await using proxy = await openFaultyProxy({ targetPort: server.port });
      await using store = await openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`], retry });
      await using writer = await openEtcd({ endpoints: [server.endpoint] });
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      proxy.setFaults({ refuse: true });
      proxy.cut();
      for (let batch = 0; batch < 50; batch += 1) {
        const keys = Array.from({ length: 100 }, (_, i) => `a/${batch * 100 + i}`);
        await Promise.all(keys.map((key) => writer.put(key, 'x'.repeat(500))));
      }
      proxy.setFaults({ bytesPerSecond: 2_000_000 });
      const cuts: number[] = [];
      while (log.held.size < 5000 && cuts.length < 6) {
        const goal = Math.min(5000, (cuts.length + 1) * 700);
        await log.until(`${goal} keys`, () => log.held.size >= goal);
        cuts.push(log.held.size);
        proxy.cut();
      }
      proxy.setFaults({});
      await log.until('all of them', () => log.held.size === 5000);
      t.equal(log.of('list-start').length, 1, `cut at ${cuts.join(', ')}`);
      t.ok(
        cuts.some((size) => size < 5000),
        'it was cut before the end',
      );
    },
  );

  await t.test('catches up 70 values of 1 MiB in messages of a bounded size', async (t) => {
    await fresh();
    await using proxy = await openFaultyProxy({ targetPort: server.port });
    await using store = await openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`], retry });
    await using writer = await openEtcd({ endpoints: [server.endpoint] });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    proxy.setFaults({ refuse: true });
    proxy.cut();
    // More than the largest message that is taken: without fragments this could never be read.
    for (let i = 0; i < 70; i += 1) await writer.put(`a/${i}`, Buffer.alloc(1024 * 1024, i));
    proxy.setFaults({});
    await log.until('all of them', () => log.held.size === 70, 30_000);
    t.equal(log.of('list-start').length, 1);
  });

  await t.test('notices a stalled connection by keepalive, and heals', async (t) => {
    await fresh();
    await using proxy = await openFaultyProxy({ targetPort: server.port });
    await using store = await openEtcd({
      endpoints: [`http://127.0.0.1:${proxy.port}`],
      retry,
      keepalive: { timeMs: 300, timeoutMs: 200 },
      callTimeoutMs: 1000,
    });
    await using writer = await openEtcd({ endpoints: [server.endpoint] });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    proxy.setFaults({ stalled: true });
    await log.until('the notice', () => log.of('disconnected').length > 0, 3000);
    await writer.put('a/1', '1');
    proxy.setFaults({});
    await log.until('the change', () => log.held.has('a/1'));
    t.equal(log.of('list-start').length, 1);
  });

  await t.test(
    'notices a server that answers keepalives but says nothing on the watch',
    async (t) => {
      await fresh();
      await using store = await openEtcd({
        endpoints: [server.endpoint],
        retry,
        progressIntervalMs: 100,
      });
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('signs of life', () => log.of('progress').length >= 3);
      server.pause();
      await log.until('the notice', () => log.of('disconnected').length > 0, 5000);
      server.resume();
      await store.put('a/1', '1').catch(() => store.put('a/1', '1'));
      await log.until('the change', () => log.held.has('a/1'));
      t.equal(log.of('list-start').length, 1);
    },
  );

  await t.test('goes on when the server half closes the connection', async (t) => {
    await fresh();
    await using proxy = await openFaultyProxy({ targetPort: server.port });
    await using store = await openEtcd({ endpoints: [`http://127.0.0.1:${proxy.port}`], retry });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    proxy.halfClose();
    await log.until('the notice', () => log.of('disconnected').length > 0);
    await log.until('a sign of life', () => log.events.at(-1)?.kind === 'progress');
    await store.put('a/1', '1');
    await log.until('the change', () => log.held.has('a/1'));
    t.equal(log.of('list-start').length, 1);
  });

  await t.test(
    'notices data thrown away under the same cluster id by the falling revision',
    async (t) => {
      await fresh();
      await using store = await openEtcd({ endpoints: [server.endpoint], retry });
      for (let i = 0; i < 20; i += 1) await store.put('a/old', String(i));
      await using log = openWatchLog(store, { prefix: 'a/' });
      await log.until('the list', () => log.of('synced').length === 1);
      const before = store.clusterId;
      await server.wipe({ sameToken: true });
      await log.until('the second list', () => log.of('synced').length === 2);
      t.equal(store.clusterId, before, 'the cluster id alone would not have told');
      t.same(log.of('list-start').map(describeEvent), [
        'list-start first',
        'list-start cluster-changed',
      ]);
      t.same(log.of('delete').map(describeEvent), ['delete a/old derived']);
    },
  );

  await t.test('uses the next endpoint when one is out of reach', async (t) => {
    await fresh();
    const dead = `http://127.0.0.1:${await findFreePort()}`;
    await using store = await openEtcd({ endpoints: [dead, server.endpoint], retry });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.of('synced').length === 1);
    t.ok(log.of('disconnected').length <= 1);
  });

  await t.test('dials the addresses of a host alias', async (t) => {
    await fresh();
    await using store = await openEtcd({
      endpoints: [`http://beta.mesh.cilium.io:${server.port}`],
      hostAliases: [{ hostname: 'beta.mesh.cilium.io', ips: ['127.0.0.1'] }],
      retry,
    });
    await store.put('a/1', '1');
    t.ok(await store.get('a/1'));
  });
});

test('a lease whose etcd was stopped for a while goes on', { skip }, async (t: Test) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint], retry });
  await using lease = await store.lease(2);
  let lost = 0;
  lease.onLost(() => {
    lost += 1;
  });
  await store.put('a/1', '1', { lease });
  const { id } = lease;
  await server.kill();
  await server.start();
  await using log = openWatchLog(store, { prefix: 'a/' });
  await log.until('the list', () => log.of('synced').length === 1);
  // Longer than the TTL, so that it is gone unless it was kept alive.
  await t.rejects(log.until('an expiry', () => !log.held.has('a/1'), 3500));
  t.equal(lease.id, id);
  t.equal(lost, 0);
});

test('TLS with etcd', { skip }, async (t: Test) => {
  await using dir = await openTempDir('tls');
  const authority = await createTestAuthority(dir, 'ours');
  const stranger = await createTestAuthority(dir, 'theirs');
  const serverFiles = await authority.issue('server', { names: ['etcd.example'] });
  const clientFiles = await authority.issue('client');
  const strangerFiles = await stranger.issue('client');
  await using server = await openEtcdServer({ tls: serverFiles });
  const open = async (
    files: CertificateFiles,
    caFile: string,
    serverName?: string,
  ): Promise<KvStore> =>
    openEtcd({
      endpoints: [server.endpoint],
      retry,
      callTimeoutMs: 3000,
      tls: {
        ca: await readFile(caFile),
        cert: await readFile(files.certFile),
        key: await readFile(files.keyFile, 'utf8'),
        ...(serverName === undefined ? {} : { serverName }),
      },
    });

  await t.test('reads, writes and watches with a certificate of its CA', async (t) => {
    await using store = await open(clientFiles, authority.caFile, 'etcd.example');
    await store.put('a/1', '1');
    t.ok(await store.get('a/1'));
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until('the list', () => log.held.has('a/1'));
  });
  await t.test('does not believe a server of another CA', async (t) => {
    await using store = await open(clientFiles, stranger.caFile);
    await t.rejects(store.get('a/1'), { code: 'unauthenticated', message: /certificate/ });
    await t.rejects(store.put('a/1', '2'), { code: 'unauthenticated' });
    await using log = openWatchLog(store, { prefix: 'a/' });
    await log.until(
      'the failure',
      () => log.of('disconnected')[0]?.error.code === 'unauthenticated',
    );
  });
  await t.test('does not believe a server with another name', async (t) => {
    await using store = await open(clientFiles, authority.caFile, 'other.example');
    await t.rejects(store.get('a/1'), { code: 'unauthenticated', message: /other\.example/ });
    await t.rejects(store.put('a/1', '2'), { code: 'unauthenticated' });
  });
  await t.test('is refused with a client certificate of another CA', async (t) => {
    await using store = await open(strangerFiles, authority.caFile);
    await t.rejects(store.get('a/1'), { name: 'KvError', retryable: /./ });
    await t.rejects(store.put('a/1', '2'), { name: 'KvError' });
  });
  await t.test('refuses broken certificates and https without any', async (t) => {
    const tls = { ca: 'no PEM', cert: 'no PEM', key: 'no PEM' };
    await t.rejects(openEtcd({ endpoints: [server.endpoint], tls }), {
      code: 'invalid',
      message: /certificates/,
    });
    await t.rejects(openEtcd({ endpoints: [server.endpoint] }), {
      code: 'invalid',
      message: /https needs/,
    });
  });
});
