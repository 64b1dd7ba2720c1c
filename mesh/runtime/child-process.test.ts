import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { pathToFileURL } from 'node:url';
import { test } from 'tap';
import { findProgram, startChild } from './child-process.ts';
import { systemClock } from './clock.ts';

const never = new AbortController().signal;

test('startChild() runs a program, tells its lines and how it ended', async (t) => {
  const lines: string[] = [];
  await using child = startChild('sh', ['-c', 'echo out; echo err >&2; exit 3'], {
    signal: never,
    name: 'test',
    onLine: (line) => lines.push(line),
  });
  t.same(await child.exited, { code: 3, signal: null });
  await until(() => lines.length === 2);
  t.same([...child.lastLines].sort(), ['err', 'out']);
  t.same([...lines].sort(), ['err', 'out']);
  t.same(await child.stop(), { code: 3, signal: null }, 'stopping what has ended');
});

test('startChild() keeps the last 20 lines', async (t) => {
  await using child = startChild('sh', ['-c', 'seq 1 100'], { signal: never, name: 'test' });
  await child.exited;
  await until(() => child.lastLines.at(-1) === '100');
  t.equal(child.lastLines.length, 20);
});

test('stop() ends it by SIGTERM, and by SIGKILL when that is ignored, with what it started', async (t) => {
  const polite = startChild('sleep', ['100'], { signal: never, name: 'test' });
  t.same(await polite.stop(), { code: null, signal: 'SIGTERM' });

  const script = 'trap "" TERM; sleep 100 & echo $!; wait; wait';
  const deaf = startChild('sh', ['-c', script], { signal: never, name: 'test', graceMs: 100 });
  await until(() => deaf.lastLines.length === 1);
  const grandchild = Number(deaf.lastLines[0]);
  t.same(await deaf.stop(), { code: null, signal: 'SIGKILL' });
  await until(() => !isRunning(grandchild));
});

test('the signal stops it', async (t) => {
  const stopping = new AbortController();
  const child = startChild('sleep', ['100'], { signal: stopping.signal, name: 'test' });
  stopping.abort();
  t.same(await child.exited, { code: null, signal: 'SIGTERM' });
  t.throws(() => startChild('sleep', ['100'], { signal: stopping.signal, name: 'test' }));
});

test('it dies with its parent, even when that is killed', async (t) => {
  const module = pathToFileURL(new URL('./child-process.js', import.meta.url).pathname).href;
  const script = `
    const { startChild } = await import(${JSON.stringify(module)});
    const child = startChild('sleep', ['100'], { signal: new AbortController().signal, name: 'test' });
    console.log(child.pid);
  `;
  const parent = spawn(process.execPath, ['--input-type=module', '-e', script]);
  t.teardown(() => parent.kill('SIGKILL'));
  const pid = await new Promise<number>((resolve) => {
    parent.stdout.once('data', (chunk: Buffer) => resolve(Number(chunk.toString())));
  });
  await until(async () =>
    (await readFile(`/proc/${pid}/cmdline`, 'utf8')).startsWith('/usr/bin/sleep'),
  );
  parent.kill('SIGKILL');
  await until(() => !isRunning(pid));
  t.pass('it is gone');
});

test('a program that is not there is named', async (t) => {
  const expected = { name: 'ChildError', code: 'not-found' };
  t.throws(() => startChild('no-such-program', [], { signal: never, name: 'test' }), {
    ...expected,
    message: /^cannot start no-such-program: it is not in .*; install it or give its path$/,
  });
  t.throws(() => findProgram('/etc/passwd'), {
    ...expected,
    message: /expected an executable file/,
  });
  t.equal(findProgram('sh'), '/usr/bin/sh');
});

test('a cgroup that is not there ends it with a line that says so', async (t) => {
  await using child = startChild('sleep', ['100'], {
    signal: never,
    name: 'test',
    cgroup: '/sys/fs/cgroup/no-such-group',
  });
  t.not((await child.exited).code, 0);
  await until(() => child.lastLines.some((line) => line.includes('no-such-group')));
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = systemClock.monotonic() + 10_000;
  while (!(await condition())) {
    if (systemClock.monotonic() > deadline) throw new Error('waited 10 s in vain');
    await systemClock.sleep(10);
  }
}
