import { spawn } from 'node:child_process';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { etcdSkipReason } from '../mesh/testing/etcd-server.ts';
import { findFreePort } from '../mesh/testing/free-port.ts';
import { openTempDir, type TempDir } from '../mesh/testing/temp-dir.ts';
import { type CertificateFiles, createTestAuthority } from '../mesh/testing/test-certificates.ts';
import { openWatchLog } from '../mesh/testing/watch-log.ts';
import { eventually } from './testing/publishing-rig.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const skip = etcdSkipReason(process.env);

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Starts the program; `ended` resolves with what it wrote. */
function start(t: Test, args: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...args], { env: { PATH: process.env.PATH } });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (data: Buffer) => {
    stdout += data.toString();
  });
  child.stderr.on('data', (data: Buffer) => {
    stderr += data.toString();
  });
  const ended = new Promise<Ended>((resolve) => {
    child.once('close', (code) => resolve({ code, stdout, stderr }));
  });
  t.teardown(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  return { child, ended, stderr: () => stderr };
}

interface Site {
  readonly dir: TempDir;
  readonly server: CertificateFiles;
  readonly node: CertificateFiles;
  readonly gatePort: number;
  readonly healthPort: number;
  readonly args: readonly string[];
}

async function openSite(t: Test): Promise<Site> {
  const dir = await openTempDir('main');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await mkdir(dir.file('manifests'));
  const authority = await createTestAuthority(dir);
  const server = await authority.issue('server', { names: ['alpha.mesh.cilium.io'] });
  const node = await authority.issue('node-n1');
  const [gatePort, healthPort] = [await findFreePort(), await findFreePort()];
  return {
    dir,
    server,
    node,
    gatePort,
    healthPort,
    args: [
      '--cluster-name=alpha',
      '--cluster-id=1',
      `--manifests=${dir.file('manifests')}`,
      `--data-dir=${dir.file('data')}`,
      `--tls-cert-file=${server.certFile}`,
      `--tls-key-file=${server.keyFile}`,
      `--trusted-ca-file=${server.caFile}`,
      `--gate-address=127.0.0.1:${gatePort}`,
      '--registry-address=127.0.0.1:0',
      `--health-address=127.0.0.1:${healthPort}`,
    ],
  };
}

test('clustermesh-apiserver ends with a clear line and an exit code', async (t) => {
  const site = await openSite(t);
  const cases: readonly [string, readonly string[], number, RegExp][] = [
    [
      'nothing given',
      [],
      2,
      /^clustermesh-apiserver: --cluster-name is required: give it, or set ISTHMUS_CLUSTER_NAME; [^\n]*\n$/,
    ],
    [
      'id above the mesh',
      [...site.args, '--cluster-id=300'],
      2,
      /^clustermesh-apiserver: --cluster-id: 300 is above --max-connected-clusters=255\n$/,
    ],
    [
      'half of the etcd files',
      [...site.args, '--etcd-endpoints=https://x:1', '--etcd-ca-file=x'],
      2,
      /belong together/,
    ],
    [
      'no manifests',
      [...site.args, '--manifests=/no/such'],
      1,
      /^clustermesh-apiserver: cannot read the manifests in \/no\/such: it does not exist; [^\n]*\n$/,
    ],
    [
      'etcd missing',
      [...site.args, '--etcd-binary=/no/such/etcd'],
      1,
      /^clustermesh-apiserver: [^\n]*\/no\/such\/etcd[^\n]*\n$/,
    ],
  ];
  const results = await Promise.all(
    cases.map(([, args]) => start(t, [...args, '--log-level=silent']).ended),
  );
  for (const [index, [what, , code, line]] of cases.entries()) {
    t.equal(results[index]?.code, code, `${what}: ${results[index]?.stderr}`);
    t.match(results[index]?.stderr, line, what);
  }
  const help = await start(t, ['--help']).ended;
  t.equal(help.code, 0);
  t.match(help.stdout, /--cluster-name <NAME>[\s\S]*--node-session-grace <DURATION>/);
  t.equal(help.stderr, '');
});

const pod = (name: string, ip: string): string => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: demo, labels: {app: web}}
spec: {nodeName: n1}
status: {podIP: ${ip}, hostIP: 192.0.2.1}
`;

test('clustermesh-apiserver publishes through its gate, and takes over what it left after a restart', {
  skip,
}, async (t) => {
  const site = await openSite(t);
  const write = async (name: string, text: string): Promise<void> => {
    await writeFile(site.dir.file(name), text);
    await rename(site.dir.file(name), site.dir.file('manifests', name));
  };
  const ready = () =>
    eventually(
      'readiness',
      async () => (await fetch(`http://127.0.0.1:${site.healthPort}/readyz`)).ok,
    );
  await write('web.yaml', pod('web-0', '10.1.0.5'));
  const first = start(t, site.args);
  await ready();
  await using store = await openReader(site);
  const before = await read(store);
  t.ok(before.has('cilium/state/ip/v1/default/10.1.0.5'));
  await t.rejects(
    store.put('cilium/state/nodes/v1/alpha/x', 'x'),
    { code: 'permission-denied' },
    'the gate passes no write',
  );

  await using log = openWatchLog(store, { prefix: 'cilium/state/' });
  await log.until('the list', ({ of }) => of('synced').length > 0);
  first.child.kill('SIGTERM');
  const ended = await first.ended;
  t.equal(ended.code, 0, ended.stderr);
  t.notMatch(ended.stderr, /Warning|"level":"(error|fatal)"/, 'it ends quietly');

  await write('db.yaml', pod('db-0', '10.1.0.6'));
  const second = start(t, site.args);
  await ready();
  await log.until('the new pod', ({ held }) => held.has('cilium/state/ip/v1/default/10.1.0.6'));
  const after = await read(store);
  for (const [key, value] of before) t.equal(after.get(key), value, key);
  t.same(log.of('delete'), [], 'a reader never saw anything go');
  second.child.kill('SIGINT');
  t.equal((await second.ended).code, 0);
});

async function openReader(site: Site): Promise<KvStore> {
  const { caFile, certFile, keyFile } = site.node;
  return openEtcd({
    endpoints: [`https://localhost:${site.gatePort}`],
    tls: {
      ca: await readFile(caFile),
      cert: await readFile(certFile),
      key: await readFile(keyFile),
    },
  });
}

async function read(store: KvStore): Promise<Map<string, string>> {
  const { pairs } = await store.list('cilium/state/');
  return new Map(pairs.map(({ key, value }) => [key, value.toString('utf8')]));
}
