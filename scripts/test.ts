/**
 * `npm test`: runs every compiled test file under tap and prints one line for each file, what failed and why, what was
 * skipped and why, and last the line `N passed, N failed`. Arguments select files by a part of their path.
 *
 * A few files that fail run once more, alone: one that passes then counts as passed and is named as unsteady, with what
 * failed, so that a fault which needs a busy machine is seen and does not hide the rest.
 */
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { Parser, type Result } from 'tap-parser';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** Files that take longest start first, so that the two lanes end together. */
const SLOW_FIRST = [
  'dist/e2e/',
  'dist/agent/',
  'dist/clustermesh-apiserver/',
  'dist/mesh/kvstore/',
];

const RAW_OUTPUT = 'dist/test-results/all.tap';
const SECOND_OUTPUT = 'dist/test-results/again.tap';
/** More than these fail for a reason of their own. */
const MOST_FILES_AGAIN = 8;

interface FileResult {
  readonly name: string;
  passed: number;
  failed: number;
  readonly failures: string[];
  readonly skips: string[];
}

process.exitCode = await main(process.argv.slice(2));

async function main(selected: readonly string[]): Promise<number> {
  const files = await testFiles(selected);
  if (files.length === 0) {
    console.error(
      `no test file matches ${selected.join(', ')}: give parts of paths, such as mesh/wire`,
    );
    return 2;
  }
  const first = await runTap(files, {
    jobs: process.env.ISTHMUS_TEST_JOBS ?? '2',
    raw: RAW_OUTPUT,
  });
  const results = await againWhereFailed(files, first);
  const missing = missingOf(files, results);
  const skips = results.flatMap((result) => result.skips.map((skip) => `${result.name}: ${skip}`));
  for (const file of missing) console.log(`not ok ${file}: it never reported`);
  for (const skip of skips) console.log(`skipped ${skip}`);
  for (const result of results) {
    for (const failure of result.failures) console.log(`\nfailed ${result.name}: ${failure}`);
  }
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  const failed = results.reduce((sum, result) => sum + result.failed, missing.length);
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

/** Files that have no result: their process died, or never ended. */
function missingOf(files: readonly string[], results: readonly FileResult[]): string[] {
  return files.filter((file) => !results.some((result) => result.name === file));
}

/** Results in which files that failed are replaced by what they did alone. */
async function againWhereFailed(
  files: readonly string[],
  first: readonly FileResult[],
): Promise<readonly FileResult[]> {
  const failed = first.filter((result) => result.failed > 0);
  const again = [...failed.map(({ name }) => name), ...missingOf(files, first)];
  if (again.length === 0 || again.length > MOST_FILES_AGAIN || files.length === again.length) {
    return first;
  }
  console.log(`\nonce more, alone: ${again.join(', ')}`);
  const second = await runTap(again, { jobs: '1', raw: SECOND_OUTPUT });
  for (const result of second) {
    if (result.failed > 0) continue;
    console.log(`unsteady ${result.name}: it failed beside others and passed alone`);
    const before = failed.find(({ name }) => name === result.name);
    for (const failure of before?.failures ?? []) console.log(`  it was: ${failure}`);
  }
  const kept = first.filter(({ name }) => !second.some((result) => result.name === name));
  return [...kept, ...second];
}

async function runTap(
  files: readonly string[],
  options: { readonly jobs: string; readonly raw: string },
): Promise<FileResult[]> {
  const results: FileResult[] = [];
  mkdirSync(projectPath('dist/test-results'), { recursive: true });
  const raw = createWriteStream(projectPath(options.raw));
  const parser = new Parser();
  parser.on('child', (file: Parser) => results.push(followFile(file)));
  parser.on('assert', (result: Result) => {
    const seconds = ((result.time ?? 0) / 1000).toFixed(1);
    console.log(`${result.ok ? 'ok    ' : 'not ok'} ${result.name} (${seconds} s)`);
  });
  const tap = spawn(
    process.execPath,
    ['node_modules/tap/dist/esm/run.mjs', `--jobs=${options.jobs}`, '--reporter=tap', ...files],
    { cwd: projectPath('.'), stdio: ['ignore', 'pipe', 'inherit'] },
  );
  tap.stdout.on('data', (chunk: Buffer) => {
    raw.write(chunk);
    parser.write(chunk);
  });
  await new Promise((resolve) => tap.on('close', resolve));
  parser.end();
  raw.end();
  return results;
}

/** Counts a file's tests, and collects the innermost assertions that failed: the outer ones only repeat them. */
function followFile(file: Parser): FileResult {
  const result: FileResult = { name: file.name, passed: 0, failed: 0, failures: [], skips: [] };
  file.on('assert', (test: Result) => {
    if (test.skip) result.skips.push(`${test.name}: ${String(test.skip)}`);
    else if (test.ok || test.todo) result.passed += 1;
    else result.failed += 1;
  });
  file.on('bailout', (reason: string) => result.failures.push(`bailed out: ${reason}`));
  followAsserts(file, [], result.failures);
  return result;
}

function followAsserts(parser: Parser, path: readonly string[], failures: string[]): void {
  const before = new Set<string>();
  parser.on('child', (child: Parser) => {
    const found = failures.length;
    followAsserts(child, [...path, child.name], failures);
    child.on('complete', () => {
      if (failures.length > found) before.add(child.name);
    });
  });
  parser.on('assert', (test: Result) => {
    if (test.ok || test.skip || test.todo || before.has(test.name)) return;
    const detail = test.diag ? `\n${JSON.stringify(test.diag, null, 2)}` : '';
    failures.push([...path, test.name].join(' > ') + detail);
  });
}
