import { mkdir } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { watchPeerDirectory } from '../../mesh/remote/directory.ts';
import { publishCluster } from '../../mesh/remote/testing/published-cluster.ts';
import { startPeer } from '../../mesh/remote/testing/started-peer.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createCa, issueCertificate, type KeyPair, type LeafOptions } from '../../pki/ca.ts';
import {
  secretFiles,
  writeCa,
  writePeer,
  writePrivateFile,
  writeSecret,
} from '../../pki/layout.ts';
import { nodeLeaf, remoteLeaf, SECRET_NAMES, serverLeaf } from '../../pki/names.ts';
import { type RotationStep, rotateCa } from '../../pki/rotation.ts';
import { openEmbeddedEtcd } from '../etcd/embedded-etcd.ts';
import { listenGate } from './gate.ts';
import { openRawClient } from './testing/raw-client.ts';

const skip = etcdSkipReason(process.env);
const isLong = process.env.ISTHMUS_LONG === 'true';
/** How long a certificate lives, and how often it is replaced by the next. In the short run none runs out: they are revoked. */
const [LIFE_MS, ROUNDS] = isLong ? [30_000, 20] : [600_000, 3];
/** A reader that goes over to another connection reads everything anew, and keeps meanwhile what it has. */
const WHOLE = ['ready', 'connecting', 'syncing'];
const HOUR_MS = 3_600_000;
/** A machine with other work takes its time. */
const WAIT_MS = 60_000;

/** The gate of cluster beta over a real etcd, and a reader of it in cluster alpha; each cluster has a CA of its own. */
async function openMesh(t: Test) {
  const dir = await openTempDir('rotation');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const [alpha, beta, stranger] = await Promise.all([createCa(), createCa(), createCa()]);
  await writeCa(dir.file('alpha/ca'), alpha);
  await writeCa(dir.file('beta/ca'), beta);
  await mkdir(dir.file('beta/trust'));
  await writePrivateFile(dir.file('beta/trust/alpha.crt'), alpha.root);
  const lasting = await issueCertificate(beta, serverLeaf('beta'));
  const server = await writeSecret(dir.file('beta'), SECRET_NAMES.server, {
    ca: beta.root,
    pair: lasting,
  });
  const revokedFile = dir.file('beta/revoked.yaml');
  await writePrivateFile(revokedFile, '');
  const [stopping, ending] = [new AbortController(), new AbortController()];
  const { signal } = stopping;
  const etcd = await openEmbeddedEtcd({ dataDir: dir.file('data'), signal: ending.signal });
  const gate = await listenGate({
    address: { host: '127.0.0.1', port: 0 },
    clusterName: 'beta',
    certFile: server.certificate,
    keyFile: server.privateKey,
    ownCaFile: server.ca,
    peerTrustDir: dir.file('beta/trust'),
    revokedFile,
    upstream: { endpoints: [etcd.endpoint], tls: etcd.tls },
    signal: ending.signal,
  });
  const peers = dir.file('alpha/peers');
  await writePeer(peers, 'beta', {
    endpoints: [`https://127.0.0.1:${gate.address.port}`],
    ca: beta.root,
    client: await issueCertificate(alpha, remoteLeaf('alpha')),
  });
  const writer = await openEtcd({
    endpoints: [etcd.endpoint],
    tls: { ...etcd.tls, serverName: 'localhost' },
  });
  const published = publishCluster('beta', 2, writer);
  await published.config();
  await published.node('m1', '198.51.100.1');
  await published.marked();

  const { peer, sink } = startPeer(t);
  const problems: string[] = [];
  const following = (async () => {
    const views = watchPeerDirectory(peers, {
      ownName: parseClusterName('alpha'),
      readConnection: connectionReader({ clock: systemClock }),
      onUnreadable: (problem) => problems.push(problem),
      clock: systemClock,
      rescanMs: 200,
      signal,
    });
    for await (const view of views) {
      const file = view.peers.get(parseClusterName('beta'));
      if (file?.connection !== undefined) peer.connectWith(file.connection);
    }
  })();
  await until('the reader is ready', () => peer.status().state.kind === 'ready', WAIT_MS);

  /** Traffic that never pauses, and what a reader must never see while it flows. */
  const faults = new Set<string>();
  let written = 0;
  const writing = (async () => {
    while (!signal.aborted) {
      written += 1;
      await published.node(`w${written % 50}`, `198.51.100.${1 + (written % 250)}`);
      const { kind } = peer.status().state;
      if (!WHOLE.includes(kind)) faults.add(`the reader was ${kind}`);
      await systemClock.sleep(20, signal).catch(() => undefined);
    }
  })();
  t.teardown(async () => {
    stopping.abort();
    await Promise.all([following, writing]);
    await gate[Symbol.asyncDispose]();
    await writer[Symbol.asyncDispose]();
    await etcd[Symbol.asyncDispose]();
    ending.abort();
  });
  let markers = 0;
  /** Resolves when the reader knows what is written from now on. */
  const flows = async (what: string): Promise<void> => {
    markers += 1;
    const name = `marker${markers}`;
    await published.node(name, `198.51.100.${markers}`);
    await until(`news arrive: ${what}`, () => sink.held.has(`node ${name}`), WAIT_MS);
  };
  const check = (message: string): void => {
    t.same([...faults], [], message);
    const taken = sink.log.filter((line) => line.startsWith('-') || line === 'removed');
    t.same(taken, [], `${message}: nothing is taken back`);
  };
  const fingerprints = (): readonly string[] => gate.status.clients.map((one) => one.fingerprint);
  return {
    dir,
    alpha,
    beta,
    stranger,
    server,
    gate,
    peer,
    flows,
    check,
    fingerprints,
    lasting,
    revokedFile,
  };
}

