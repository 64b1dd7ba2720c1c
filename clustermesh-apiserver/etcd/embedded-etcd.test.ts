import { type ChildProcess, spawn } from 'node:child_process';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { fileURLToPath } from 'node:url';
import { type Test, test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from './embedded-etcd.ts';

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;

async function tempDir(t: Test): Promise<TempDir> {
  const dir = await openTempDir('embedded-etcd');
  t.teardown(() => dir[Symbol.asyncDispose]());
  return dir;
}

async function open(t: Test, dataDir: string, port = 0): Promise<EmbeddedEtcd> {
  const etcd = await openEmbeddedEtcd({ dataDir, port, signal });
  t.teardown(() => etcd[Symbol.asyncDispose]());
  return etcd;
}

function pidOf(etcd: EmbeddedEtcd): number {
  return etcd.state.kind === 'running' ? etcd.state.pid : 0;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function until(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!(await isTrue())) {
    if (Date.now() > deadline) throw new Error(`waited 20 s in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function clusterId(etcd: EmbeddedEtcd): Promise<string | undefined> {
  await using store = await openEtcd({ endpoints: [etcd.endpoint], tls: etcd.tls });
  await store.get('any');
  return store.clusterId;
}

test('openEmbeddedEtcd() keeps data over restarts, for the owner alone', { skip }, async (t) => {
  const dir = await tempDir(t);
  const etcd = await open(t, dir.file('data'));
  {
    await using store = await openEtcd({ endpoints: [etcd.endpoint], tls: etcd.tls });
    await store.put('a', 'kept');
    await store.put('big', Buffer.alloc(3 * 1024 * 1024, 'x'));
  }
  const id = await clusterId(etcd);
  for (const folder of ['data', 'data/etcd', 'data/etcd-tls']) {
    t.equal((await stat(dir.file(folder))).mode & 0o777, 0o700, folder);
  }
  for (const file of ['etcd-tls/server.key', 'etcd-owner.json', 'etcd-token']) {
    t.equal((await stat(dir.file('data', file))).mode & 0o777, 0o600, file);
  }
  const pid = pidOf(etcd);
  await etcd[Symbol.asyncDispose]();
  t.notOk(isAlive(pid), 'disposing ends it');
  await etcd[Symbol.asyncDispose]();

  const again = await open(t, dir.file('data'));
  t.equal(await clusterId(again), id, 'it is the same etcd');
  await using store = await openEtcd({ endpoints: [again.endpoint], tls: again.tls });
  t.equal((await store.get('a'))?.value.toString(), 'kept');
});

test('two fresh data directories are two clusters', { skip }, async (t) => {
  const dir = await tempDir(t);
  const [a, b] = await Promise.all([open(t, dir.file('a')), open(t, dir.file('b'))]);
  t.not(await clusterId(a), await clusterId(b));
});

test('nobody else gets in, on any port', { skip }, async (t) => {
  const dir = await tempDir(t);
  const etcd = await open(t, dir.file('a'));
  const other = await open(t, dir.file('b'));
  await using stranger = await openEtcd({
    endpoints: [etcd.endpoint],
    tls: { ...other.tls, ca: etcd.tls.ca },
    callTimeoutMs: 2000,
  });
  await t.rejects(stranger.get('a'));
  const listening = await listeningPorts(pidOf(etcd));
  t.equal(listening.length, 2, 'one for clients, one for peers that never come');
  for (const { address, port } of listening) {
    t.equal(address, '0100007F', `${port} is on loopback`);
    for (const scheme of ['http', 'https']) {
      const answer = fetch(`${scheme}://127.0.0.1:${port}/version`).then((r) => r.status);
      await t.rejects(answer.then((code) => (code === 200 ? code : Promise.reject(code))));
    }
  }
});

test('etcd is started again when it ends unasked', { skip, timeout: 60_000 }, async (t) => {
  const dir = await tempDir(t);
  const etcd = await open(t, dir.file('data'));
  await using store = await openEtcd({ endpoints: [etcd.endpoint], tls: etcd.tls });
  await store.put('a', 'kept');
  const pid = pidOf(etcd);
  process.kill(pid, 'SIGKILL');
  await until('another one runs', () => pidOf(etcd) !== pid && pidOf(etcd) !== 0);
  await until('it answers', async () => {
    const pair = await store.get('a').catch(() => undefined);
    return pair?.value.toString() === 'kept';
  });
});

test('etcd that lost its whole folder begins anew, as another etcd', {
  skip,
  timeout: 60_000,
}, async (t) => {
  const dir = await tempDir(t);
  const etcd = await open(t, dir.file('data'));
  await using store = await openEtcd({ endpoints: [etcd.endpoint], tls: etcd.tls });
  await store.put('a', 'lost');
  const before = await clusterId(etcd);
  const pid = pidOf(etcd);
  await rm(dir.file('data'), { recursive: true });
  process.kill(pid, 'SIGKILL');
  await until('another one answers', async () => {
    const answer = await store.get('a').then(
      (pair) => pair === undefined,
      () => false,
    );
    return answer && pidOf(etcd) !== pid;
  });
  t.not(await clusterId(etcd), before, 'readers can tell that it is another one');
  await store.put('a', 'kept');
  process.kill(pidOf(etcd), 'SIGKILL');
  await until('what it was given since then is kept', async () => {
    const pair = await store.get('a').catch(() => undefined);
    return pair?.value.toString() === 'kept';
  });
  t.equal((await stat(dir.file('data/etcd-owner.json'))).mode & 0o777, 0o600, 'it is claimed');
});

