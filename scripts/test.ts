/**
 * `npm test`: runs every compiled test file, some at a time, and prints one line for each file, what failed and why, what was
 * skipped and why, and last the line `N passed, N failed`. Arguments select files by a part of their path.
 *
 * A few files that fail run once more, alone: one that passes then counts as passed and is named as unsteady, with what
 * failed, so that a fault which needs a busy machine is seen and does not hide the rest.
 */
import { createWriteStream, mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { type FileResult, runTestFile } from './test-file.ts';

/** Files that take longest start first, so that the lanes end together. */
const SLOW_FIRST = [
  'dist/e2e/demo.',
  'dist/e2e/scenarios/',
  'dist/e2e/',
  'dist/agent/',
  'dist/clustermesh-apiserver/',
  'dist/mesh/kvstore/',
];

const RAW_OUTPUT = 'dist/test-results/all.tap';
const SECOND_OUTPUT = 'dist/test-results/again.tap';
/** More than these fail for a reason of their own. */
const MOST_FILES_AGAIN = 8;
const DEFAULT_LANES = '2';
/** Failures of a file that are shown as soon as it ends, each up to so many characters. */
const FAILURES_AT_ONCE = 3;
const SHORT_FAILURE = 600;

process.exitCode = await main(process.argv.slice(2));

async function main(selected: readonly string[]): Promise<number> {
  const files = await testFiles(selected);
  if (files.length === 0) {
    console.error(
      `no test file matches ${selected.join(', ')}: give parts of paths, such as mesh/wire`,
    );
    return 2;
  }
  const lanes = Number(process.env.ISTHMUS_TEST_JOBS ?? DEFAULT_LANES);
  if (!Number.isInteger(lanes) || lanes < 1) {
    console.error(`ISTHMUS_TEST_JOBS=${process.env.ISTHMUS_TEST_JOBS}: expected a number from 1`);
    return 2;
  }
  const first = await runFiles(files, { lanes, raw: RAW_OUTPUT });
  const results = await againWhereFailed(first);
  const skips = results.flatMap((result) => result.skips.map((skip) => `${result.name}: ${skip}`));
  for (const skip of skips) console.log(`skipped ${skip}`);
  for (const result of results) {
    for (const failure of result.failures) console.log(`\nfailed ${result.name}: ${failure}`);
  }
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  const failed = results.reduce((sum, result) => sum + result.failed, 0);
  const forbidden = process.env.CI === 'true' ? skips.length : 0;
  if (forbidden > 0) console.log('\nCI may skip nothing: the skipped tests above count as failed');
  console.log(`\nwhole output: ${RAW_OUTPUT}\n${passed} passed, ${failed + forbidden} failed`);
  return failed + forbidden === 0 ? 0 : 1;
}

async function testFiles(selected: readonly string[]): Promise<string[]> {
  const rank = (file: string): number => {
    const index = SLOW_FIRST.findIndex((prefix) => file.startsWith(prefix));
    return index === -1 ? SLOW_FIRST.length : index;
  };
  const entries = await readdir(projectPath('dist'), { recursive: true });
  return entries
    .filter((entry) => entry.endsWith('.test.js'))
    .map((entry) => `dist/${entry}`)
    .filter((file) => selected.length === 0 || selected.some((part) => file.includes(part)))
    .sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

/** Results in which files that failed are replaced by what they did alone. */
async function againWhereFailed(first: readonly FileResult[]): Promise<readonly FileResult[]> {
  const failed = first.filter((result) => result.failed > 0);
  const again = failed.map(({ name }) => name);
  if (again.length === 0 || again.length > MOST_FILES_AGAIN || first.length === again.length) {
    return first;
  }
  console.log(`\nonce more, alone: ${again.join(', ')}`);
  const second = await runFiles(again, { lanes: 1, raw: SECOND_OUTPUT });
  for (const result of second) {
    if (result.failed > 0) continue;
    console.log(`unsteady ${result.name}: it failed beside others and passed alone`);
    const before = failed.find(({ name }) => name === result.name);
    for (const failure of before?.failures ?? []) console.log(`  it was: ${failure}`);
  }
  const kept = first.filter(({ name }) => !again.includes(name));
  return [...kept, ...second];
}

/** A failure's first lines, indented below the line of its file. */
function inShort(failure: string): string {
  return failure.slice(0, SHORT_FAILURE).replaceAll(/^/gm, '       ');
}

/** Runs files in their order, as many at a time as there are lanes. */
async function runFiles(
  files: readonly string[],
  { lanes, raw }: { readonly lanes: number; readonly raw: string },
): Promise<FileResult[]> {
  mkdirSync(projectPath('dist/test-results'), { recursive: true });
  const all = createWriteStream(projectPath(raw));
  const waiting = [...files];
  const results: FileResult[] = [];
  const lane = async (): Promise<void> => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const result = await runTestFile(file);
      results.push(result);
      const { name, seconds, failed } = result;
      all.write(`# ${name}\n${result.output}\n`);
      console.log(`${failed === 0 ? 'ok    ' : 'not ok'} ${name} (${seconds.toFixed(1)} s)`);
      // Whoever reads a log that was cut, or while it grows, sees why.
      for (const failure of result.failures.slice(0, FAILURES_AT_ONCE))
        console.log(inShort(failure));
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, files.length) }, lane));
  all.end();
  return results;
}
