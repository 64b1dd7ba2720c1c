import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import { openUpstream } from '../gate/upstream.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { followTlsFiles } from './follow-tls-files.ts';
import { STATUS_METHOD } from './maintenance-messages.ts';

const skip = etcdSkipReason(process.env);

test('another certificate for etcd is used without a restart, one that cannot be used is not', {
  skip,
}, async (t) => {
  const dir = await openTempDir('etcd-tls');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const authority = await createTestAuthority(dir);
  const stranger = await createTestAuthority(dir, 'stranger');
  const server = await authority.issue('server', { names: ['localhost'] });
  const [good, bad] = [await authority.issue('client'), await stranger.issue('client')];
  await using etcd = await openEtcdServer({ tls: server });
  const files = { ca: dir.file('use.ca'), cert: dir.file('use.crt'), key: dir.file('use.key') };
  await copyFile(authority.caFile, files.ca);
  await copyFile(bad.certFile, files.cert);
  await copyFile(bad.keyFile, files.key);
  const tls = {
    ca: await readFile(files.ca),
    cert: await readFile(files.cert),
    key: await readFile(files.key),
  };
  const endpoints = [`https://localhost:${etcd.port}`];
  await using store = await openEtcd({ endpoints, tls, callTimeoutMs: 2000 });
  await using upstream = openUpstream({ endpoints, tls });
  const ending = new AbortController();
  let used = 0;
  const following = followTlsFiles(files, {
    use: (renewed) => {
      store.renewTls(renewed);
      upstream.renewTls(renewed);
      used += 1;
    },
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
    signal: ending.signal,
  });
  await t.rejects(store.put('a', '1'));
  await t.rejects(upstream.call(STATUS_METHOD, Buffer.alloc(0)));

  await writeFile(files.key, 'nonsense');
  await systemClock.sleep(200);
  t.equal(used, 0, 'a key that is none is not taken');
  await copyFile(good.keyFile, files.key);
  await copyFile(good.certFile, files.cert);
  await eventually('a write', async () => {
    await store.put('a', '1');
    return true;
  });
  await using lease = await store.lease(60);
  t.ok(lease.id > 0n);
  t.equal((await store.get('a'))?.value.toString(), '1');
  t.ok((await upstream.call(STATUS_METHOD, Buffer.alloc(0))).length > 0);
  ending.abort();
  await following;
});
