import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'tap';
import { parse } from 'yaml';
import { createCa, issueCertificate } from './ca.ts';
import { removePeer, writeCa, writePeer, writeSecret } from './layout.ts';
import { remoteLeaf, SECRET_NAMES } from './names.ts';

const ca = await createCa();
const pair = await issueCertificate(ca, remoteLeaf('alpha'));

test('writeSecret() writes the files of a Kubernetes TLS secret, for the owner alone', async (t) => {
  const folder = t.testdir();
  await writeCa(folder, ca);
  const files = await writeSecret(folder, SECRET_NAMES.remote, { ca: ca.root, pair });
  t.equal(await readFile(files.certificate, 'utf8'), pair.certificate);
  for (const file of [...Object.values(files), join(folder, 'ca.key')]) {
    t.equal((await stat(file)).mode & 0o777, 0o600, file);
  }
  t.equal((await stat(join(folder, SECRET_NAMES.remote))).mode & 0o777, 0o700);
});

test("writePeer() writes a peer in the form that Cilium's agents read", async (t) => {
  const folder = t.testdir();
  await writePeer(folder, 'beta', {
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    ca: ca.root,
    client: pair,
    hostAliases: [{ hostname: 'beta.mesh.cilium.io', ips: ['192.0.2.1'] }],
  });
  t.same(parse(await readFile(join(folder, 'beta'), 'utf8')), {
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    'trusted-ca-file': join(folder, 'beta.etcd-client-ca.crt'),
    'key-file': join(folder, 'beta.etcd-client.key'),
    'cert-file': join(folder, 'beta.etcd-client.crt'),
    'cilium-host-aliases': [{ hostname: 'beta.mesh.cilium.io', ips: ['192.0.2.1'] }],
  });
  for (const name of await readdir(folder)) {
    t.equal((await stat(join(folder, name))).mode & 0o777, 0o600, name);
  }
  await removePeer(folder, 'beta');
  t.same(await readdir(folder), []);
});
