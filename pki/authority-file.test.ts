import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { type PkiError, readCa, readRoots } from './authority-file.ts';
import { createCa, createIntermediateCa, issueCertificate } from './ca.ts';
import { writeCa } from './layout.ts';
import { nodeLeaf, serverLeaf } from './names.ts';

const ca = await createCa();

test('readCa() gives back what writeCa() wrote, and openssl accepts what it signs', async (t) => {
  await using dir = await openTempDir('pki');
  await writeCa(dir.path, ca);
  const read = await readCa(dir.path);
  t.same(read, ca);
  t.equal(await readRoots(dir.path), ca.root);
  const intermediate = await createIntermediateCa(read, { commonName: 'issuing' });
  for (const [authority, purpose, leaf] of [
    [read, 'sslserver', serverLeaf('alpha', { ipAddresses: ['fd00::1'] })],
    [intermediate, 'sslclient', nodeLeaf('n1')],
  ] as const) {
    const pair = await issueCertificate(authority, leaf);
    await writeFile(dir.file('leaf.crt'), pair.certificate);
    const flags = ['-CAfile', dir.file('ca.crt'), '-untrusted', dir.file('leaf.crt')];
    const said = execFileSync(
      'openssl',
      ['verify', '-x509_strict', '-purpose', purpose, ...flags, dir.file('leaf.crt')],
      { encoding: 'utf8' },
    );
    t.match(said, /: OK$/m);
  }
});

test('readCa() refuses what cannot sign', async (t) => {
  const other = await createCa();
  const old = await createCa({ notBefore: Date.now() - 20_000, notAfter: Date.now() - 10_000 });
  const leaf = await issueCertificate(ca, nodeLeaf('n1'));
  const below = await createIntermediateCa(ca, { commonName: 'below' });
  const cases: [string, string, string, PkiError['code']][] = [
    ['another key', ca.certificate, other.privateKey, 'key-mismatch'],
    ['a leaf', leaf.certificate, leaf.privateKey, 'not-an-authority'],
    ['an intermediate', below.certificate, below.privateKey, 'not-an-authority'],
    ['an old one', old.certificate, old.privateKey, 'expired'],
    ['half a file', ca.certificate.slice(0, 300), ca.privateKey, 'unreadable'],
    ['half a key', ca.certificate, ca.privateKey.slice(0, 300), 'unreadable'],
  ];
  await using dir = await openTempDir('pki');
  await t.rejects(readCa(dir.path), { code: 'unreadable' }, 'no file');
  for (const [what, certificate, key, code] of cases) {
    await writeFile(dir.file('ca.crt'), certificate);
    await writeFile(dir.file('ca.key'), key);
    await t.rejects(readCa(dir.path), { name: 'PkiError', code }, what);
  }
  t.equal(await readFile(dir.file('ca.crt'), 'utf8'), ca.certificate, 'files stay as they are');
});
