import { rename, rm, writeFile } from 'node:fs/promises';
import { connect as connectPlain } from 'node:net';
import { connect } from 'node:tls';
import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import {
  createEnrollmentCa,
  createIntermediateCa,
  fingerprintOf,
  issueCertificate,
} from '../../pki/ca.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { nodeLeaf, remoteLeaf, serverLeaf } from '../../pki/names.ts';
import { listenGate } from './gate.ts';
import { type GateFixture, openGateFixture, until } from './testing/gate-fixture.ts';
import type { RawClient, RawWatch } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const STATE = { key: Buffer.from('cilium/state/'), range_end: Buffer.from('cilium/state0') };

async function openWatch(client: RawClient): Promise<RawWatch> {
  const watch = client.watch(STATE);
  await until('the watch is created', () => watch.answers[0]?.created ?? false);
  return watch;
}

async function codeOf(client: RawClient): Promise<string> {
  try {
    await client.call('KV', 'Range', STATE);
    return 'OK';
  } catch (error) {
    return (error as Error).message;
  }
}

async function put(fixture: GateFixture, value: string): Promise<void> {
  await fixture.direct().call('KV', 'Put', {
    key: Buffer.from('cilium/state/x'),
    value: Buffer.from(value),
  });
}

/** Certificate that the gate shows. */
function serverFingerprint(fixture: GateFixture): Promise<string> {
  return new Promise((resolve, reject) => {
    const { port, host } = fixture.gate.address;
    const socket = connect({ port, host, ca: fixture.own.root, servername: 'localhost' }, () => {
      resolve(socket.getPeerCertificate().fingerprint256);
      socket.destroy();
    });
    socket.on('error', reject);
  });
}

