import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { t as file, test } from 'tap';
import { openGateFixture } from '../clustermesh-apiserver/gate/testing/gate-fixture.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { etcdSkipReason, openEtcdServer } from '../mesh/testing/etcd-server.ts';
import { writePeer } from '../pki/layout.ts';
import { remoteLeaf } from '../pki/names.ts';
import { kvCommand } from './kv-command.ts';
import { createPipeWriter } from './pipe-writer.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const golden = ['cilium-kv', 'cilium-random']
  .map((name) => readFileSync(projectPath(`mesh/wire/testdata/${name}.jsonl`), 'utf8'))
  .join('');
const noEtcd = etcdSkipReason(process.env);
file.setTimeout(300_000);

interface CliRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program. */
function run(args: readonly string[], input = ''): Promise<CliRun> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [MAIN, 'kv', ...args],
      { maxBuffer: 64 * 1024 * 1024 },
      (error, stdout, stderr) => {
        resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
      },
    );
    // It may end without having read all.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  });
}

/** Runs the command in this process; `failed` is what it throws. */
async function kv(
  args: readonly string[],
  input = '',
): Promise<{ stdout: string; stderr: string; isProblem: boolean; failed: unknown }> {
  let stdout = '';
  let stderr = '';
  let isProblem = false;
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      stdout += chunk;
      done();
    },
  });
  const say = (text: string): void => {
    stderr += text;
  };
  const command = kvCommand({
    input: Readable.from([Buffer.from(input)]),
    output: () => createPipeWriter(sink),
    say,
    setProblem: () => {
      isProblem = true;
    },
    signal: new AbortController().signal,
  });
  for (const each of [command, ...command.commands]) {
    each.exitOverride().configureOutput({ writeErr: say, writeOut: say });
  }
  let failed: unknown;
  await command.parseAsync(args, { from: 'user' }).catch((error) => {
    failed = error;
  });
  return { stdout, stderr, isProblem, failed };
}

function parse(text: string): { key: string; value: string; encoding?: string; valid?: boolean }[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

test('clustermesh kv decode: a filter with an exit code', async (t) => {
  const [good, small, broken, wrong, nothing] = await Promise.all([
    run(['decode'], golden),
    run(['decode', '--max-clusters', '255'], golden),
    run(['decode'], `${golden}nonsense\n`),
    run(['decode', '--max-clusters', '300'], golden),
    run(['decode']),
  ]);
  t.strictSame([good.code, good.stderr], [0, '']);
  t.same(
    parse(good.stdout).map(({ key, value }) => [key, value]),
    parse(golden).map(({ key, value }) => [key, value]),
  );
  t.equal(small.code, 1);
  t.ok(parse(small.stdout).some(({ valid }) => valid === false));
  t.equal(broken.code, 1);
  t.match(broken.stdout.split('\n').at(-2), /cannot read line 413: not JSON/);
  t.equal(wrong.code, 2);
  t.equal(nothing.code, 0, 'nothing is not wrong');
});

test('clustermesh kv decode: a reader that has seen enough ends it without a word', async (t) => {
  const child = spawn(process.execPath, [MAIN, 'kv', 'decode']);
  let said = '';
  child.stderr.on('data', (chunk) => {
    said += chunk;
  });
  // The pipe closes under our hands as well.
  child.stdin.on('error', () => undefined);
  child.stdout.once('data', () => child.stdout.destroy());
  let ended = false;
  const exit = once(child, 'exit').then((args) => {
    ended = true;
    return args;
  });
  while (!ended) {
    if (!child.stdin.write(golden)) {
      await Promise.race([once(child.stdin, 'drain'), exit]).catch(() => undefined);
    }
  }
  t.strictSame(await exit, [0, null]);
  t.equal(said, '');
});

if (process.env.ISTHMUS_LONG === 'true') {
  file.setTimeout(3_000_000);
  test('clustermesh kv decode: a million lines in bounded memory', {
    timeout: 3_000_000,
  }, async (t) => {
    const child = spawn(process.execPath, [MAIN, 'kv', 'decode']);
    let lines = 0;
    child.stdout.on('data', (chunk: Buffer) => {
      for (const byte of chunk) if (byte === 0x0a) lines += 1;
    });
    const exit = once(child, 'exit');
    const rounds = Math.ceil(1_000_000 / parse(golden).length);
    let peakKib = 0;
    for (let round = 0; round < rounds; round += 1) {
      if (!child.stdin.write(golden)) await once(child.stdin, 'drain');
      if (round % 100 !== 99) continue;
      const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      peakKib = Number(/VmHWM:\s+(\d+)/.exec(status)?.[1]);
    }
    child.stdin.end();
    t.strictSame(await exit, [0, null]);
    t.ok(lines >= 1_000_000, `${lines} lines`);
    t.ok(peakKib > 0 && peakKib < 300 * 1024, `${peakKib} KiB at most`);
    t.comment(`${peakKib} KiB`);
  });
}

test('clustermesh kv dump: what it prints can be decoded', { skip: noEtcd }, async (t) => {
  await using etcd = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [etcd.endpoint] });
  const values = new Map<string, Buffer>();
  for (const { key, value, encoding } of parse(golden)) {
    values.set(key, Buffer.from(value, encoding === 'base64' ? 'base64' : 'utf8'));
  }
  values.set('isthmus/registry/token', Buffer.from('secret'));
  values.set('isthmus/mesh/stamp', Buffer.from('{"schema":1,"at":1}'));
  for (const [key, value] of values) await store.put(key, value);

  const all = await kv(['dump', '--endpoints', etcd.endpoint]);
  t.strictSame([all.failed, all.stderr], [undefined, '']);
  const dumped = parse(all.stdout);
  t.equal(dumped.length, values.size - 1, 'all but the registry');
  for (const { key, value, encoding } of dumped) {
    const bytes = Buffer.from(value, encoding === 'base64' ? 'base64' : 'utf8');
    if (values.get(key)?.equals(bytes) !== true) t.fail(`${key} is another value`);
  }
  const decoded = await kv(['decode'], all.stdout);
  t.equal(decoded.isProblem, false);
  t.equal(parse(decoded.stdout).length, dumped.length);

  const nodes = await kv([
    'dump',
    '--endpoints',
    etcd.endpoint,
    '--prefix',
    'cilium/state/nodes/v1/alpha',
  ]);
  t.strictSame(
    parse(nodes.stdout).map(({ key }) => key.split('/').at(-1)),
    ['dual-stack.example', 'v4-only', 'v6-only'],
  );
  const two = ['--prefix', 'cilium/.heartbeat', '--prefix', 'cilium/cluster-config/'];
  const table = await kv(['dump', '--endpoints', etcd.endpoint, ...two, '-o', 'table']);
  t.match(table.stdout, /cilium\/\.heartbeat .*heartbeat .*:\d\dZ/);
  t.match(table.stdout, /cilium\/cluster-config\/omega .*cluster-config .*omega .*{"id":300/);
  const small = await kv([
    'dump',
    '--endpoints',
    etcd.endpoint,
    ...two,
    '-o',
    'table',
    '--max-clusters',
    '255',
  ]);
  t.match(small.stdout, /field id is 300, expected 1 to 255/);
  await etcd.stop();
  const gone = await kv(['dump', '--endpoints', etcd.endpoint, '--timeout', '1']);
  t.match(gone.failed, { code: 'unreachable', message: /^cannot / });
});

