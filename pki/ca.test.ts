import { spawnSync } from 'node:child_process';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { connect, createServer } from 'node:tls';
import forge from 'node-forge';
import { test } from 'tap';
import {
  createCa,
  createEnrollmentCa,
  createIntermediateCa,
  fingerprintOf,
  issueCertificate,
} from './ca.ts';
import { machineLeaf, nodeLeaf, remoteLeaf, serverLeaf } from './names.ts';

const ca = await createCa();

test("createCa() makes an authority with Cilium's name", async (t) => {
  const certificate = new X509Certificate(ca.certificate);
  t.equal(certificate.subject, 'CN=Cilium CA');
  t.ok(certificate.ca);
  t.ok(certificate.verify(certificate.publicKey), 'it is signed by itself');
  const days = (Date.parse(certificate.validTo) - Date.now()) / 86_400_000;
  t.ok(days > 1094 && days < 1096, `${days} days`);
});

test('issueCertificate() makes leaves that the authority vouches for', async (t) => {
  const leaf = await issueCertificate(
    ca,
    serverLeaf('alpha', { ipAddresses: ['fd00::7', '10.0.0.7'] }),
  );
  const certificate = new X509Certificate(leaf.certificate);
  t.ok(certificate.checkIssued(new X509Certificate(ca.certificate)));
  t.ok(certificate.checkHost('alpha.mesh.cilium.io'));
  t.ok(
    certificate.checkHost('beta.mesh.cilium.io'),
    "the wildcard covers every cluster, as Cilium's does",
  );
  t.ok(certificate.checkIP('10.0.0.7'));
  t.ok(certificate.checkIP('fd00::7'));
  t.notOk(certificate.checkIP('10.0.0.8'));
  t.notOk(certificate.ca);
  t.match(fingerprintOf(leaf.certificate), /^[0-9a-f]{64}$/);
});

test('issueCertificate() names the key of an authority as that does', async (t) => {
  // Helm makes identifiers of keys otherwise than we do: with another one verifiers take nothing from the authority.
  const { publicKey, privateKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
  const made = forgeAuthority(publicKey, privateKey);
  const foreign = { certificate: made, privateKey, root: made, chain: [] };
  const root = new X509Certificate(made);
  const leaf = new X509Certificate((await issueCertificate(foreign, nodeLeaf('a'))).certificate);
  t.ok(leaf.checkIssued(root));
  const below = await createEnrollmentCa(foreign);
  t.ok(new X509Certificate(below.certificate).checkIssued(root));
});

/** A root whose identifier of its key is no hash of it. */
function forgeAuthority(publicKey: string, privateKey: string): string {
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = forge.pki.publicKeyFromPem(publicKey);
  certificate.serialNumber = '01';
  certificate.validity.notAfter = new Date(Date.now() + 86_400_000);
  certificate.setSubject([{ name: 'commonName', value: 'Cilium CA' }]);
  certificate.setIssuer(certificate.subject.attributes);
  certificate.setExtensions([
    { name: 'basicConstraints', cA: true, critical: true },
    { name: 'keyUsage', critical: true, keyCertSign: true },
    { id: '2.5.29.14', value: `\x04\x04${'\x01\x02\x03\x04'}` },
  ]);
  certificate.sign(forge.pki.privateKeyFromPem(privateKey), forge.md.sha256.create());
  return forge.pki.certificateToPem(certificate);
}

test('issueCertificate() refuses an address that is none', async (t) => {
  await t.rejects(
    issueCertificate(ca, { commonName: 'x', usage: 'server', ipAddresses: ['10.0.0'] }),
    /cannot put "10\.0\.0" into a certificate/,
  );
});

test('names of nodes, machines and peers never meet', async (t) => {
  t.equal(nodeLeaf('a').commonName, 'node-a');
  t.equal(machineLeaf('a').commonName, 'machine-a');
  t.equal(remoteLeaf('a').commonName, 'remote-a');
  t.equal(remoteLeaf().commonName, 'remote');
});

test('a chain with an intermediate authority is accepted by a peer that trusts the root alone', async (t) => {
  const intermediate = await createIntermediateCa(ca, { commonName: 'alpha issuing' });
  const server = await issueCertificate(intermediate, serverLeaf('alpha'));
  const client = await issueCertificate(intermediate, remoteLeaf('beta'));
  const listener = createServer(
    { cert: server.certificate, key: server.privateKey, ca: ca.root, requestCert: true },
    (socket) =>
      socket.end(socket.authorized ? String(socket.getPeerCertificate().subject.CN) : 'stranger'),
  );
  t.teardown(() => listener.close());
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  const address = listener.address();
  t.ok(typeof address === 'object' && address !== null);
  const port = typeof address === 'object' && address !== null ? address.port : 0;
  const socket = connect({
    port,
    host: '127.0.0.1',
    servername: 'alpha.mesh.cilium.io',
    ca: ca.root,
    cert: client.certificate,
    key: client.privateKey,
  });
  let answer = '';
  for await (const chunk of socket) answer += String(chunk);
  t.equal(answer, 'remote-beta');
});

test('validity can lie in the past and in the future, for tests of both', async (t) => {
  const past = await issueCertificate(ca, {
    ...nodeLeaf('old'),
    notBefore: Date.now() - 10_000,
    notAfter: Date.now() - 5_000,
  });
  t.ok(Date.parse(new X509Certificate(past.certificate).validTo) < Date.now());
});

test('what an enrollment authority signs is a client, and never a server', async (t) => {
  const enrollment = await createEnrollmentCa(ca);
  t.match(new X509Certificate(enrollment.certificate).keyUsage, ['1.3.6.1.5.5.7.3.2']);
  const server = await issueCertificate(enrollment, serverLeaf('alpha'));
  const client = await issueCertificate(enrollment, machineLeaf('vm1'));
  const below = await createIntermediateCa(enrollment, { commonName: 'below' });
  const folder = t.testdir({
    'ca.crt': ca.root,
    'server.crt': server.certificate,
    'client.crt': client.certificate,
    'below.crt': (await issueCertificate(below, machineLeaf('vm1'))).certificate,
  });
  const verify = (purpose: string, file: string): string => {
    const path = `${folder}/${file}`;
    const flags = ['-purpose', purpose, '-CAfile', `${folder}/ca.crt`, '-untrusted', path, path];
    const { stdout, stderr } = spawnSync('openssl', ['verify', ...flags], { encoding: 'utf8' });
    return stdout + stderr;
  };
  t.match(verify('sslclient', 'client.crt'), /: OK$/m);
  t.match(
    verify('sslserver', 'server.crt'),
    /unsuitable certificate purpose|unsupported certificate purpose/,
  );
  t.match(verify('sslclient', 'below.crt'), /path length constraint exceeded/);
});
