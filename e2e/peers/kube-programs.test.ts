import { writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { builtKubePrograms, kubePeers, needKube } from './kube-programs.ts';

test('needKube() takes what KUBEBUILDER_ASSETS has, and the rest of what is built', async (t) => {
  await using dir = await openTempDir('assets');
  await writeFile(dir.file('kube-apiserver'), '');
  await writeFile(dir.file('etcd'), '');
  const built = builtKubePrograms();
  const { programs } = needKube({ KUBEBUILDER_ASSETS: dir.path });
  t.same(programs, {
    ...built,
    apiserver: dir.file('kube-apiserver'),
    etcd: dir.file('etcd'),
  });
  t.same(needKube({ CI: 'true' }), { skip: false, programs: built });
});

test('needKube() needs nothing built when all is in KUBEBUILDER_ASSETS', async (t) => {
  await using dir = await openTempDir('assets');
  for (const peer of kubePeers) await writeFile(dir.file(peer.split('/').at(-1) ?? ''), '');
  const { skip, programs } = needKube({ KUBEBUILDER_ASSETS: dir.path });
  t.equal(skip, false);
  t.ok(Object.values(programs).every((path) => path.startsWith(dir.path)));
});