function isRefused(peer: { status(): { notes: readonly { code: string }[] } }): boolean {
  return peer.status().notes.some(({ code }) => code === 'file-refused');
}

test('short-lived certificates are replaced under traffic, bad ones in between: no watch is dropped (promise 18)', {
  skip,
  timeout: isLong ? 900_000 : 180_000,
}, async (t) => {
  const mesh = await openMesh(t);
  const { dir, alpha, beta, stranger, server, gate, peer } = mesh;
  const client = {
    certificate: dir.file('alpha/peers/beta.etcd-client.crt'),
    privateKey: dir.file('alpha/peers/beta.etcd-client.key'),
  };
  const put = async (files: typeof client, pair: KeyPair): Promise<void> => {
    await writePrivateFile(files.privateKey, pair.privateKey);
    await writePrivateFile(files.certificate, pair.certificate);
  };
  const short = (leaf: LeafOptions): LeafOptions => ({ ...leaf, notAfter: Date.now() + LIFE_MS });
  const seen = new Set<string>();
  for (let round = 0; round < ROUNDS; round += 1) {
    const began = systemClock.monotonic();
    if (round === 1) {
      // The key of another, and a certificate by somebody whom beta does not know.
      await writePrivateFile(
        server.privateKey,
        (await issueCertificate(beta, nodeLeaf('x'))).privateKey,
      );
      await put(client, await issueCertificate(stranger, remoteLeaf('alpha')));
      await until(
        'both are told of',
        () => isRefused(peer) && gate.status.warnings.length > 0,
        WAIT_MS,
      );
      await mesh.flows('by the certificates of before');
    }
    await put(server, await issueCertificate(beta, short(serverLeaf('beta'))));
    const before = mesh.fingerprints();
    await put(client, await issueCertificate(alpha, short(remoteLeaf('alpha'))));
    const isNew = (): boolean => mesh.fingerprints().some((one) => !before.includes(one));
    await until(`round ${round}: the new one is in use`, isNew, WAIT_MS);
    await until(
      'the old one is let go',
      () => !isRefused(peer) && mesh.fingerprints().length === 1,
      WAIT_MS,
    );
    for (const fingerprint of mesh.fingerprints()) seen.add(fingerprint);
    await mesh.flows(`round ${round}`);
    const rest = isLong ? LIFE_MS * (2 / 3) - (systemClock.monotonic() - began) : 0;
    await systemClock.sleep(Math.max(0, rest));
  }
  await put(server, mesh.lasting);
  await put(client, await issueCertificate(alpha, remoteLeaf('alpha')));
  await until(
    'the last one is in use',
    () => !mesh.fingerprints().some((one) => seen.has(one)),
    WAIT_MS,
  );
  // Nothing depends on one of those before.
  await writePrivateFile(
    mesh.revokedFile,
    [...seen].map((fingerprint) => `- fingerprint: ${fingerprint}\n`).join(''),
  );
  if (isLong) await systemClock.sleep(LIFE_MS);
  await mesh.flows('after the last short one');
  t.equal(seen.size, ROUNDS);
  mesh.check('throughout');
});

