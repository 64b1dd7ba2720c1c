/**
 * `npm test`: runs every compiled test file, some at a time and short ones together, and prints one line for each file, what
 * failed and why, what was skipped and why, and last the line `N passed, N failed`. Arguments select files by a part of their path.
 *
 * A few files that fail run once more, alone: one that passes then counts as passed and is named as unsteady, with what
 * failed, so that a fault which needs a busy machine is seen and does not hide the rest.
 */
import { createWriteStream, mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { type FileResult, runSharedFiles, runTestFile } from './test-file.ts';
import { runInLanes } from './test-lanes.ts';
import { isUnexpectedlySlow, planJobs, type TestJob } from './test-plan.ts';

const RAW_OUTPUT = 'dist/test-results/all.tap';
const SECOND_OUTPUT = 'dist/test-results/again.tap';
/** More than these fail for a reason of their own. */
const MOST_FILES_AGAIN = 8;
const DEFAULT_LANES = 2;
/** So many jobs at most run at a time while processors idle, unless ISTHMUS_TEST_JOBS says how many always do. */
const MOST_LANES = 4;
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
  const given = process.env.ISTHMUS_TEST_JOBS;
  const lanes = Number(given ?? DEFAULT_LANES);
  if (!Number.isInteger(lanes) || lanes < 1) {
    console.error(`ISTHMUS_TEST_JOBS=${given}: expected a number from 1`);
    return 2;
  }
  // Long tests are for one process each, too.
  const jobs = planJobs(files, { apart: process.env.ISTHMUS_LONG === 'true' });
  const most = given === undefined ? MOST_LANES : lanes;
  const first = await runJobs(jobs, { lanes, most, raw: RAW_OUTPUT });
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
  const entries = await readdir(projectPath('dist'), { recursive: true });
  return entries
    .filter((entry) => entry.endsWith('.test.js'))
    .map((entry) => `dist/${entry}`)
    .filter((file) => selected.length === 0 || selected.some((part) => file.includes(part)));
}

/** Results in which files that failed are replaced by what they did alone. */
async function againWhereFailed(first: readonly FileResult[]): Promise<readonly FileResult[]> {
  const failed = first.filter((result) => result.failed > 0);
  const again = failed.map(({ name }) => name);
  if (again.length === 0 || again.length > MOST_FILES_AGAIN || first.length === again.length) {
    return first;
  }
  console.log(`\nonce more, alone: ${again.join(', ')}`);
  const jobs = again.map((name) => [name]);
  const second = await runJobs(jobs, { lanes: 1, most: 1, raw: SECOND_OUTPUT });
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

/** Runs jobs, some at a time, and tells of each file as it ends. */
async function runJobs(
  jobs: readonly TestJob[],
  { raw, ...options }: { readonly lanes: number; readonly most: number; readonly raw: string },
): Promise<FileResult[]> {
  mkdirSync(projectPath('dist/test-results'), { recursive: true });
  const all = createWriteStream(projectPath(raw));
  const results: FileResult[] = [];
  const tell = (result: FileResult): void => {
    results.push(result);
    const { name, seconds, failed } = result;
    all.write(`# ${name}\n${result.output}\n`);
    const slow = isUnexpectedlySlow(name, seconds) ? ', not in scripts/slow-tests.ts' : '';
    console.log(`${failed === 0 ? 'ok    ' : 'not ok'} ${name} (${seconds.toFixed(1)} s${slow})`);
    // Whoever reads a log that was cut, or while it grows, sees why.
    for (const failure of result.failures.slice(0, FAILURES_AT_ONCE)) console.log(inShort(failure));
  };
  const run = async (job: TestJob): Promise<void> => {
    const shared = job.length > 1 ? await runSharedFiles(job) : undefined;
    if (shared?.kind === 'passed') {
      for (const result of shared.results) tell(result);
      return;
    }
    if (shared !== undefined) {
      all.write(`# ${job.join(' ')}\n${shared.output}\n`);
      console.log(`unsteady: ${job.length} files in one process failed, each runs alone now`);
      for (const failure of shared.failures) console.log(inShort(failure));
    }
    for (const name of job) tell(await runTestFile(name));
  };
  await runInLanes(jobs, run, options);
  all.end();
  return results;
}
