import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { type Test, test } from 'tap';
import { systemClock } from '../mesh/runtime/clock.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { parseScrape } from '../mesh/testing/scrape-text.ts';
import { openTempDir, type TempDir } from '../mesh/testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../mesh/testing/test-certificates.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { claimManifests } from './etcd/manifests-claim.ts';
import { type ApiserverOptions, runApiserver } from './run.ts';
import { eventually } from './testing/publishing-rig.ts';

const skip = etcdSkipReason(process.env);
const ANY = { host: '127.0.0.1', port: 0 };

interface Site {
  readonly dir: TempDir;
  readonly server: CertificateFiles;
  readonly other: CertificateFiles;
  options(more?: Partial<ApiserverOptions>): ApiserverOptions;
}

/** Certificates, manifests and a data directory; options of an apiserver that would start. */
async function openSite(t: Test): Promise<Site> {
  const dir = await openTempDir('apiserver');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await mkdir(dir.file('manifests'));
  const authority = await createTestAuthority(dir);
  const server = await authority.issue('server', { names: ['alpha.mesh.cilium.io'] });
  const other = await authority.issue('other');
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  return {
    dir,
    server,
    other,
    options: (more = {}) => ({
      cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
      maxConnectedClusters: 255,
      manifests: dir.file('manifests'),
      files: { certFile: server.certFile, keyFile: server.keyFile, ownCaFile: server.caFile },
      etcd: { kind: 'embedded', binary: 'etcd', dataDir: dir.file('data'), port: 0 },
      gateAddress: ANY,
      registryAddress: ANY,
      healthAddress: ANY,
      leaseTtlSeconds: 900,
      heartbeatMs: 60_000,
      identityGraceMs: 900_000,
      nodeSessionGraceMs: 60_000,
      clock: systemClock,
      logger: createLogger('test', { level: 'silent' }),
      signal: ending.signal,
      ...more,
    }),
  };
}

/** Listens on a port of 127.0.0.1 for the time of a test. */
async function takePort(t: Test): Promise<{ host: string; port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => new Promise((resolve) => server.close(resolve)));
  const address = server.address();
  return {
    host: '127.0.0.1',
    port: typeof address === 'object' && address !== null ? address.port : 0,
  };
}

test('runApiserver() says in one line what keeps it from starting', async (t) => {
  const site = await openSite(t);
  const files = {
    certFile: site.server.certFile,
    keyFile: site.server.keyFile,
    ownCaFile: site.server.caFile,
  };
  await writeFile(site.dir.file('junk'), 'no certificate');
  const junk = site.dir.file('junk');
  const absent = site.dir.file('absent');
  const taken = await takePort(t);
  const cases: readonly [string, Partial<ApiserverOptions>, string, RegExp][] = [
    [
      'manifests missing',
      { manifests: absent },
      'manifests',
      /cannot read the manifests in .*absent: it does not exist; .*--manifests/,
    ],
    ['manifests a file', { manifests: junk }, 'manifests', /it is not a directory/],
    [
      'certificate missing',
      { files: { ...files, certFile: absent } },
      'certificate',
      /absent \(--tls-cert-file\): it does not exist/,
    ],
    [
      'key missing',
      { files: { ...files, keyFile: absent } },
      'certificate',
      /absent \(--tls-key-file\): it does not exist/,
    ],
    [
      'CA missing',
      { files: { ...files, ownCaFile: absent } },
      'certificate',
      /absent \(--trusted-ca-file\): it does not exist/,
    ],
    [
      'certificate a directory',
      { files: { ...files, certFile: site.dir.path } },
      'certificate',
      /it is a directory/,
    ],
    [
      'certificate junk',
      { files: { ...files, certFile: junk } },
      'certificate',
      /not a certificate in PEM form/,
    ],
    [
      'key junk',
      { files: { ...files, keyFile: junk } },
      'certificate',
      /not a private key in PEM form/,
    ],
    [
      'key of another certificate',
      { files: { ...files, keyFile: site.other.keyFile } },
      'certificate',
      /--tls-key-file\): it does not belong to the certificate in/,
    ],
    [
      'health port taken',
      { healthAddress: taken },
      'port-taken',
      /the port is taken; .*--health-address/,
    ],
    [
      'etcd missing',
      {
        etcd: {
          kind: 'embedded',
          binary: '/no/such/etcd',
          dataDir: site.dir.file('data'),
          port: 0,
        },
      },
      'binary-missing',
      /\/no\/such\/etcd.*--etcd-binary/,
    ],
    [
      'endpoint no URL',
      { etcd: { kind: 'external', endpoints: ['nonsense'], tls: undefined } },
      'invalid',
      /nonsense/,
    ],
  ];
  for (const [what, more, code, message] of cases) {
    await t.rejects(runApiserver(site.options(more)), { code, message }, what);
  }
});