test('the authorities of two clusters are replaced under traffic (promise 10)', {
  skip,
  timeout: 180_000,
}, async (t) => {
  const mesh = await openMesh(t);
  const { dir, alpha, beta, gate } = mesh;
  const clusters = {
    beta: { folder: dir.file('beta/ca'), paths: [dir.file('beta'), dir.file('alpha/peers')] },
    alpha: { folder: dir.file('alpha/ca'), paths: [dir.file('alpha'), dir.file('beta/trust')] },
  };
  const old = openRawClient(`https://127.0.0.1:${gate.address.port}`, {
    ca: beta.root,
    ...(await keyPairOf(beta, nodeLeaf('n1'))),
  });
  t.teardown(() => old[Symbol.dispose]());
  const watch = old.watch({
    key: Buffer.from('cilium/state/'),
    range_end: Buffer.from('cilium/state0'),
  });
  for (const [name, { folder, paths }] of Object.entries(clusters)) {
    const steps: readonly RotationStep[] = ['add', 'switch', 'remove'];
    for (const step of steps) {
      const before = mesh.fingerprints();
      const lines = await rotateCa(folder, step, { paths });
      t.ok(lines.length > 0, `${name}: ${step}`);
      // Whoever renews waits until what he has replaced is in use: so does this.
      if (name === 'alpha' && step === 'switch') {
        const isNew = (): boolean => mesh.fingerprints().some((one) => !before.includes(one));
        await until('the reader shows the new certificate', isNew, WAIT_MS);
      }
      await mesh.flows(`${name}: ${step}`);
      // The reader connects anew whenever its files have changed, and reads everything.
      await until(
        'it has settled',
        () => !isRefused(mesh.peer) && gate.status.warnings.length === 0,
        WAIT_MS,
      );
    }
    if (name === 'beta') {
      await until(
        'who shows a certificate of the old authority is cut',
        () => watch.error !== undefined,
        WAIT_MS,
      );
    }
  }
  mesh.check('throughout');
  t.match(secretFiles(dir.file('beta'), SECRET_NAMES.server), { ca: String });
  t.not(alpha.root, beta.root);
});

async function keyPairOf(
  ca: Parameters<typeof issueCertificate>[0],
  leaf: LeafOptions,
): Promise<{ cert: string; key: string }> {
  const { certificate: cert, privateKey: key } = await issueCertificate(ca, leaf);
  return { cert, key };
}

test('a peer that is cut off is told when its certificate ran out', {
  skip,
  timeout: 180_000,
}, async (t) => {
  const mesh = await openMesh(t);
  const { dir, alpha, gate, peer } = mesh;
  const put = async (pair: KeyPair): Promise<void> => {
    await writePrivateFile(dir.file('alpha/peers/beta.etcd-client.key'), pair.privateKey);
    await writePrivateFile(dir.file('alpha/peers/beta.etcd-client.crt'), pair.certificate);
  };
  const reason = (): string =>
    peer.status().notes.find(({ code }) => code === 'file-refused')?.message ?? '';
  const now = Date.now();
  const cases: readonly [Partial<LeafOptions>, 'expired' | 'not-yet-valid', RegExp][] = [
    [
      { notBefore: now - 2 * HOUR_MS, notAfter: now - HOUR_MS },
      'expired',
      /our certificate expired \(CN=remote-alpha, SHA-256 [0-9a-f]{64}, valid 20/,
    ],
    [
      { notBefore: now + HOUR_MS, notAfter: now + 2 * HOUR_MS },
      'not-yet-valid',
      /our certificate is not yet valid \(CN=remote-alpha, SHA-256 [0-9a-f]{64}, valid 20/,
    ],
  ];
  for (const [times, fault, words] of cases) {
    await put(await issueCertificate(alpha, { ...remoteLeaf('alpha'), ...times }));
    await until(`the reader says that it is ${fault}`, () => words.test(reason()), WAIT_MS);
    const refusal = gate.status.refused[`${fault}-certificate`];
    t.match(refusal?.last, {
      caller: 'remote-alpha',
      what: /certificate (expired|is not yet valid) \(CN=remote-alpha, SHA-256/,
    });
  }
  const foreign = await issueCertificate(mesh.stranger, remoteLeaf('alpha'));
  await put(foreign);
  await until(
    'the reader says who refuses it',
    () =>
      /the server refuses our certificate \(CN=remote-alpha, SHA-256 .*issued by CN=Cilium CA/.test(
        reason(),
      ),
    WAIT_MS,
  );
  t.match(
    gate.status.refused['untrusted-certificate']?.last.what,
    /CN=remote-alpha, SHA-256 .*issued by/,
  );
  mesh.check('meanwhile');
});