test('trust follows its files', { skip, timeout: 120_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const { own, beta, gate } = fixture;
  const node = await fixture.client(own, nodeLeaf('n1'));
  const steady = await openWatch(node);

  await t.test('a revoked certificate sees nothing more, others go on', async (t) => {
    const other = await fixture.client(own, nodeLeaf('n2'));
    const { cert } = await fixture.tls(own, nodeLeaf('n2'));
    const watch = await openWatch(other);
    await put(fixture, 'before');
    await until('it is told', () => watch.events.length === 1);
    const began = Date.now();
    await writeFile(fixture.revokedFile, `- fingerprint: ${fingerprintOf(cert.toString())}\n`);
    await until('the stream is cut', () => watch.error !== undefined);
    t.ok(Date.now() - began < 5000, `cut after ${Date.now() - began} ms`);
    await put(fixture, 'after');
    await until('the other is told', () => steady.events.length === 2);
    t.equal(watch.events.length, 1);
    t.match(await codeOf(other), 'permission denied');
    t.equal(steady.error, undefined);
    t.ok(gate.status.refused.revoked);
  });

  await t.test('with an enrollment authority all that it has signed is revoked', async (t) => {
    const [first, second] = [await createEnrollmentCa(own), await createEnrollmentCa(own)];
    const old = await fixture.client(first, nodeLeaf('n3'));
    const renewed = await fixture.client(second, nodeLeaf('n3'));
    const [cut, lasting] = [await openWatch(old), await openWatch(renewed)];
    await writeFile(fixture.revokedFile, `- fingerprint: ${fingerprintOf(first.certificate)}\n`);
    await until('the stream is cut', () => cut.error !== undefined);
    t.match(await codeOf(old), 'permission denied');
    t.equal(await codeOf(renewed), 'OK', 'the same name by another one');
    t.equal(lasting.error, undefined);
  });

  await t.test('a name may be revoked, and a broken list keeps the one before', async (t) => {
    const peer = await fixture.client(beta, remoteLeaf('beta'));
    const watch = await openWatch(peer);
    await writeFile(fixture.revokedFile, '- commonName: remote-beta\n');
    await until('the stream is cut', () => watch.error !== undefined);
    await writeFile(fixture.revokedFile, '- fingerprint: beef\n');
    await until('the list is complained of', () =>
      gate.status.warnings.some((line) => /64 hex digits.*stays in force/.test(line)),
    );
    t.match(await codeOf(peer), 'permission denied');
    await rm(fixture.revokedFile);
    await until('its absence is complained of', () =>
      gate.status.warnings.some((line) => /ENOENT.*stays in force/.test(line)),
    );
    t.match(await codeOf(peer), 'permission denied');
    await writeFile(fixture.revokedFile, '');
    await until('nothing is complained of', () => gate.status.warnings.length === 0);
    await until('an empty list revokes nothing', async () => (await codeOf(peer)) === 'OK');
  });

  await t.test("a peer's CA comes and goes with its file", async (t) => {
    const gamma = await fixture.client(fixture.stranger, remoteLeaf('gamma'));
    t.not(await codeOf(gamma), 'OK');
    await writePrivateFile(`${fixture.peerTrustDir}/gamma.crt`, fixture.stranger.root);
    await until('it is let in', async () => (await codeOf(gamma)) === 'OK');
    const beside = await fixture.client(fixture.stranger, remoteLeaf('beta'));
    t.match(await codeOf(beside), 'permission denied', 'as nobody else');
    const watch = await openWatch(gamma);
    await rename(`${fixture.peerTrustDir}/gamma.crt`, fixture.dir.file('gone'));
    await until('the stream is cut', () => watch.error !== undefined);
    t.not(await codeOf(gamma), 'OK');
  });

  await t.test('a broken CA file of a peer harms nobody', async (t) => {
    const peer = await fixture.client(beta, remoteLeaf('beta'));
    const watch = await openWatch(peer);
    await writeFile(`${fixture.peerTrustDir}/beta.crt`, '-----BEGIN CERTIFICATE-----\nMII');
    await writeFile(`${fixture.peerTrustDir}/no name.crt`, beta.root);
    await until('both are complained of', () => gate.status.warnings.length === 2);
    t.ok(gate.status.warnings.some((line) => line.includes('beta.crt')));
    t.equal(watch.error, undefined);
    await rm(`${fixture.peerTrustDir}/no name.crt`);
    await writePrivateFile(`${fixture.peerTrustDir}/beta.crt`, beta.root);
    await until('one is still complained of at most', () => gate.status.warnings.length <= 1);
    t.equal(await codeOf(peer), 'OK');
  });

  await t.test('two peers with one CA are warned of', async (t) => {
    await writePrivateFile(`${fixture.peerTrustDir}/delta.crt`, beta.root);
    await until('it is told', () =>
      gate.status.warnings.some((line) => /CA of beta.*peer beta and peer delta/.test(line)),
    );
    const nameless = await fixture.client(beta, remoteLeaf());
    t.equal(await codeOf(nameless), 'OK');
    const seen = gate.status.clients.find(({ name }) => name === 'remote');
    t.same(seen?.peers, ['beta', 'delta']);
    await rm(`${fixture.peerTrustDir}/delta.crt`);
    await until('it is over', () => !gate.status.warnings.some((line) => line.includes('delta')));
  });

  await t.test('a chain may pass through intermediates, or end at one', async (t) => {
    const issuing = await createIntermediateCa(beta, { commonName: 'issuing CA of beta' });
    const below = await fixture.client(issuing, remoteLeaf('beta'));
    t.equal(await codeOf(below), 'OK');
    const alone = await createIntermediateCa(fixture.stranger, { commonName: 'issuing' });
    await writePrivateFile(`${fixture.peerTrustDir}/gamma.crt`, alone.certificate);
    const partial = await fixture.client(alone, remoteLeaf('gamma'));
    await until('it is let in', async () => (await codeOf(partial)) === 'OK');
    const beside = await fixture.client(fixture.stranger, remoteLeaf('gamma'));
    t.not(await codeOf(beside), 'OK', 'what is above the trusted one is not trusted');
  });

  await t.test('a new server certificate is shown without dropping a stream', async (t) => {
    const before = await serverFingerprint(fixture);
    const told = steady.events.length;
    const pair = await issueCertificate(own, serverLeaf('alpha'));
    // Between the two files the pair does not match.
    await writePrivateFile(fixture.server.privateKey, pair.privateKey);
    await writePrivateFile(fixture.server.certificate, pair.certificate);
    await until('it is shown', async () => (await serverFingerprint(fixture)) !== before);
    await put(fixture, 'still');
    await until('the old stream is told', () => steady.events.length > told);
    t.equal(steady.error, undefined);
  });

  await t.test('a session cannot be resumed, which would skip the certificate', async (t) => {
    const { port, host } = gate.address;
    const material = await fixture.tls(own, nodeLeaf('n1'));
    const dial = async (
      session?: Buffer,
    ): Promise<{ session: Buffer | undefined; reused: boolean }> => {
      const socket = connect({
        port,
        host,
        ...material,
        servername: 'localhost',
        ALPNProtocols: ['h2'],
        ...(session === undefined ? {} : { session }),
      });
      const sessions: Buffer[] = [];
      socket.on('session', (offered) => sessions.push(offered));
      await new Promise((resolve) => socket.once('data', resolve));
      const reused = socket.isSessionReused();
      socket.destroy();
      return { session: sessions.at(-1) ?? socket.getSession(), reused };
    };
    const { session } = await dial();
    t.notOk((await dial(session)).reused);
  });

  await t.test('noise on the port harms nobody', async (t) => {
    const { port, host } = gate.address;
    for (const noise of [Buffer.alloc(2000, 0xff), Buffer.from('GET / HTTP/1.1\r\n\r\n')]) {
      const socket = connectPlain({ port, host });
      socket.on('error', () => undefined).resume();
      socket.write(noise);
      await new Promise((resolve) => socket.once('close', resolve));
    }
    const material = await fixture.tls(own, nodeLeaf('n1'));
    for (const ALPNProtocols of [['h2'], ['http/1.1'], []]) {
      const socket = connect({ port, host, ...material, servername: 'localhost', ALPNProtocols });
      socket.on('error', () => undefined).resume();
      socket.write(Buffer.alloc(2000, 0xff));
      await new Promise((resolve) => socket.once('close', resolve));
    }
    t.equal(await codeOf(node), 'OK');
    t.equal(steady.error, undefined);
  });

  await t.test('a connection ends with the certificate that opened it', async (t) => {
    let cut = false;
    // On a slow machine the shortest of them is over before it is used.
    for (const life of [3000, 6000, 12_000, 18_000]) {
      const leaf = { ...nodeLeaf('brief'), notAfter: Date.now() + life };
      const watch = (await fixture.client(own, leaf)).watch(STATE);
      const isOpen = (): boolean => watch.answers[0]?.created ?? false;
      await until('the watch is created or refused', () => isOpen() || watch.error !== undefined);
      if (!isOpen()) continue;
      await until('the stream is cut', () => watch.error !== undefined);
      cut = true;
      break;
    }
    t.ok(cut);
    t.ok(steady.error === undefined);
  });
});

