import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Command } from 'commander';
import { test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { COMMANDS } from './command-table.ts';
import { programFor, wholeProgram } from './program.ts';
import { createCliContext } from './testing/cli-run.ts';
import { exampleArguments, examplesOf } from './testing/examples.ts';
import { parseProblem } from './testing/parse-only.ts';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** What a call loads of our own code and of packages: every script that ran, as V8 lists them. */
async function loadedBy(...args: readonly string[]): Promise<readonly string[]> {
  await using dir = await openTempDir('coverage');
  await promisify(execFile)(process.execPath, [MAIN, ...args], {
    env: { ...process.env, NODE_V8_COVERAGE: dir.file() },
  });
  const urls: string[] = [];
  for (const file of await readdir(dir.file())) {
    const { result } = JSON.parse(await readFile(dir.file(file), 'utf8'));
    for (const { url } of result) urls.push(url);
  }
  return urls;
}

test('help loads no command, and each command what it stands on alone', async (t) => {
  const heavy = /node_modules\/(@grpc|@kubernetes|koffi|pino|etcd3|prom-client|node-forge)/;
  const help = await loadedBy('--help');
  t.ok(
    help.some((url) => url.endsWith('/cli/command-table.js')),
    'our own code is listed',
  );
  t.same(
    help.filter((url) => heavy.test(url) || url.endsWith('-command.js')),
    [],
  );
  for (const call of [
    ['status', '--help'],
    ['get', '--help'],
    ['describe', 'service', '--help'],
  ]) {
    const found = (await loadedBy(...call)).filter((url) => /@kubernetes|koffi|etcd3/.test(url));
    t.same(found, [], call.join(' '));
  }
  const get = await loadedBy('get', '--help');
  t.same(
    get.filter((url) => heavy.test(url)),
    [],
    'asking an agent needs nothing of that',
  );
  const join = await loadedBy('vm', 'join', '--help');
  t.same(
    join.filter((url) => url.includes('@kubernetes/')),
    [],
    'a machine joins without Kubernetes',
  );
});

test('the table of commands: names once, each with a description, and loaded by its name', async (t) => {
  const names = COMMANDS.map(({ name }) => name);
  t.same(names, [...new Set(names)]);
  for (const { name, description, load } of COMMANDS) {
    t.match(description, /^[a-z].*[^.]$/, name);
    t.equal((await load(createCliContext())).name(), name);
  }
});

test('a call has the others by name and description alone', async (t) => {
  const program = await programFor(['kv', 'dump'], createCliContext());
  const sizes = new Map(
    program.commands.map((command) => [command.name(), command.commands.length]),
  );
  t.equal(sizes.get('kv'), 2);
  t.equal(sizes.get('vm'), 0);
  const asked = await programFor(['help', 'vm'], createCliContext());
  t.not(asked.commands.find((command) => command.name() === 'vm')?.commands.length, 0);
});

test('every command has an example, and each example is one that we would take', async (t) => {
  const program = await wholeProgram(createCliContext());
  const leaves: [string, Command][] = [];
  const collect = (command: Command, path: readonly string[]): void => {
    const visible = command.createHelp().visibleCommands(command);
    const below = visible.filter((sub) => sub.name() !== 'help');
    for (const sub of below) collect(sub, [...path, sub.name()]);
    if (below.length === 0) leaves.push([path.join(' '), command]);
  };
  collect(program, []);
  t.ok(leaves.length > 30, `${leaves.length} commands`);
  for (const [path, command] of leaves) {
    const examples = examplesOf(command);
    t.ok(
      examples.some((example) => example.startsWith(`clustermesh ${path}`)),
      `${path} has an example`,
    );
    for (const example of examples) {
      t.equal(await parseProblem(exampleArguments(example)), undefined, example);
    }
  }
});
