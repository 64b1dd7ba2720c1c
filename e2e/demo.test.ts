import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { test } from 'tap';
import { findCgroupRoot } from '../agent/datapath/cgroup-root.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { labNames, readLabState } from './lab/lab-state.ts';
import { labSkipReason } from './lab/preflight.ts';
import { namespacesOf } from './lab/teardown.ts';

const skip = labSkipReason(process.env);
const DEMO = fileURLToPath(new URL('./demo.js', import.meta.url));
const CLI = fileURLToPath(new URL('../cli/main.js', import.meta.url));
const TOPOLOGY = projectPath('e2e/topologies/two-clusters.yaml');

interface Program {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  output(): string;
  /** Resolves once the output holds the text. */
  said(text: string): Promise<void>;
}

function start(...argv: readonly string[]): Program {
  const child = spawn(process.execPath, [...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const waiting = new Set<() => void>();
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
      for (const look of waiting) look();
    });
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return {
    child,
    ended,
    output: () => output,
    said: (text) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (!output.includes(text)) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
        void ended.then(() => reject(new Error(`it ended without saying ${text}: ${output}`)));
      }),
  };
}

/** Labs that belong to a process. */
async function labsOf(pid: number | undefined): Promise<string[]> {
  const found: string[] = [];
  for (const name of await labNames()) {
    const state = await readLabState(name).catch(() => undefined);
    if (state?.owner.pid === pid) found.push(name);
  }
  return found;
}

test('npm run demo does all it promises, in less than a minute', {
  skip,
  timeout: 180_000,
}, async (t) => {
  const started = performance.now();
  const demo = start(DEMO);
  const code = await demo.ended;
  t.equal(code, 0, demo.output());
  t.match(demo.output(), /20 x web-beta/);
  t.match(demo.output(), /first answer \d+ ms after/);
  t.match(demo.output(), /vm-1 10\.2\.1\.\d+/, 'a pod of beta called the machine');
  t.match(demo.output(), /left the kernel of alpha-1 after [\d.]+ ms, of beta-1 after [\d.]+ ms/);
  t.match(demo.output(), /All of it happened\./);
  t.ok(performance.now() - started < 60_000, `${Math.round(performance.now() - started)} ms`);
  t.same(await labsOf(demo.child.pid), []);
});

for (const moment of ['network namespaces', 'Call a global service']) {
  test(`the demo ended by ctrl-C at "${moment}" leaves nothing`, {
    skip,
    timeout: 120_000,
  }, async (t) => {
    const demo = start(DEMO);
    await demo.said(moment);
    const [name = ''] = await labsOf(demo.child.pid);
    t.not(name, '', 'there is a lab');
    demo.child.kill('SIGINT');
    t.equal(await demo.ended, 130, demo.output());
    t.match(demo.output(), /demo: interrupted/);
    t.notOk((await labNames()).includes(name));
    t.same(namespacesOf(name), []);
    t.notOk((await readdir(findCgroupRoot())).some((entry) => entry === `isthmus-lab-${name}`));
  });
}

test('clustermesh lab up, exec, status, list, down', { skip, timeout: 120_000 }, async (t) => {
  const name = `up${process.pid}`;
  const cli = async (
    ...args: readonly string[]
  ): Promise<{ code: number | null; output: string }> => {
    const program = start(CLI, ...args);
    return { code: await program.ended, output: program.output() };
  };
  t.teardown(() => cli('lab', 'down', '--name', name));
  const up = await cli('lab', 'up', TOPOLOGY, '--name', name);
  t.equal(up.code, 0, up.output);
  t.match(up.output, /10\.101\.0\.10/);
  const call = ['curl', '-sS', '--max-time', '2', 'http://10.101.0.10/'];
  const first = await cli('lab', 'exec', '--name', name, 'client', '--', ...call);
  t.match(first, { code: 0, output: /^web-(alpha|beta) / }, 'the first call is answered');
  const exec = await cli(
    'lab',
    'exec',
    '--name',
    name,
    'web-beta',
    '--',
    'curl',
    '-sS',
    'http://127.0.0.1:8080/',
  );
  t.same(exec, { code: 0, output: 'web-beta 127.0.0.1\n' });
  t.equal((await cli('lab', 'exec', '--name', name, 'client', '--', 'sh', '-c', 'exit 9')).code, 9);
  t.match(await cli('lab', 'exec', '--name', name, 'nobody', 'true'), {
    code: 1,
    output: /lab .* has .*client/,
  });
  t.match(
    (await cli('status', '--lab', name)).output,
    /alpha-1 of cluster alpha.*beta-2 of cluster beta/s,
  );
  t.match(await cli('lab', 'list'), { code: 0, output: new RegExp(`lab ${name} \\(running`) });
  t.match(await cli('lab', 'up', TOPOLOGY, '--name', name), {
    code: 1,
    output: /there is one of that name/,
  });
  t.same(await cli('lab', 'down', '--name', name), { code: 0, output: `${name} is down\n` });
  t.same(namespacesOf(name), []);
  t.notOk(existsSync(`/run/isthmus/lab/${name}`));
});
