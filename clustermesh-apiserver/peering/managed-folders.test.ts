import { readdir, readFile, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { readEtcdClientConfig } from '../../mesh/kvstore/client-config.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { remoteLeaf } from '../../pki/names.ts';
import { openManagedFolders } from './managed-folders.ts';
import { parseMeshPeer } from './mesh-peer.ts';

test('managed folders hold what is wanted, whenever their writer is killed', async (t) => {
  const dir = await openTempDir('managed');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const ca = await createCa();
  const [first, second] = [
    await issueCertificate(ca, remoteLeaf('alpha')),
    await issueCertificate(ca, remoteLeaf('alpha')),
  ];
  const peer = parseMeshPeer({
    apiVersion: 'isthmus.io/v1alpha1',
    kind: 'MeshPeer',
    metadata: { name: 'beta' },
    spec: {
      clusterId: 2,
      endpoints: ['https://beta.mesh.cilium.io:2379'],
      enrollment: ['10.0.0.7:2382'],
      hostAliases: [{ hostname: 'beta.mesh.cilium.io', ips: ['10.0.0.7'] }],
      ca: ca.root,
    },
  });
  const paths = { trust: dir.file('trust'), clients: dir.file('clients') };
  const open = () => openManagedFolders(paths);
  const folders = await open();

  t.test('what is written is what readers of both formats take', async (t) => {
    t.equal(await folders.trust(peer), true);
    t.equal(await folders.trust(peer), false, 'a second time nothing changes');
    t.equal(await folders.connect(peer, first), true);
    t.equal(await folders.connect(peer, first), false);
    t.equal(await readFile(dir.file('trust', 'beta.crt'), 'utf8'), peer.spec.ca);
    const config = await readEtcdClientConfig(dir.file('clients', 'beta'));
    t.same(config.endpoints, peer.spec.endpoints);
    t.same(config.hostAliases, peer.spec.hostAliases);
    t.equal(config.tls?.cert.toString(), first.certificate);
    t.same([...(await folders.names())], ['beta']);
  });

  t.test('another process takes over what it finds', async (t) => {
    const again = await open();
    t.same(await again.readPair(peer.name), first);
    t.equal(await again.connect(peer, first), false);
  });

  t.test(
    'a writer that was killed between certificate and key leaves the pair from before',
    async (t) => {
      await writeFile(dir.file('clients', 'beta.000000000000.crt'), second.certificate);
      await writeFile(dir.file('clients', 'beta.111111111111.key.77.tmp'), 'half a k');
      t.same(await (await open()).readPair(peer.name), first);
      t.equal(await folders.connect(peer, second), true);
      t.same(await folders.readPair(peer.name), second);
      t.equal((await readdir(paths.clients)).length, 4, 'nothing is left of others');
    },
  );

  t.test('a file whose key is gone is no pair', async (t) => {
    const key = (await readdir(paths.clients)).find((file) => file.endsWith('.key')) ?? '';
    await writeFile(dir.file('clients', key), first.privateKey);
    t.equal(await folders.readPair(peer.name), undefined);
  });

  t.test('a peer that is gone leaves nothing, and nobody else is touched', async (t) => {
    const other = parseMeshPeer({
      apiVersion: 'isthmus.io/v1alpha1',
      kind: 'MeshPeer',
      metadata: { name: 'beta-2' },
      spec: { ...peer.spec, networks: undefined, clientCertificate: undefined, clusterId: 3 },
    });
    await folders.trust(other);
    await folders.connect(other, first);
    await folders.forget(peer.name);
    await folders.forget(peer.name);
    t.same([...(await folders.names())], ['beta-2']);
    t.same(
      (await readdir(paths.clients)).filter((file) => !file.startsWith('beta-2')),
      [],
    );
  });
});
