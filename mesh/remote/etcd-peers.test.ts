import { readFile, rename, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openEtcd } from '../kvstore/etcd.ts';
import { systemClock } from '../runtime/clock.ts';
import { etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openTempDir, type TempDir } from '../testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../testing/test-certificates.ts';
import { connectionReader } from './connection.ts';
import type { Peer } from './peer.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { startPeer } from './testing/started-peer.ts';
import { until } from './testing/until.ts';

const skip = etcdSkipReason(process.env);

const isReady = (peer: Peer) => () => peer.status().state.kind === 'ready';

async function writeClientFile(
  dir: TempDir,
  options: { port: number; files: CertificateFiles },
): Promise<string> {
  const { caFile, certFile, keyFile } = options.files;
  const path = dir.file('beta');
  const lines = [
    'endpoints:',
    `- https://127.0.0.1:${options.port}`,
    `trusted-ca-file: ${caFile}`,
    `cert-file: ${certFile}`,
    `key-file: ${keyFile}`,
  ];
  await writeFile(`${path}.tmp`, `${lines.join('\n')}\n`);
  await rename(`${path}.tmp`, path);
  return path;
}

test('a peer over real etcd and mutual TLS: bad certificates, rotation, an outage', {
  skip,
}, async (t) => {
  await using dir = await openTempDir('peers');
  const authority = await createTestAuthority(dir, 'ca');
  const stranger = await createTestAuthority(dir, 'stranger');
  const server = await authority.issue('server');
  await using etcd = await openEtcdServer({ tls: server });
  const good = await authority.issue('remote-alpha');
  const read = connectionReader({ clock: systemClock });
  const { port } = etcd;
  const [ca, cert, key] = await Promise.all(
    [good.caFile, good.certFile, good.keyFile].map((file) => readFile(file)),
  );
  await using writer = await openEtcd({
    endpoints: [etcd.endpoint],
    tls: { ca: ca!, cert: cert!, key: key! },
  });
  const beta = publishCluster('beta', 2, writer);
  await beta.config();
  await beta.node('m1', '198.51.100.1');
  await beta.identity(257, { app: 'web' });
  await beta.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await beta.service('web', { '10.2.0.5': 8080 });
  await beta.marked();
  const { peer, sink } = startPeer(t);

  const connect = async (files: CertificateFiles): Promise<void> =>
    peer.connectWith(await read(await writeClientFile(dir, { port, files })));
  const reason = (): string => {
    const { state } = peer.status();
    return 'reason' in state ? state.reason : '';
  };

  await t.test('a certificate of a CA that the server does not know', async (st) => {
    const wrong = await stranger.issue('remote-alpha');
    await connect({ ...wrong, caFile: authority.caFile });
    await until('it has failed', () => reason() !== '', 20_000);
    st.match(reason(), /certificate/);
    st.match(reason(), /cert-file/);
    st.notMatch(reason(), /\n/);
  });

  await t.test('a server of another CA than trusted-ca-file', async (st) => {
    await connect({ ...good, caFile: stranger.caFile });
    await until('it has failed', () => reason().includes('trusted-ca-file'), 20_000);
    st.notMatch(reason(), /\n/);
    st.equal(sink.held.size, 0);
  });

  await t.test('the right files', async (st) => {
    await connect(good);
    await until('ready', isReady(peer));
    st.equal(sink.held.size, 4);
  });

  await t.test('a renewed certificate', async (st) => {
    const count = sink.log.length;
    await connect(await authority.issue('remote-alpha'));
    await until(
      'it is read anew',
      () => sink.log.slice(count).filter((line) => line.startsWith('synced')).length === 4,
    );
    await until('ready', isReady(peer));
    st.notOk(sink.log.slice(count).some((line) => line.startsWith('-')));
  });

  await t.test(
    'first a bad credential, then a good one: what works is kept, and no watch is stuck (promise 18)',
    async (st) => {
      const count = sink.log.length;
      const wrong = await stranger.issue('remote-alpha');
      await connect({ ...wrong, caFile: authority.caFile });
      const refused = (): string | undefined =>
        peer.status().notes.find(({ code }) => code === 'file-refused')?.message;
      await until('it is refused', () => refused() !== undefined, 20_000);
      st.match(refused(), /the connection of before is kept: .*certificate/);
      st.equal(peer.status().state.kind, 'ready');
      await beta.node('m0', '198.51.100.9');
      await until('news come over the old connection', () => sink.held.has('node m0'));
      await connect(await authority.issue('remote-alpha'));
      await until('it is taken', () => refused() === undefined, 20_000);
      await until(
        'it is read anew',
        () => sink.log.slice(count).filter((line) => line.startsWith('synced')).length === 4,
      );
      await beta.removeNode('m0');
      await until('news come over the new one', () => !sink.held.has('node m0'));
      st.same(
        sink.log.slice(count).filter((line) => line.startsWith('-')),
        ['-node m0'],
      );
    },
  );

  await t.test('etcd away and back', async (st) => {
    const count = sink.log.length;
    await etcd.kill();
    const isDisconnected = (): boolean =>
      peer.status().notes.some(({ code }) => code === 'connection-lost');
    await until('disconnected', isDisconnected, 20_000);
    st.equal(peer.status().state.kind, 'ready');
    st.equal(sink.held.size, 4);
    await etcd.start();
    await until('connected again', () => !isDisconnected(), 30_000);
    st.equal(peer.status().state.kind, 'ready');
    await beta.node('m2', '198.51.100.2');
    await until('changes arrive', () => sink.held.has('node m2'));
    st.notOk(sink.log.slice(count).some((line) => line.startsWith('-')));
  });

  await t.test('an etcd with no data: nothing goes before its markers', async (st) => {
    await etcd.wipe();
    await until('it is noticed', () => peer.status().state.kind !== 'ready', 30_000);
    st.equal(sink.held.size, 5);
    await beta.config();
    await beta.node('m1', '198.51.100.1');
    await until('it is read anew', () => peer.status().state.kind === 'syncing', 30_000);
    st.equal(sink.held.size, 5);
    await beta.marked();
    await until('ready', isReady(peer), 30_000);
    st.same([...sink.held.keys()], ['node m1']);
  });
});
