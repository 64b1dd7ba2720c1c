/** docs/quick-start.md, as a new user types it. Its first step, the installation, is what made the build that this runs on. */
import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { labSkipReason } from '../lab/preflight.ts';
import { tearDownLab } from '../lab/teardown.ts';
import { consoleSteps, missingShape } from './console-blocks.ts';

const COMMAND_MS = 240_000;

const skip = labSkipReason(process.env);

interface Ran {
  readonly code: number;
  readonly lines: readonly string[];
}

/**
 * What `npx clustermesh` finds in the project, without the second and more of a core that npx takes to find it: the first
 * command runs by npx itself.
 */
const FOUND = 'npx() { shift; node dist/cli/main.js "$@"; }; ';

/** Runs a line in a shell in the project, as a terminal shows it: what it says on both outputs. */
function type(command: string): Promise<Ran> {
  const options = { cwd: projectPath('.'), timeout: COMMAND_MS };
  return new Promise((resolve) => {
    execFile('bash', ['-c', `exec 2>&1; ${command}`], options, (error, stdout) => {
      // What npm says of its own settings is no part of it.
      const lines = stdout.split('\n').filter((line) => !line.startsWith('npm '));
      resolve({ code: error === null ? 0 : Number(error.code), lines });
    });
  });
}

test('every command of the quick start does what it says', {
  skip,
  timeout: 600_000,
}, async (t) => {
  const text = await readFile(projectPath('docs/quick-start.md'), 'utf8');
  const name = `q${Math.random().toString(36).slice(2, 8)}`;
  // A lab of the same name may be somebody's.
  const rename = (line: string): string => line.replaceAll(/\btour\b/g, name);
  t.teardown(() => tearDownLab(name));
  const steps = consoleSteps(text);
  t.ok(steps.length >= 12, `${steps.length} commands`);
  t.match(steps[0]?.command, /^npx clustermesh /);
  for (const [index, { command, output }] of steps.entries()) {
    if (command.includes('npx ')) t.match(command, /npx clustermesh /);
    const { code, lines } = await type((index === 0 ? '' : FOUND) + rename(command));
    const said = lines.join('\n');
    const isRefusal = command.includes('policy trace');
    t.equal(code, isRefusal ? 1 : 0, `${command}\n${said}`);
    t.equal(missingShape(output.map(rename), lines), undefined, `${command}\n${said}`);
  }
});

test('missingShape(): numbers and blanks may differ, lines may not', async (t) => {
  const expected = ['pod  10.1.1.2', '…', 'ready, since 03:31'];
  t.equal(missingShape(expected, ['pod 10.22.1.2', 'x', 'y', 'ready, since 4:1']), undefined);
  t.equal(missingShape(expected, ['pod 10.22.1.2', 'ready, since 4:1']), undefined);
  t.equal(missingShape(['a', 'b'], ['a', 'c']), 'b');
  t.equal(missingShape(['a', 'b'], ['a', 'x', 'b']), 'b', 'nothing may stand between');
  t.equal(missingShape(['a'], ['a', 'b']), 'nothing more, but there is: b');
  t.equal(missingShape(['a', '…'], ['a', 'b']), undefined);
});
