/** A compiled test file, run in a process of its own and followed by what it says in TAP. */
import { spawn } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { Parser, type Result } from 'tap-parser';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** What became of a file's tests. */
export interface FileResult {
  /** Its path in the project: `dist/mesh/wire/keys.test.js`. */
  readonly name: string;
  readonly seconds: number;
  readonly passed: number;
  readonly failed: number;
  /** Each with its place and its details. */
  readonly failures: readonly string[];
  readonly skips: readonly string[];
  /** Everything that it wrote to its standard output. */
  readonly output: string;
}

/** A file that runs longer is ended: it hangs. */
const TIMEOUT_SECONDS = 900;
/** What TAP says of a file that defines no tests: those of some are defined by option only (ISTHMUS_LONG). */
const NO_TESTS = 'no tests found';
/** Between the two signals that end it. */
const GRACE_MS = 10_000;
/** How long its output may stay open after its end: what it started and left behind may hold it for ever. */
const LEFTOVERS_MS = 5000;

/**
 * Runs a file to its end. Without tap's own runner, whose loader hooks make the start of each file, and of each Node program
 * that tests start, seconds longer.
 */
export async function runTestFile(name: string): Promise<FileResult> {
  const began = performance.now();
  const child = spawn(process.execPath, ['--enable-source-maps', name], {
    cwd: projectPath('.'),
    env: { ...process.env, TAP: '1', TAP_TIMEOUT: String(TIMEOUT_SECONDS) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const parser = new Parser();
  const book = follow(parser);
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    parser.write(chunk);
  });
  const late = setTimeout(() => {
    book.failures.push(`it ran for ${TIMEOUT_SECONDS} s and was ended`);
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
  }, TIMEOUT_SECONDS * 1000);
  const exit = await ended(child, book.failures);
  clearTimeout(late);
  parser.end();
  // What TAP does not tell: that the process died, or that it planned more tests than it ran.
  const isWhole = parser.results?.ok === true && exit === 'code 0';
  if (!isWhole && book.failures.length === 0) {
    book.failures.push(`it ended with ${exit} after ${book.passed} tests`);
  }
  return {
    ...book,
    name,
    seconds: (performance.now() - began) / 1000,
    failed: Math.max(book.failed, book.failures.length > 0 ? 1 : 0),
    output: Buffer.concat(chunks).toString('utf8'),
  };
}

/** How a process ended, in words, once its output has ended, too. */
async function ended(child: ReturnType<typeof spawn>, failures: string[]): Promise<string> {
  const closed = new Promise<void>((resolve) => child.once('close', () => resolve()));
  const exit = await new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (code, signal) => resolve(signal ?? `code ${code}`));
  });
  const waiting = new AbortController();
  const isClosed = await Promise.race([
    closed.then(() => true),
    new Promise<boolean>((resolve) => {
      const timer = setTimeout(() => resolve(false), LEFTOVERS_MS);
      waiting.signal.addEventListener('abort', () => clearTimeout(timer));
    }),
  ]);
  waiting.abort();
  if (!isClosed) {
    failures.push('a program that it started still runs after its end');
    child.stdout?.destroy();
  }
  return exit;
}

interface Book {
  passed: number;
  failed: number;
  readonly failures: string[];
  readonly skips: string[];
}

/** Counts a file's tests, and collects the innermost assertions that failed: the outer ones only repeat them. */
function follow(file: Parser): Book {
  const book: Book = { passed: 0, failed: 0, failures: [], skips: [] };
  file.on('assert', (test: Result) => {
    if (test.skip) book.skips.push(`${test.name}: ${String(test.skip)}`);
    else if (test.ok || test.todo) book.passed += 1;
    else book.failed += 1;
  });
  file.on('plan', (plan: { start: number; end: number; comment: string }) => {
    if (plan.end < plan.start && plan.comment !== NO_TESTS) {
      book.skips.push(plan.comment || 'all of it');
    }
  });
  file.on('bailout', (reason: string) => book.failures.push(`bailed out: ${reason}`));
  followAsserts(file, [], book.failures);
  return book;
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