test('clustermesh kv dump: a peer lets us read what is for us', { skip: noEtcd }, async (t) => {
  await using fixture = await openGateFixture();
  await using store = await openEtcd({ endpoints: [fixture.etcd.endpoint], tls: fixture.etcd.tls });
  for (const key of [
    'cilium/.heartbeat',
    'cilium/cluster-config/alpha',
    'cilium/cluster-config/beta',
    'cilium/synced/alpha/cilium/state/nodes/v1',
    'cilium/state/nodes/v1/alpha/n1',
    'isthmus/mesh/stamp',
    'isthmus/local/services/demo/web',
  ]) {
    await store.put(key, 'x');
  }
  const tls = await fixture.tls(fixture.beta, remoteLeaf('beta'));
  await writePeer(fixture.dir.file('config'), 'alpha', {
    endpoints: [fixture.endpoint],
    ca: tls.ca.toString(),
    client: { certificate: tls.cert.toString(), privateKey: tls.key.toString() },
  });
  const file = fixture.dir.file('config', 'alpha');
  const peer = await kv(['dump', '--config', file]);
  t.equal(peer.failed, undefined, peer.stderr);
  t.strictSame(
    parse(peer.stdout).map(({ key }) => key),
    [
      'cilium/.heartbeat',
      'cilium/cluster-config/alpha',
      'cilium/synced/alpha/cilium/state/nodes/v1',
      'cilium/state/nodes/v1/alpha/n1',
      'isthmus/mesh/stamp',
    ],
  );
  t.match(peer.stderr, /cannot read cilium\/cache\/: permission denied/);
  t.match(peer.stderr, /cannot read isthmus\/local\/services\/: permission denied/);
  const pem = (name: string) => fixture.dir.file('config', `alpha.etcd-client${name}`);
  const flags = ['--ca', pem('-ca.crt'), '--cert', pem('.crt'), '--key', pem('.key')];
  const byFlags = await kv([
    'dump',
    '--endpoints',
    fixture.endpoint,
    ...flags,
    '--cluster',
    'alpha',
  ]);
  t.equal(byFlags.stdout, peer.stdout);
  const denied = await kv(['dump', '--config', file, '--prefix', 'isthmus/registry/']);
  t.match(denied.failed, { code: 'problem', message: /nothing of this may be read/ });
});

test('clustermesh kv dump: wrong calls', async (t) => {
  const plain = ['--endpoints', 'http://127.0.0.1:1'];
  const secure = ['--endpoints', 'https://127.0.0.1:1'];
  const commander = 'commander.invalidArgument';
  for (const [args, code, message] of [
    [[], 'usage', /give --config, or --endpoints/],
    [['--config', 'x', ...plain], 'usage', /give --config, or --endpoints/],
    [['--config', '/nowhere/alpha'], 'unreadable', /cannot .*\/nowhere\/alpha/],
    [['--config', 'x', '--ca', 'y'], 'usage', /leave out --ca/],
    [secure, 'usage', /need --ca, --cert and --key/],
    [[...secure, '--ca', '/no', '--cert', '/no', '--key', '/no'], 'usage', /cannot read \/no/],
    [[...plain, '--cluster', 'A'], 'usage', /--cluster: cannot parse cluster name/],
    [[...plain, '-o', 'xml'], commander, /Allowed choices are jsonl, table/],
    [[...plain, '--timeout', '0'], commander, /expected 1 to 9999 seconds/],
    [[...plain, '--timeout', '1'], 'unreachable', /cannot/],
  ] as const) {
    const { failed, stdout } = await kv(['dump', ...args]);
    t.match(failed, { code, message }, args.join(' '));
    t.equal(stdout, '');
  }
  const [unreachable, usage] = await Promise.all([
    run(['dump', ...plain, '--timeout', '1']),
    run(['dump']),
  ]);
  t.strictSame([unreachable.code, usage.code], [3, 2]);
  t.match(unreachable.stderr, /^clustermesh: cannot /);
});
