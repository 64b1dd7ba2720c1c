import { createServer } from 'node:tls';
import { test } from 'tap';
import type { EtcdTls } from '../../mesh/kvstore/etcd-endpoint.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createCa, issueCertificate, type LeafOptions } from '../../pki/ca.ts';
import { nodeLeaf, serverLeaf } from '../../pki/names.ts';
import { followCertificates } from './certificate-change.ts';

test('a session goes over to other certificates only when the registry takes them (promise 18)', async (t) => {
  const [ca, stranger] = await Promise.all([createCa(), createCa()]);
  const pair = await issueCertificate(ca, serverLeaf('alpha'));
  let looks = 0;
  const server = createServer(
    {
      cert: pair.certificate,
      key: pair.privateKey,
      ca: ca.root,
      requestCert: true,
      rejectUnauthorized: false,
      ALPNProtocols: ['h2'],
    },
    (socket) => {
      looks += 1;
      socket.on('error', () => undefined);
      if (socket.authorized) socket.write('settings');
      else socket.destroy();
    },
  );
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0;

  const tlsOf = async (from: typeof ca, leaf: LeafOptions, root = ca.root): Promise<EtcdTls> => {
    const { certificate: cert, privateKey: key } = await issueCertificate(from, leaf);
    return { ca: root, cert, key };
  };
  const first = await tlsOf(ca, nodeLeaf('n1'));
  let files: EtcdTls | Error = first;
  let reads = 0;
  let changes = 0;
  const clock = createManualClock({ now: Date.now() });
  const stopping = new AbortController();
  const following = followCertificates({
    registry: () => ({ host: '127.0.0.1', port }),
    serverName: 'alpha.mesh.cilium.io',
    readTls: async () => {
      reads += 1;
      if (files instanceof Error) throw files;
      return files;
    },
    onChange: () => {
      changes += 1;
    },
    clock,
    logger: createLogger('test', { level: 'silent' }),
    signal: stopping.signal,
  });
  /** Lets it look at the files as they are now, to the end. */
  const look = async (next: EtcdTls | Error): Promise<void> => {
    files = next;
    const before = reads;
    // The look before is over when the next one has begun.
    while (reads < before + 2) {
      await clock.advance(5000);
      await systemClock.sleep(5);
    }
  };
  await look(first);
  t.equal(looks, 0, 'nothing has changed');
  const later = clock.now() + 3_600_000;
  const bad: readonly [string, EtcdTls | Error][] = [
    ['cannot be read', new Error('half written')],
    ['of another CA', await tlsOf(stranger, nodeLeaf('n1'))],
    ['expired', await tlsOf(ca, { ...nodeLeaf('n1'), notAfter: clock.now() - 60_000 })],
    [
      'not yet valid',
      await tlsOf(ca, { ...nodeLeaf('n1'), notBefore: later, notAfter: later + 1 }),
    ],
    ['believes another CA', await tlsOf(ca, nodeLeaf('n1'), stranger.root)],
    ['no certificate', { ...first, cert: 'nonsense' }],
    ['the key of another', { ...first, key: (await tlsOf(ca, nodeLeaf('n2'))).key }],
  ];
  for (const [what, tls] of bad) {
    await look(tls);
    t.equal(changes, 0, what);
  }
  await look(await tlsOf(ca, nodeLeaf('n1')));
  t.equal(changes, 1, 'a good one after all of them');
  await look(files);
  t.equal(changes, 1, 'once');
  await look(first);
  t.equal(changes, 2);
  stopping.abort();
  await following;
});
