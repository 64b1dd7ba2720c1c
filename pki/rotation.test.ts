import { X509Certificate } from 'node:crypto';
import { copyFile, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { parseCertificates } from './authority-file.ts';
import {
  createCa,
  createEnrollmentCa,
  createIntermediateCa,
  fingerprintOf,
  issueCertificate,
} from './ca.ts';
import { findCertificateFiles } from './certificate-files.ts';
import { hasSigned } from './issued-files.ts';
import { secretFiles, writeCa, writeEnrollmentCa, writePeer, writeSecret } from './layout.ts';
import { remoteLeaf, SECRET_NAMES, serverLeaf } from './names.ts';
import { renewCertificates } from './renewal.ts';
import { type RotationStep, readRotation, rotateCa } from './rotation.ts';

const HOUR_MS = 3_600_000;
const ca = await createCa();
const stranger = await createCa({ commonName: 'CA of beta' });
const server = await issueCertificate(ca, serverLeaf('alpha', { ipAddresses: ['fd00::7'] }));
const remote = await issueCertificate(ca, remoteLeaf('alpha'));
const enrollment = await createEnrollmentCa(ca);

/** A cluster's folder: authority, server, enrollment authority, what it shows to a peer, and what the peer believes of it. */
async function writeCluster(t: Test): Promise<{ readonly root: string; readonly folder: string }> {
  const dir = await openTempDir('rotation');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const root = dir.path;
  await writeCa(join(root, 'ca'), ca);
  await writeSecret(root, SECRET_NAMES.server, { ca: ca.root, pair: server });
  await writeEnrollmentCa(root, enrollment);
  await writePeer(join(root, 'peers'), 'beta', {
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    ca: stranger.root,
    client: remote,
  });
  await mkdir(join(root, 'beta-trusts'));
  await writeFile(join(root, 'beta-trusts', 'alpha.crt'), ca.root);
  return { root, folder: join(root, 'ca') };
}

const SHOWN = [
  `${SECRET_NAMES.server}/tls.crt`,
  `${SECRET_NAMES.enrollment}/tls.crt`,
  'peers/beta.etcd-client.crt',
];
const BELIEVED = [`${SECRET_NAMES.server}/ca.crt`, `${SECRET_NAMES.enrollment}/ca.crt`];
const BUNDLES = ['ca/ca.crt', 'beta-trusts/alpha.crt', ...BELIEVED];

/** What holds after every step and after any part of one: whoever shows something is believed by everybody. */
async function checkWhole(t: Test, root: string): Promise<void> {
  for (const shown of SHOWN) {
    const [leaf] = parseCertificates(await readFile(join(root, shown), 'utf8'));
    for (const bundle of BUNDLES) {
      const roots = parseCertificates(await readFile(join(root, bundle), 'utf8'));
      if (!roots.some((one) => hasSigned(one, leaf)))
        t.fail(`${bundle} does not vouch for ${shown}`);
    }
  }
}

async function rootsIn(path: string): Promise<number> {
  return parseCertificates(await readFile(path, 'utf8')).length;
}

test('an authority is replaced in three steps, each of which may be repeated', async (t) => {
  const { root, folder } = await writeCluster(t);
  const options = { paths: [root] };
  const steps: readonly [RotationStep, string, number][] = [
    ['add', 'added', 2],
    ['switch', 'switched', 2],
    ['remove', 'steady', 1],
  ];
  t.equal((await readRotation(folder)).stage, 'steady');
  for (const [step, stage, roots] of steps) {
    t.not((await rotateCa(folder, step, options)).length, 0);
    t.equal((await readRotation(folder)).stage, stage);
    await checkWhole(t, root);
    for (const bundle of BUNDLES) t.equal(await rootsIn(join(root, bundle)), roots, bundle);
    if (step !== 'add') t.same(await rotateCa(folder, step, options), [], `${step} is done`);
    if (step === 'add') t.same(await rotateCa(folder, step, options), []);
  }
  const { signing } = await readRotation(folder);
  t.not(fingerprintOf(signing.raw), fingerprintOf(ca.root));
  t.equal(
    await rootsIn(join(root, 'peers/beta.etcd-client-ca.crt')),
    1,
    "a peer's own is not touched",
  );
  const shown = new X509Certificate(await readFile(join(root, `${SECRET_NAMES.server}/tls.crt`)));
  const before = new X509Certificate(server.certificate);
  t.equal(shown.subjectAltName, before.subjectAltName);
  t.same(shown.keyUsage, before.keyUsage);
  const { files } = await findCertificateFiles([root]);
  t.same(
    files.filter(({ hasOwnKey }) => hasOwnKey === false),
    [],
    'every key is of its certificate',
  );
  for (const { keyFile } of files) {
    if (keyFile !== undefined) t.equal((await stat(keyFile)).mode & 0o777, 0o600, keyFile);
  }
  const below = secretFiles(root, SECRET_NAMES.enrollment);
  const [authority] = parseCertificates(await readFile(below.certificate, 'utf8'));
  t.ok(authority.ca && hasSigned(signing, authority));
  t.same(authority.keyUsage, ['1.3.6.1.5.5.7.3.2'], 'it is one of enrollment still');
  t.rejects(stat(join(folder, 'next.crt')), { code: 'ENOENT' });
});

test('steps are taken in their order, and not while somebody would be left behind', async (t) => {
  const { root, folder } = await writeCluster(t);
  const options = { paths: [root] };
  const wrong = { name: 'PkiError', code: 'wrong-stage' };
  await t.rejects(rotateCa(folder, 'switch', options), { ...wrong, message: /--stage add/ });
  t.same(await rotateCa(folder, 'remove', options), [], 'there is nothing to remove');
  await rotateCa(folder, 'add', options);
  await t.rejects(rotateCa(folder, 'remove', options), { ...wrong, message: /--stage switch/ });
  // A peer's copy from before comes back.
  await writeFile(join(root, 'beta-trusts/alpha.crt'), ca.root);
  await t.rejects(rotateCa(folder, 'switch', options), { ...wrong, message: /alpha\.crt/ });
  await rotateCa(folder, 'add', options);
  await rotateCa(folder, 'switch', options);
  await t.rejects(rotateCa(folder, 'add', options), { ...wrong, message: /--stage remove/ });
  await writeSecret(root, 'late', { ca: ca.root, pair: remote });
  await t.rejects(rotateCa(folder, 'remove', options), { ...wrong, message: /late\/tls\.crt/ });
  await rm(join(root, 'late'), { recursive: true });
  await rotateCa(folder, 'remove', options);
  await checkWhole(t, root);
});

test('a step that was killed anywhere is ended by the next run', async (t) => {
  const { root, folder } = await writeCluster(t);
  const options = { paths: [root] };
  // Killed in `add`: the new key is there, its certificate is not; later, one bundle is not written.
  await writeFile(join(folder, 'next.key'), 'half');
  await rotateCa(folder, 'add', options);
  await writeFile(join(root, BELIEVED[0] ?? ''), ca.root);
  t.match(await rotateCa(folder, 'add', options), [/believes the new authority, too/]);
  await checkWhole(t, root);
  // Killed in `switch`: one has a key and no certificate yet.
  const { privateKey } = secretFiles(root, SECRET_NAMES.server);
  const next = await readFile(join(folder, 'next.crt'), 'utf8');
  await writeFile(privateKey, (await issueCertificate(ca, serverLeaf('alpha'))).privateKey);
  t.equal((await rotateCa(folder, 'switch', options)).length, SHOWN.length + 1);
  // Killed before the last bit of tidying, and with one certificate of the new authority and another's key.
  await writeFile(join(folder, 'next.crt'), next);
  await writeFile(privateKey, remote.privateKey);
  t.match(await rotateCa(folder, 'switch', options), [/made again, its key did not belong to it/]);
  await checkWhole(t, root);
  // Killed in `remove`: the authority's own bundle is the last.
  await copyFile(join(folder, 'ca.crt'), join(root, 'both'));
  await rotateCa(folder, 'remove', options);
  await copyFile(join(root, 'both'), join(folder, 'ca.crt'));
  t.equal((await rotateCa(folder, 'remove', options)).length, 1);
  t.equal((await readRotation(folder)).stage, 'steady');
});

test('certificates are renewed when two thirds of their life are over', async (t) => {
  await using dir = await openTempDir('renewal');
  const caFolder = dir.file('ca');
  await writeCa(caFolder, ca);
  const now = Date.now();
  const from = now - 7 * HOUR_MS;
  const young = await issueCertificate(ca, {
    ...remoteLeaf('a'),
    notBefore: from,
    notAfter: from + 12 * HOUR_MS,
  });
  const old = await issueCertificate(ca, {
    ...remoteLeaf('b'),
    notBefore: from,
    notAfter: from + 10 * HOUR_MS,
  });
  const foreign = await issueCertificate(stranger, remoteLeaf('c'));
  for (const [name, pair] of Object.entries({ young, old, foreign })) {
    await writeSecret(dir.path, name, { ca: ca.root, pair });
  }
  await writeEnrollmentCa(dir.path, enrollment);
  const intermediate = await createIntermediateCa(ca, { commonName: 'issuing' });
  await writeSecret(dir.path, 'issuing', {
    ca: ca.root,
    pair: { certificate: intermediate.certificate, privateKey: intermediate.privateKey },
  });
  const renew = (all = false) => renewCertificates([dir.path], { caFolder, all, now });
  const kinds = async (all: boolean) =>
    Object.fromEntries((await renew(all)).map((one) => [one.path.split('/').at(-2), one.kind]));
  const good = { young: 'good', issuing: 'good', [SECRET_NAMES.enrollment]: 'good' };
  t.same(await kinds(false), { ...good, old: 'renewed' });
  const { certificate } = secretFiles(dir.path, 'old');
  const renewed = new X509Certificate(await readFile(certificate));
  const life = Date.parse(renewed.validTo) - Date.parse(renewed.validFrom);
  t.equal(life, 10 * HOUR_MS, 'it lives as long as before');
  t.same(await kinds(false), { ...good, old: 'good' }, 'once');
  t.same(await kinds(true), {
    young: 'renewed',
    old: 'renewed',
    [SECRET_NAMES.enrollment]: 'renewed',
    issuing: 'failed',
  });
  // Killed between key and certificate.
  await writeFile(secretFiles(dir.path, 'young').privateKey, old.privateKey);
  t.match(await kinds(false), { young: 'renewed' });
});
