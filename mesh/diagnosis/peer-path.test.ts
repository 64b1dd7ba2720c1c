/** Broken meshes between control planes: real gates, real etcd, real certificates, and the verdict for each. */
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { type Test, test } from 'tap';
import { listenGate } from '../../clustermesh-apiserver/gate/gate.ts';
import { openGateFixture } from '../../clustermesh-apiserver/gate/testing/gate-fixture.ts';
import { type CertificateAuthority, issueCertificate, type LeafOptions } from '../../pki/ca.ts';
import { writeSecret } from '../../pki/layout.ts';
import { remoteLeaf, serverLeaf } from '../../pki/names.ts';
import { openEtcd } from '../kvstore/etcd.ts';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import { etcdSkipReason } from '../testing/etcd-server.ts';
import { findFreePort } from '../testing/free-port.ts';
import type { PeerSight } from '../wire/agent-report.ts';
import { encodeClusterConfig } from '../wire/cluster-config.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { clusterConfigKey, HEARTBEAT_KEY, meshPeerKey, nodeKey } from '../wire/keys.ts';
import { encodePeerReport } from '../wire/peer-report.ts';
import type { Diagnosis } from './diagnosis.ts';
import { diagnosePeer } from './peer-path.ts';
import type { ProblemId } from './problems.ts';

const skip = etcdSkipReason(process.env);
const logger = createLogger('test', { level: 'silent' });
const ALPHA = parseClusterName('alpha');
const BETA = parseClusterName('beta');
const DAY_MS = 24 * 3_600_000;
/** What people are promised, with room for the rest of a test. */
const PROMISED_MS = 15_000;

/** How a mesh is broken, as far as it is not by hand. */
interface Breakage {
  /** Certificate of the server. Default: a good one. */
  readonly server?: { readonly ca?: CertificateAuthority; readonly leaf?: LeafOptions };
  /** Certificate that we show. Default: `remote-beta` of the CA that the server trusts for us. */
  readonly client?: { readonly ca?: CertificateAuthority; readonly leaf?: LeafOptions };
  readonly endpoint?: string;
  /** Name of the file, and so of the cluster that we think is there. Default: alpha. */
  readonly peer?: string;
  readonly own?: { readonly name?: string; readonly id?: number; readonly max?: 255 | 511 };
  readonly sight?: Partial<PeerSight>;
  /** Our clock, ahead of the real one. */
  readonly clockAheadMs?: number;
}

/** Cluster alpha with gate and etcd, and us, cluster beta, which it trusts. */
async function openSite(t: Test) {
  const fixture = await openGateFixture();
  t.teardown(() => fixture[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [fixture.etcd.endpoint], tls: fixture.etcd.tls });
  t.teardown(() => store[Symbol.asyncDispose]());
  const stopping = new AbortController();
  t.teardown(() => stopping.abort());
  const { signal } = stopping;
  let count = 0;

  const publish = async (
    changes: { id?: number; max?: 255 | 511; heartbeatAgoMs?: number } = {},
  ): Promise<void> => {
    const { id = 1, max = 255, heartbeatAgoMs = 0 } = changes;
    const config = encodeClusterConfig({
      id,
      capabilities: {
        syncedCanaries: true,
        cached: false,
        maxConnectedClusters: max,
        serviceExportsEnabled: undefined,
        endpointSlicesExportMode: undefined,
      },
    });
    await store.put(clusterConfigKey(ALPHA), config, { signal });
    const beat = new Date(Date.now() - heartbeatAgoMs).toISOString();
    await store.put(HEARTBEAT_KEY, beat, { signal });
    await store.put(nodeKey(ALPHA, 'n1'), '{}', { signal });
    await store.delete(meshPeerKey(BETA), { signal });
  };
  /** Another gate on the same etcd, with a certificate of its own. */
  const openGate = async (ca: CertificateAuthority, leaf: LeafOptions): Promise<string> => {
    count += 1;
    const pair = await issueCertificate(ca, leaf);
    const files = await writeSecret(fixture.dir.path, `server-${count}`, {
      ca: fixture.own.root,
      pair,
    });
    const gate = await listenGate({
      address: { host: '127.0.0.1', port: 0 },
      clusterName: 'alpha',
      certFile: files.certificate,
      keyFile: files.privateKey,
      ownCaFile: files.ca,
      peerTrustDir: fixture.peerTrustDir,
      upstream: { endpoints: [fixture.etcd.endpoint], tls: fixture.etcd.tls },
      clock: systemClock,
      logger,
      signal,
    });
    t.teardown(() => gate[Symbol.asyncDispose]());
    return `https://127.0.0.1:${gate.address.port}`;
  };
  const diagnose = async (
    broken: Breakage = {},
  ): Promise<Diagnosis & { readonly tookMs: number }> => {
    count += 1;
    const { peer = 'alpha', server, client, own = {}, sight, clockAheadMs = 0 } = broken;
    const endpoint =
      broken.endpoint ??
      (server === undefined
        ? fixture.endpoint
        : await openGate(server.ca ?? fixture.own, server.leaf ?? serverLeaf('alpha')));
    const tls = await fixture.tls(client?.ca ?? fixture.beta, client?.leaf ?? remoteLeaf('beta'));
    const names = { ca: `ca-${count}.pem`, cert: `cert-${count}.pem`, key: `key-${count}.pem` };
    await Promise.all([
      writeFile(fixture.dir.file(names.ca), tls.ca),
      writeFile(fixture.dir.file(names.cert), tls.cert),
      writeFile(fixture.dir.file(names.key), tls.key),
    ]);
    const file = fixture.dir.file(peer);
    const lines = [
      `endpoints: [${endpoint}]`,
      `trusted-ca-file: ${names.ca}`,
      `cert-file: ${names.cert}`,
      `key-file: ${names.key}`,
    ];
    await writeFile(file, `${lines.join('\n')}\n`);
    const began = performance.now();
    const diagnosis = await diagnosePeer({
      peer,
      file,
      from: 'a test',
      own: {
        name: parseClusterName(own.name ?? 'beta'),
        id: parseClusterId(own.id ?? 2, 511),
        max: own.max ?? 255,
      },
      sight: sight === undefined ? undefined : peerSightOf(peer, sight),
      clock: { ...systemClock, now: () => Date.now() + clockAheadMs },
      signal,
    });
    return { ...diagnosis, tookMs: performance.now() - began };
  };
  await publish();
  return { ...fixture, store, publish, diagnose, signal };
}