test('what keeps it from starting is said', { skip, timeout: 60_000 }, async (t) => {
  const dir = await tempDir(t);
  const dataDir = dir.file('data');
  const owner = dir.file('data/etcd-owner.json');
  await t.rejects(openEmbeddedEtcd({ binary: 'no-such-etcd', dataDir, signal }), {
    code: 'binary-missing',
    message: /cannot start no-such-etcd: .*apt-get install etcd-server/,
  });
  await t.rejects(stat(owner), { code: 'ENOENT' });

  const listener = createServer();
  const port = await findFreePort();
  await new Promise<void>((resolve) => listener.listen(port, '127.0.0.1', resolve));
  t.teardown(() => listener.close());
  await t.rejects(openEmbeddedEtcd({ dataDir, port, signal }), {
    code: 'port-taken',
    message: `cannot start etcd: port ${port} on 127.0.0.1 is taken; free it or choose another with --etcd-port`,
  });

  await writeFile(dir.file('file'), '');
  await t.rejects(openEmbeddedEtcd({ dataDir: dir.file('file'), signal }), {
    code: 'data-directory',
    message: /cannot use data directory .*file: .*choose another with --data-dir/,
  });

  await open(t, dataDir);
  await t.rejects(openEmbeddedEtcd({ dataDir, signal }), {
    code: 'data-directory-in-use',
    message: new RegExp(`clustermesh-apiserver \\(process ${process.pid}\\) is using it`),
  });
});

test('etcd goes with a supervisor that is killed', { skip, timeout: 60_000 }, async (t) => {
  const dir = await tempDir(t);
  const { child, etcdPid } = await spawnSupervisor(t, dir.file('data'));
  child.kill('SIGKILL');
  await until('etcd is gone', () => !isAlive(etcdPid));
  // What it left behind hinders nobody.
  await open(t, dir.file('data'));
});

test('an etcd that outlived its supervisor is ended', { skip, timeout: 60_000 }, async (t) => {
  const dir = await tempDir(t);
  const { child, etcdPid } = await spawnSupervisor(t, dir.file('data'));
  const owner = JSON.parse(await readFile(dir.file('data/etcd-owner.json'), 'utf8')) as {
    etcd: { pid: number };
  };
  t.equal(owner.etcd.pid, etcdPid);
  child.kill('SIGKILL');
  await until('etcd is gone', () => !isAlive(etcdPid));
  // In its place, something that does not end by itself.
  const orphan = spawn('sleep', ['600'], { stdio: 'ignore' });
  t.teardown(() => orphan.kill('SIGKILL'));
  const startTicks = async (pid: number): Promise<string> => {
    const text = await readFile(`/proc/${pid}/stat`, 'utf8');
    return text.slice(text.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  };
  const orphanName = { pid: orphan.pid, startTicks: await startTicks(orphan.pid ?? 0) };
  const supervisor = { pid: child.pid, startTicks: '1' };
  const file = dir.file('data/etcd-owner.json');
  await writeFile(file, JSON.stringify({ supervisor, etcd: { ...orphanName, startTicks: '1' } }));
  const first = await open(t, dir.file('data'));
  t.equal(orphan.exitCode ?? orphan.signalCode, null, 'a number used again is left alone');
  await first[Symbol.asyncDispose]();
  await writeFile(file, JSON.stringify({ supervisor, etcd: orphanName }));
  const second = await open(t, dir.file('data'));
  await until('it has ended', () => orphan.signalCode === 'SIGTERM');
  await second[Symbol.asyncDispose]();
  await rm(file, { force: true });
  await writeFile(file, '{"supervisor":');
  await open(t, dir.file('data'));
});

/** Ports that a process listens on, as /proc/net/tcp has them. */
async function listeningPorts(pid: number): Promise<{ address: string; port: number }[]> {
  const { readdir, readlink } = await import('node:fs/promises');
  const inodes = new Set<string>();
  for (const fd of await readdir(`/proc/${pid}/fd`)) {
    const link = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => '');
    const inode = /^socket:\[(\d+)\]$/.exec(link)?.[1];
    if (inode !== undefined) inodes.add(inode);
  }
  const lines = (await readFile('/proc/net/tcp', 'utf8')).trim().split('\n').slice(1);
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields[3] === '0A' && inodes.has(fields[9] ?? ''))
    .map((fields) => {
      const [address = '', port = ''] = fields[1]?.split(':') ?? [];
      return { address, port: Number.parseInt(port, 16) };
    });
}

/** Runs a process that opens an etcd and waits. */
async function spawnSupervisor(
  t: Test,
  dataDir: string,
): Promise<{ child: ChildProcess; etcdPid: number }> {
  const module = fileURLToPath(new URL('./embedded-etcd.js', import.meta.url));
  const script = `
    const { openEmbeddedEtcd } = await import(${JSON.stringify(module)});
    const etcd = await openEmbeddedEtcd({
      dataDir: ${JSON.stringify(dataDir)}, signal: new AbortController().signal,
    });
    console.log(etcd.state.pid);
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  let output = '';
  child.stdout?.on('data', (chunk: Buffer) => {
    output += chunk.toString();
  });
  await until('it has started etcd', () => output.includes('\n'));
  return { child, etcdPid: Number(output.trim()) };
}