test('listenGate() says what is wrong before it listens', { skip, timeout: 60_000 }, async (t) => {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const options = {
    address: { host: '127.0.0.1', port: 0 },
    clusterName: 'alpha',
    certFile: fixture.server.certificate,
    keyFile: fixture.server.privateKey,
    ownCaFile: fixture.server.ca,
    upstream: { endpoints: [fixture.etcd.endpoint], tls: fixture.etcd.tls },
    signal: new AbortController().signal,
  };
  const missing = fixture.dir.file('missing');
  await t.rejects(listenGate({ ...options, certFile: missing }), {
    code: 'file',
    message: /cannot use .*missing: ENOENT/,
  });
  await t.rejects(listenGate({ ...options, keyFile: fixture.server.ca }), { code: 'file' });
  const other = await issueCertificate(fixture.own, serverLeaf('alpha'));
  await writePrivateFile(fixture.dir.file('other.key'), other.privateKey);
  await t.rejects(listenGate({ ...options, keyFile: fixture.dir.file('other.key') }), {
    code: 'file',
    message: /key values mismatch/,
  });
  await t.rejects(listenGate({ ...options, ownCaFile: fixture.server.certificate }), {
    code: 'file',
    message: /expected certificates of authorities/,
  });
  await writeFile(fixture.dir.file('bad.yaml'), '- commonName: 7\n');
  await t.rejects(listenGate({ ...options, revokedFile: fixture.dir.file('bad.yaml') }), {
    code: 'file',
    message: /bad\.yaml: entry 1/,
  });
  await t.rejects(listenGate({ ...options, address: fixture.gate.address }), {
    code: 'port-taken',
    message: /127\.0\.0\.1:\d+: the port is taken; free it or choose another with --gate-address/,
  });
  await t.rejects(listenGate({ ...options, address: { host: '192.0.2.1', port: 0 } }), {
    code: 'address',
  });
});
