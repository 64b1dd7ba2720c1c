import { execFile, spawn } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { parse } from 'yaml';
import { openTempDir } from '../mesh/testing/temp-dir.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

interface CliRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function clustermesh(...args: readonly string[]): Promise<CliRun> {
  return new Promise((resolve) => {
    execFile(process.execPath, [MAIN, ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

test('clustermesh: exit codes', async (t) => {
  const cases: [readonly string[], number, RegExp][] = [
    [['--help'], 0, /status.*lab.*policy.*pki.*4 a verdict would change, 124 timeout/s],
    [['lab', '--help'], 0, /up .*list.*exec.*down/s],
    [['nonsense'], 2, /unknown command 'nonsense'/],
    [['pki', 'issue', 'king', 'a', '--ca', 'x', '--out', 'x'], 2, /Allowed choices are server/],
    [['pki', 'init'], 2, /--out/],
    [['pki', 'init', '--out', 'x', '--validity-days', '1.5'], 2, /expected a number of days/],
    [['lab', 'up', '/nowhere.yaml'], 2, /^clustermesh: cannot read \/nowhere\.yaml: /],
    [['lab', 'down', '--name', 'never'], 1, /cannot find lab never/],
    [['lab', 'exec', '--name', 'never', 'pod', 'true'], 1, /cannot find lab never/],
    [['status', '--socket-path', '/nowhere.sock'], 3, /cannot reach the agent on \/nowhere\.sock/],
    [['status', '--socket-path', '/x', '--lab', 'y'], 2, /not both/],
    [['drain', 'beta', '--socket-path', '/nowhere.sock'], 3, /cannot reach the agent on \/nowhere/],
    [['undrain', 'beta', '--socket-path', '/x', '--lab', 'y'], 2, /not both/],
    [['drain'], 2, /missing required argument 'peer'/],
    [
      ['policy', 'list', '--socket-path', '/nowhere.sock'],
      3,
      /cannot reach the agent on \/nowhere/,
    ],
  ];
  for (const [args, code, text] of cases) {
    const run = await clustermesh(...args);
    t.equal(run.code, code, args.join(' '));
    t.match(run.stdout + run.stderr, text, args.join(' '));
  }
});

test('clustermesh: a reader that has seen enough is no failure', async (t) => {
  const child = spawn(process.execPath, [MAIN, '--help'], { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let said = '';
  child.stderr.on('data', (text) => {
    said += String(text);
  });
  const [code] = await once(child, 'close');
  t.equal(said, '');
  t.equal(code, 0);
});

test('clustermesh pki: authority, certificates and the directory of peers', async (t) => {
  await using dir = await openTempDir('cli');
  t.equal(
    (await clustermesh('pki', 'init', '--out', dir.file('ca'), '--common-name', 'Mine')).code,
    0,
  );
  const ca = await readFile(dir.file('ca', 'ca.crt'));
  const again = await clustermesh('pki', 'init', '--out', dir.file('ca'));
  t.equal(again.code, 1);
  t.match(again.stderr, /ca\.crt is there already/);
  t.same(await readFile(dir.file('ca', 'ca.crt')), ca, 'the first authority stays');

  const issue = (...args: readonly string[]) =>
    clustermesh('pki', 'issue', ...args, '--ca', dir.file('ca'), '--out', dir.file('certs'));
  const names = new Map([
    ['server', 'clustermesh-apiserver.cilium.io'],
    ['admin', 'admin-alpha'],
    ['remote', 'remote-alpha'],
    ['local', 'local-alpha'],
    ['node', 'node-alpha'],
    ['machine', 'machine-alpha'],
  ]);
  for (const [kind, commonName] of names) {
    const run = await issue(kind, 'alpha', ...(kind === 'server' ? ['--ip', '192.0.2.7'] : []));
    t.equal(run.code, 0, run.stderr);
    const [path = ''] = run.stdout.split(': ');
    const certificate = new X509Certificate(await readFile(path));
    t.equal(certificate.subject, `CN=${commonName}`);
    t.ok(certificate.verify(new X509Certificate(ca).publicKey), kind);
    t.equal((await stat(path.replace(/crt$/, 'key'))).mode & 0o777, 0o600);
    if (kind === 'server') t.ok(certificate.checkIP('192.0.2.7'));
  }

  const secret = dir.file('certs', 'clustermesh-apiserver-remote-cert');
  const peer = await clustermesh(
    ...['pki', 'peer', 'beta', '--out', dir.file('peers')],
    ...['--endpoint', 'https://beta.mesh.cilium.io:2379', '--peer-ca', dir.file('ca', 'ca.crt')],
    ...['--cert', `${secret}/tls.crt`, '--key', `${secret}/tls.key`],
    ...[
      '--host-alias',
      'beta.mesh.cilium.io=192.0.2.1',
      '--host-alias',
      'beta.mesh.cilium.io=fd00::1',
    ],
  );
  t.equal(peer.code, 0, peer.stderr);
  t.same(parse(await readFile(dir.file('peers', 'beta'), 'utf8')), {
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    'trusted-ca-file': dir.file('peers', 'beta.etcd-client-ca.crt'),
    'key-file': dir.file('peers', 'beta.etcd-client.key'),
    'cert-file': dir.file('peers', 'beta.etcd-client.crt'),
    'cilium-host-aliases': [{ hostname: 'beta.mesh.cilium.io', ips: ['192.0.2.1', 'fd00::1'] }],
  });
});
