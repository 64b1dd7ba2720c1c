import { mkdirSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { runSharedFiles, runTestFile } from './test-file.ts';

const FOLDER = `dist/test-results/files-${process.pid}`;

/** Writes test files below the project, where they find their packages. Resolves to their paths. */
async function write(t: Test, bodies: readonly string[]): Promise<string[]> {
  mkdirSync(projectPath(FOLDER), { recursive: true });
  t.teardown(() => rm(projectPath(FOLDER), { recursive: true, force: true }));
  return Promise.all(
    bodies.map(async (body, index) => {
      const name = `${FOLDER}/file-${index}.js`;
      await writeFile(projectPath(name), `import { test } from 'tap';\n${body}\n`);
      return name;
    }),
  );
}

const PASSES = "test('one', async (t) => t.ok(true)); test('two', async (t) => t.ok(true));";
const FAILS = "test('wrong', async (t) => t.equal(1, 2, 'numbers are equal'));";
const SKIPS = "test('left out', { skip: 'no kernel' }, async () => {});";
const CRASHES = "test('dies', async () => process.kill(process.pid, 'SIGKILL'));";
const THROWS = "throw new Error('no way');";

test('files that share a process are counted each for itself', async (t) => {
  const [passes = '', none = '', skips = ''] = await write(t, [PASSES, '', SKIPS]);
  const shared = await runSharedFiles([passes, none, skips]);
  t.equal(shared.kind, 'passed');
  t.match(shared.kind === 'passed' ? shared.results : shared.failures, [
    { name: passes, passed: 2, failed: 0, skips: [] },
    { name: none, passed: 0, failed: 0, skips: [] },
    { name: skips, passed: 0, failed: 0, skips: ['left out: no kernel'] },
  ]);
});

test('whatever one of them does fails all, so that each is run alone', async (t) => {
  for (const [what, body, said] of [
    ['a failure', FAILS, /^wrong > numbers are equal/],
    ['the end of the process', CRASHES, /^it ended with SIGKILL after 2 tests/],
    ['an error while it is loaded', THROWS, /./],
  ] as const) {
    const files = await write(t, [PASSES, body, PASSES]);
    const shared = await runSharedFiles(files);
    if (shared.kind === 'passed') t.fail(`${what} was not seen`);
    else t.match(shared.failures[0], said, what);
  }
});

test('a file alone is blamed for what it did', async (t) => {
  const [passes = '', fails = '', crashes = ''] = await write(t, [PASSES, FAILS, CRASHES]);
  t.match(await runTestFile(passes), { name: passes, passed: 2, failed: 0, failures: [] });
  t.match(await runTestFile(fails), { name: fails, passed: 0, failed: 1 });
  t.match(await runTestFile(crashes), { failed: 1, failures: [/^it ended with SIGKILL/] });
});
