import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Command, Option } from 'commander';
import { type Test, test } from 'tap';
import { openNodeRig } from '../agent/testing/node-rig.ts';
import { publishAlpha, publishBeta } from '../agent/testing/two-clusters.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { completionScript, SHELLS } from './completion-scripts.ts';
import { completionTree } from './completion-tree.ts';
import { runCli } from './testing/cli-run.ts';

const run = promisify(execFile);
const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));

/** A real bash with our script: what it completes after some words. */
async function openBash(t: Test): Promise<(...words: string[]) => Promise<string[]>> {
  const dir = await openTempDir('completion');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const { stdout: script } = await runCli(['completion', 'bash']);
  await writeFile(dir.file('script.bash'), script);
  await writeFile(dir.file('clustermesh'), `#!/bin/sh\nexec ${process.execPath} ${MAIN} "$@"\n`);
  await chmod(dir.file('clustermesh'), 0o755);
  const program = [
    `source ${dir.file('script.bash')}`,
    // What `complete` was told to call is called as bash does.
    `spec="$(complete -p clustermesh)"; call="\${spec##*-F }"; call="\${call% *}"`,
    'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$call"',
    `printf "%s\\n" "\${COMPREPLY[@]}"`,
  ].join('\n');
  return async (...words) => {
    const { stdout } = await run('bash', ['-c', program, 'bash', 'clustermesh', ...words], {
      env: { ...process.env, PATH: `${dir.file()}:${process.env.PATH}` },
    });
    return stdout.split('\n').filter((line) => line !== '');
  };
}

test('bash completes commands, options and their values', async (t) => {
  const complete = await openBash(t);
  t.match((await complete('')).join(' '), /status .*get describe .*kv vm/);
  t.same(await complete('des'), ['describe']);
  t.match(await complete('vm', 'token', ''), ['create', 'list', 'revoke']);
  t.same(await complete('get', ''), [
    ...['nodes', 'identities', 'endpoints', 'services', 'backends', 'peers'],
  ]);
  t.same(await complete('get', 'nodes', '--out'), ['--output']);
  t.same(await complete('get', 'nodes', '-o', ''), ['table', 'wide', 'json', 'yaml']);
  t.same(await complete('get', 'nodes', '--output', '=', 'j'), ['json']);
  t.same(await complete('get', '--cluster', 'x', 'n'), ['nodes'], 'a value is no command');
  t.same(await complete('vm', 'join', '--token-file', ''), [], 'files are left to bash');
});

test('bash completes names of peers and Services from a running agent', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.ready('beta');
  const complete = await openBash(t);
  const socket = ['--socket-path', rig.socketPath];
  t.same(await complete('drain', ...socket, ''), ['beta']);
  t.same(await complete('describe', 'service', ...socket, ''), ['demo/web']);
  t.same(await complete('get', 'nodes', ...socket, '--cluster', 'a'), ['alpha']);
  t.same(await complete('get', 'services', ...socket, '-n', ''), ['demo']);
  t.same(await complete('drain', '--socket-path', '/nowhere', ''), [], 'no agent, no noise');
});

test('scripts for zsh and fish: what they say of a small program', async (t) => {
  const program = new Command('clustermesh').description('all');
  program
    .command('get')
    .description("list: what's known")
    .argument('<kind>')
    .addOption(new Option('-o, --output <format>', 'how (or not)').choices(['table', 'json']))
    .option('--lab <name>', 'which')
    .option('--wide', 'more');
  program.command('drain').description('take out').argument('<peer>', 'whom');
  const nodes = completionTree(program);
  t.matchOnly(
    nodes.map(({ path }) => path.join(' ')),
    ['', 'get', 'drain'],
  );
  const fish = completionScript('fish', nodes).split('complete -c clustermesh -f\n')[1];
  t.equal(
    fish,
    [
      "complete -c clustermesh -n '__clustermesh_at' -a get -d 'list'",
      "complete -c clustermesh -n '__clustermesh_at' -a drain -d 'take out'",
      "complete -c clustermesh -n '__clustermesh_at' -a help -d 'display help for command'",
      "complete -c clustermesh -n '__clustermesh_in get' -s o -l output -x -a 'table json' -d 'how'",
      "complete -c clustermesh -n '__clustermesh_in get' -l lab -x -a '(clustermesh completion names labs 2>/dev/null)' -d 'which'",
      "complete -c clustermesh -n '__clustermesh_in get' -l wide -d 'more'",
      "complete -c clustermesh -n '__clustermesh_in get' -s h -l help -d 'display help for command'",
      "complete -c clustermesh -n '__clustermesh_at get' -F",
      "complete -c clustermesh -n '__clustermesh_in drain' -s h -l help -d 'display help for command'",
      "complete -c clustermesh -n '__clustermesh_at drain' -a '(clustermesh completion names peers 2>/dev/null)'",
      '',
    ].join('\n'),
  );
  const zsh = completionScript('zsh', nodes);
  t.match(zsh, /^#compdef clustermesh\n/);
  t.match(zsh, "    ' get -o'|' get --output') printf '%s\\t%s\\n' 'table' '' 'json' '' ;;");
  t.match(zsh, "    ' drain 0') printf '%s\\t%s\\n' '@peers' '' ;;");
  t.match(zsh, "'get' 'list' 'drain' 'take out'");
});

test('scripts are read by the shells that are here without complaint', async (t) => {
  await using dir = await openTempDir('shells');
  for (const shell of SHELLS) {
    const binary = `/usr/bin/${shell}`;
    const { stdout } = await runCli(['completion', shell]);
    t.match(stdout, /^(#compdef clustermesh\n)?# Completion of clustermesh for /, shell);
    if (!existsSync(binary)) continue;
    await writeFile(dir.file(shell), stdout);
    t.same(await run(binary, ['-n', dir.file(shell)]), { stdout: '', stderr: '' }, shell);
  }
});
