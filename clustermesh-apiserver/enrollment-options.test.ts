import { mkdir, writeFile } from 'node:fs/promises';
import { Writable } from 'node:stream';
import { test } from 'tap';
import { systemClock } from '../mesh/runtime/clock.ts';
import { callUnary } from '../mesh/runtime/grpc-call.ts';
import { anonymousClientCredentials, clientCredentials } from '../mesh/runtime/grpc-client.ts';
import { createLogger } from '../mesh/runtime/log.ts';
import { parseOptions } from '../mesh/runtime/options.ts';
import { etcdSkipReason } from '../mesh/testing/etcd-server.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { parseEnrollmentToken } from '../mesh/wire/enrollment-token.ts';
import { parseClusterId, parseClusterName } from '../mesh/wire/ids.ts';
import { createCa, createEnrollmentCa, issueCertificate } from '../pki/ca.ts';
import { writeEnrollmentCa, writeSecret } from '../pki/layout.ts';
import { adminLeaf, serverLeaf } from '../pki/names.ts';
import { ENROLLMENT_OPTIONS, enrollmentSettings } from './enrollment-options.ts';
import { enrollRequest, makeMachineKeys } from './registry/testing/enrollment-site.ts';
import { type ApiserverOptions, runApiserver } from './run.ts';
import { eventually } from './testing/publishing-rig.ts';

const skip = etcdSkipReason(process.env);
const ANY = { host: '127.0.0.1', port: 0 };
const TLS_NAME = 'alpha.mesh.cilium.io';

test('enrollmentSettings() takes all or nothing', (t) => {
  const read = (...argv: readonly string[]) =>
    enrollmentSettings(parseOptions(ENROLLMENT_OPTIONS, argv, {}));
  const files = ['--enrollment-ca-cert-file=/c', '--enrollment-ca-key-file=/k'];
  t.equal(read(), undefined);
  t.throws(() => read(...files), { message: /need --enrollment-address/ });
  t.throws(() => read('--enrollment-address=:2382'), {
    message: /--enrollment-address needs --enrollment-ca-cert-file.*clustermesh pki enrollment/,
  });
  for (const flag of ['--machine-certificate-ttl', '--node-certificate-ttl']) {
    t.throws(() => read(`${flag}=1s`), { message: /15s to 2160h/ });
  }
  for (const name of ['', ':agent', 'kube-system:', 'Kube:agent', 'a:b:c', 'kube-system/agent']) {
    t.throws(() => read(`--enrollment-service-account=${name}`), { message: /service account/ });
  }
  t.match(read('--enrollment-address=:2382', '--advertise-gate=mesh.example.com:443', ...files), {
    address: { host: '::', port: 2382 },
    caCertFile: '/c',
    caKeyFile: '/k',
    advertiseGate: [{ host: 'mesh.example.com', port: 443 }],
    advertiseRegistry: [],
    certificateTtlMs: 86_400_000,
    nodeCertificateTtlMs: 86_400_000,
    serviceAccount: { namespace: undefined, name: 'clustermesh-agent' },
    tunnelPort: 8472,
  });
  t.end();
});

test('an apiserver lets machines enrol', { skip, timeout: 120_000 }, async (t) => {
  await using dir = await openTempDir('enrolling');
  await mkdir(dir.file('manifests'));
  const ca = await createCa();
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('alpha')),
  });
  const signing = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  const lines: Record<string, unknown>[] = [];
  const destination = new Writable({
    write(chunk, _encoding, done) {
      lines.push(JSON.parse(String(chunk)));
      done();
    },
  });
  const ending = new AbortController();
  const enrollment = {
    address: ANY,
    caCertFile: signing.certificate,
    caKeyFile: signing.privateKey,
    advertiseGate: [],
    advertiseRegistry: [],
    certificateTtlMs: 60_000,
    nodeCertificateTtlMs: 60_000,
    serviceAccount: { namespace: undefined, name: 'clustermesh-agent' },
    tunnelPort: 8472,
  };
  const options: ApiserverOptions = {
    cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
    maxConnectedClusters: 255,
    manifests: dir.file('manifests'),
    files: { certFile: server.certificate, keyFile: server.privateKey, ownCaFile: server.ca },
    etcd: { kind: 'embedded', binary: 'etcd', dataDir: dir.file('data'), port: 0 },
    gateAddress: ANY,
    registryAddress: ANY,
    healthAddress: ANY,
    leaseTtlSeconds: 900,
    heartbeatMs: 60_000,
    identityGraceMs: 900_000,
    nodeSessionGraceMs: 60_000,
    enrollment,
    clock: systemClock,
    logger: createLogger('test', { destination }),
    signal: ending.signal,
  };
  await writeFile(dir.file('junk'), 'junk');
  await t.rejects(
    runApiserver({ ...options, enrollment: { ...enrollment, caKeyFile: dir.file('junk') } }),
    { code: 'file', message: /cannot use .*junk: / },
    'a bad authority is found before anything is started',
  );

  const running = runApiserver(options);
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  running.catch((error: unknown) => t.fail(String(error)));
  const lineOf = (message: string) => lines.find(({ msg }) => msg === message);
  await eventually('machines may enrol', () => lineOf('machines may enrol') !== undefined);
  const portOf = (line: Record<string, unknown> | undefined): number => Number(line?.port);
  const admin = await issueCertificate(ca, adminLeaf('alpha'));
  const material = {
    ca: Buffer.from(ca.root),
    cert: Buffer.from(admin.certificate),
    key: Buffer.from(admin.privateKey),
  };
  const service = 'isthmus.registry.v1';
  const proto = 'mesh/wire/registry.proto';
  const how = { tlsName: TLS_NAME, timeoutMs: 20_000, signal: ending.signal };
  const made = await callUnary(
    { proto, service: `${service}.Admin`, method: 'CreateToken' },
    { names: 'vm1' },
    {
      ...how,
      server: { host: '127.0.0.1', port: portOf(lineOf('the registry is open')) },
      credentials: clientCredentials(material, TLS_NAME),
    },
  );
  const port = portOf(lineOf('machines may enrol'));
  t.match(made, { enrollment_endpoint: `127.0.0.1:${port}` });
  const token = parseEnrollmentToken((made as { token: string }).token);
  if (token === undefined) throw new Error('expected a token');
  const keys = await makeMachineKeys();
  const enrol = (address: string) =>
    callUnary(
      { proto, service: `${service}.Enrollment`, method: 'Enroll' },
      enrollRequest({ token, name: 'vm1', address, keys }),
      {
        ...how,
        server: { host: '127.0.0.1', port },
        credentials: anonymousClientCredentials(ca.root, [TLS_NAME]),
      },
    );
  await t.rejects(enrol('127.0.0.1'), { message: /127\.0\.0\.1/ }, 'loopback is no address');
  await t.rejects(enrol('192.0.2.1'), { message: /came from 127\.0\.0\.1.*NAT/s });
});