function peerSightOf(name: string, changes: Partial<PeerSight>): PeerSight {
  return {
    name,
    own: false,
    clusterId: 1,
    state: 'ready',
    since: Date.now(),
    reason: '',
    notes: [],
    counts: {},
    heldBack: {},
    refused: 0,
    ...changes,
  };
}

/** What is named as the cause: the problem of the verdict. */
function named({ verdict }: Diagnosis): string {
  return /\((?<id>[a-z-]+)\)$/.exec(verdict)?.groups?.id ?? verdict;
}

test('a verdict names what keeps a peer from being read', { skip }, async (t) => {
  const site = await openSite(t);
  const { own, stranger } = site;
  const expect = async (t: Test, id: ProblemId, broken: Breakage, words: RegExp): Promise<void> => {
    const found = await site.diagnose(broken);
    t.equal(named(found), id, found.verdict);
    t.match(found.verdict, words);
    t.ok(found.tookMs < PROMISED_MS, `it took ${Math.round(found.tookMs)} ms`);
  };
  const dates = (from: number, to: number): LeafOptions => ({
    ...serverLeaf('alpha'),
    notBefore: Date.now() + from,
    notAfter: Date.now() + to,
  });

  await t.test('a mesh that works', async (t) => {
    const found = await site.diagnose({ sight: {} });
    t.match(found.verdict, /^cluster alpha works as far as was looked/);
    t.same(
      found.steps.map(({ step, outcome }) => `${step} ${outcome}`),
      [
        'config passed',
        'dns passed',
        'tcp passed',
        'tls passed',
        'clock passed',
        'etcd passed',
        'cluster passed',
        'publisher passed',
        'data passed',
        'back skipped',
        'reader passed',
      ],
    );
  });
  await t.test('expired certificate of the server', (t) =>
    expect(
      t,
      'peer-certificate-expired',
      { server: { leaf: dates(-2 * DAY_MS, -DAY_MS) } },
      /its server certificate expired .*the clock here says/,
    ),
  );
  await t.test('its certificate is not yet valid', (t) =>
    expect(
      t,
      'peer-certificate-not-yet-valid',
      { server: { leaf: dates(DAY_MS, 2 * DAY_MS) } },
      /not yet valid/,
    ),
  );
  await t.test('wrong CA', (t) =>
    expect(t, 'peer-wrong-ca', { server: { ca: stranger } }, /CA of a stranger/),
  );
  await t.test('wrong name in its certificate', (t) =>
    expect(
      t,
      'peer-wrong-name',
      {
        server: {
          leaf: { ...serverLeaf('alpha'), dnsNames: ['other.example'], ipAddresses: ['192.0.2.1'] },
        },
      },
      /not for 127\.0\.0\.1 .*other\.example/,
    ),
  );
  await t.test('our certificate has expired', (t) =>
    expect(
      t,
      'own-certificate-expired',
      { client: { leaf: { ...dates(-2 * DAY_MS, -DAY_MS), ...{ commonName: 'remote-beta' } } } },
      /our certificate expired/,
    ),
  );
  await t.test('half connected: it has not been told whom to trust for us', (t) =>
    expect(
      t,
      'own-certificate-refused',
      { client: { ca: stranger } },
      /does not trust that authority/,
    ),
  );
  await t.test('wrong port', async (t) => {
    const endpoint = `https://127.0.0.1:${await findFreePort()}`;
    await expect(t, 'peer-port-closed', { endpoint }, /refuses the connection/);
  });
  await t.test('something else listens', async (t) => {
    const server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.end('SSH-2.0-none\r\n');
    });
    t.teardown(() => server.close());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const address = server.address();
    const port = typeof address === 'object' ? address?.port : undefined;
    await expect(t, 'peer-no-tls', { endpoint: `https://127.0.0.1:${port}` }, /does not speak TLS/);
  });
  await t.test('a name that nobody knows', (t) =>
    expect(
      t,
      'peer-dns',
      { endpoint: 'https://nobody.invalid:2379' },
      /nobody\.invalid .*cannot be resolved/,
    ),
  );
  await t.test('wrong name of the cluster', (t) =>
    expect(t, 'peer-wrong-cluster', { peer: 'gamma' }, /that of cluster alpha, not of gamma/),
  );
  await t.test('it answers as ourselves', (t) =>
    expect(
      t,
      'peer-is-ourselves',
      {
        peer: 'gamma',
        own: { name: 'alpha', id: 1 },
        client: { ca: own, leaf: remoteLeaf('alpha') },
      },
      /leads to our own cluster, alpha/,
    ),
  );
  await t.test('duplicate id', (t) =>
    expect(t, 'peer-same-id', { own: { id: 1 } }, /our own cluster id, 1/),
  );
  await t.test('255 against 511', (t) =>
    expect(
      t,
      'peer-mesh-size',
      { own: { max: 511 } },
      /mesh of 255 clusters, we are of one of 511/,
    ),
  );
  await t.test('its id has changed', (t) =>
    expect(t, 'peer-id-changed', { sight: { clusterId: 9 } }, /id 1, and had 9 before/),
  );
  await t.test('clocks differ by an hour', (t) =>
    expect(t, 'peer-clock', { clockAheadMs: 3_600_000 }, /3[56]\d\d s behind ours/),
  );
  await t.test('clocks differ by more than its certificate is old', (t) =>
    expect(t, 'peer-clock', { clockAheadMs: -10 * 365 * DAY_MS }, /ahead of ours/),
  );
  await t.test('its files are gone', async (t) => {
    const found = await diagnosePeer({
      peer: 'delta',
      file: site.dir.file('delta'),
      from: 'a test',
      own: undefined,
      sight: undefined,
      clock: systemClock,
      signal: site.signal,
    });
    t.equal(named(found), 'own-certificate-missing', found.verdict);
  });
  await t.test('much of what it had is held back', (t) =>
    expect(t, 'peer-mass-delete-held', { sight: { heldBack: { ips: 120 } } }, /lacks 120 ips/),
  );
  await t.test('its etcd was replaced and its own publisher is at it', (t) =>
    expect(
      t,
      'peer-stale',
      {
        sight: {
          state: 'stale',
          reason: 'its etcd is another one than before, and not wholly read yet',
        },
      },
      /another one than before/,
    ),
  );
  await t.test('its apiserver is down, and its etcd is not', async (t) => {
    await site.publish({ heartbeatAgoMs: 600_000 });
    await expect(t, 'peer-publisher-silent', {}, /heartbeat for 6\d\d s/);
    await site.publish();
  });
  await t.test('half connected: it cannot read us', async (t) => {
    const report = {
      state: 'failed',
      since: Date.now(),
      reason: 'certificate is not for beta',
      heartbeatAt: null,
      clockDifferenceMs: null,
    } as const;
    await site.store.put(meshPeerKey(BETA), encodePeerReport(report), { signal: site.signal });
    await expect(t, 'peer-half-connected', {}, /it cannot read us: .*not for beta/);
    await site.publish();
  });
  await t.test('it has never published', async (t) => {
    await site.store.delete(clusterConfigKey(ALPHA), { signal: site.signal });
    await expect(t, 'peer-config-missing', {}, /no cluster configuration/);
    await site.publish();
  });
  await t.test('it publishes no nodes', async (t) => {
    await site.store.delete(nodeKey(ALPHA, 'n1'), { signal: site.signal });
    await expect(t, 'peer-no-nodes', {}, /no nodes/);
    await site.publish();
  });
  await t.test('its etcd hangs', async (t) => {
    const { state } = site.etcd;
    if (state.kind !== 'running') throw new Error('etcd runs');
    process.kill(state.pid, 'SIGSTOP');
    try {
      await expect(t, 'peer-etcd-silent', {}, /alpha/);
    } finally {
      process.kill(state.pid, 'SIGCONT');
    }
  });
});