test('runApiserver() refuses to be a second one with an etcd of its own', async (t) => {
  const site = await openSite(t);
  await using _claim = await claimManifests(site.dir.file('manifests'), {
    clusterName: 'alpha',
    dataDir: '/another/data',
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
    signal: new AbortController().signal,
  });
  await t.rejects(runApiserver(site.options()), {
    code: 'second-replica',
    message: /data directory \/another\/data\); replicas share one etcd/,
  });
});

test('runApiserver() names the flag of a port that is taken, and leaves no etcd behind', {
  skip,
}, async (t) => {
  const site = await openSite(t);
  const taken = await takePort(t);
  await t.rejects(runApiserver(site.options({ gateAddress: taken })), {
    code: 'port-taken',
    message: /--gate-address/,
  });
  await t.rejects(runApiserver(site.options({ registryAddress: taken })), {
    code: 'port-taken',
    message: /--registry-address/,
  });
  // The data directory is free again: another start goes through.
  const ending = new AbortController();
  const running = runApiserver(
    site.options({ signal: ending.signal, healthAddress: await freePort() }),
  );
  ending.abort();
  await running;
});

test('runApiserver() is ready only when all is published and both doors are open, and ends in order', {
  skip,
}, async (t) => {
  const site = await openSite(t);
  await using server = await openEtcdServer();
  const health = await freePort();
  const ask = async (path: string): Promise<{ status: number; text: string }> => {
    const answer = await fetch(`http://127.0.0.1:${health.port}${path}`);
    return { status: answer.status, text: await answer.text() };
  };
  server.pause();
  const metrics = await freePort();
  const scrape = async () =>
    parseScrape(await (await fetch(`http://127.0.0.1:${metrics.port}/metrics`)).text());
  const ending = new AbortController();
  const running = runApiserver(
    site.options({
      signal: ending.signal,
      healthAddress: health,
      metricsAddress: metrics,
      etcd: { kind: 'external', endpoints: [server.endpoint], tls: undefined },
    }),
  );
  await eventually('health', async () => (await ask('/healthz')).status === 200);
  const red = await ask('/readyz');
  t.equal(red.status, 503);
  t.match(
    red.text,
    /^not ready:\n- not everything is published.*\n- the gate is not open.*\n- the registry is not open/,
  );
  t.equal((await scrape()).value('isthmus_ready'), 0);
  server.resume();
  await eventually('ready', async () => (await ask('/readyz')).status === 200);
  t.match(JSON.parse((await ask('/status')).text), {
    cluster: { name: 'alpha', id: 1 },
    missing: [],
    published: { ready: true },
    problems: [],
    policies: [],
  });
  const scraped = await scrape();
  const prefix = 'cilium_clustermesh_apiserver_';
  const label = { source_cluster: 'alpha' };
  t.equal(scraped.value('isthmus_ready'), 1);
  t.equal(scraped.value('isthmus_publisher_leading'), 1);
  const durations = scraped.samples.filter(({ name }) =>
    name.startsWith(`${prefix}kvstore_operations_duration_seconds`),
  );
  t.ok(durations.length > 0, 'calls to etcd are timed');
  t.ok((scraped.value(`${prefix}bootstrap_seconds`) ?? 0) > 0);
  t.equal(scraped.value(`${prefix}kvstore_sync_queue_size`, label), 0);
  t.ok((scraped.value(`${prefix}kvstore_sync_errors_total`, label) ?? -1) >= 0);
  t.equal(scraped.value(`${prefix}kvstore_initial_sync_completed`, label), 1);
  t.equal(scraped.value('isthmus_published_identities', { state: 'used' }), 0);
  t.equal(scraped.value('isthmus_published_identities', { state: 'free' }), 65_536 - 256);
  t.equal(scraped.value('isthmus_gate_watches', { kind: 'callers' }), 0);
  t.equal(scraped.value('isthmus_gate_sent_bytes_total'), 0);
  const expiry = scraped.value('isthmus_certificate_expiry_timestamp_seconds', { use: 'gate' });
  t.ok((expiry ?? 0) > Date.now() / 1000, 'the certificate in use runs out in the future');
  t.equal((await ask('/nothing')).status, 404);
  t.match(
    await server.etcdctl('get', '--prefix', 'cilium/synced/', '--keys-only'),
    /cilium\/synced\/alpha\/cilium\/state\/ip\/v1/,
  );
  ending.abort();
  await running;
  t.match(
    await server.etcdctl('get', '--prefix', 'cilium/cluster-config/', '--keys-only'),
    /alpha/,
    'keys stay',
  );
  await t.rejects(ask('/healthz'), 'nobody listens any more');
});

async function freePort(): Promise<{ host: string; port: number }> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return {
    host: '127.0.0.1',
    port: typeof address === 'object' && address !== null ? address.port : 0,
  };
}
