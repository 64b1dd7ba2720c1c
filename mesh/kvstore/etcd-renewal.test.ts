import { readFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../testing/test-certificates.ts';
import { openEtcd } from './etcd.ts';
import type { EtcdTls } from './etcd-endpoint.ts';

const skip = etcdSkipReason(process.env);

async function tlsOf(files: CertificateFiles): Promise<EtcdTls> {
  const { caFile, certFile, keyFile } = files;
  const [ca, cert, key] = await Promise.all(
    [caFile, certFile, keyFile].map((file) => readFile(file)),
  );
  return { ca: ca!, cert: cert!, key: key! };
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = systemClock.monotonic() + 20_000;
  while (!condition()) {
    if (systemClock.monotonic() > deadline) throw new Error(`waited 20 s in vain until ${what}`);
    await systemClock.sleep(10);
  }
}

test('certificates are replaced again and again: no watch ends, and no connection is left behind (promise 18)', {
  skip,
  timeout: 120_000,
}, async (t) => {
  await using dir = await openTempDir('renewal');
  const authority = await createTestAuthority(dir);
  await using etcd = await openEtcdServer({ tls: await authority.issue('server') });
  const open = new Set<Socket>();
  const proxy = createServer((socket) => {
    const upstream = connect(etcd.port, '127.0.0.1');
    open.add(socket);
    socket.on('error', () => upstream.destroy()).on('close', () => open.delete(socket));
    upstream.on('error', () => socket.destroy());
    socket.pipe(upstream).pipe(socket);
  });
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  t.teardown(() => proxy.close());
  const bound = proxy.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0;

  const certificates = await Promise.all(
    [1, 2, 3].map(async () => tlsOf(await authority.issue('writer'))),
  );
  const store = await openEtcd({ endpoints: [`https://127.0.0.1:${port}`], tls: certificates[0]! });
  const stopping = new AbortController();
  const seen: string[] = [];
  const watching = (async () => {
    for await (const event of store.watch({ prefix: 'a/' }, { signal: stopping.signal })) {
      seen.push(event.kind === 'put' ? event.pair.value.toString() : event.kind);
    }
  })();
  await using lease = await store.lease(60);
  await until('the watch stands', () => seen.includes('synced'));
  const rounds = 20;
  for (let round = 1; round <= rounds; round += 1) {
    const during = store.put('a/during', `during ${round}`);
    store.renewTls(certificates[round % certificates.length]!);
    await during;
    await store.put('a/after', `after ${round}`, { lease });
    await store.transact({
      compare: [],
      then: [{ kind: 'put', key: 'a/in', value: `in ${round}` }],
    });
    await store.get('a/after');
  }
  await until('all is seen', () => seen.includes(`in ${rounds}`));
  const expected = ['during', 'after', 'in'].flatMap((word) =>
    Array.from({ length: rounds }, (_, index) => `${word} ${index + 1}`),
  );
  t.same(
    expected.filter((value) => !seen.includes(value)),
    [],
    'every value came',
  );
  t.notOk(seen.includes('disconnected'), 'the watch never ended');
  t.equal(seen.filter((kind) => kind === 'list-start').length, 1);
  // The first has the watch; the lease and the latest certificates have theirs, one for calls and one for writes.
  await until(`old connections are closed (${open.size})`, () => open.size <= 5);
  t.throws(() => store.renewTls({ ...certificates[0]!, key: 'nonsense' }), { code: 'invalid' });
  await store.put('a/after', 'the last one', { lease });
  await until('it is seen', () => seen.includes('the last one'));
  stopping.abort();
  await watching;
  await lease[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
  await until('none is left', () => open.size === 0);
});
