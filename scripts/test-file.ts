/** Compiled test files, run in a process and followed by what it says in TAP. */
import { spawn } from 'node:child_process';
import { performance } from 'node:perf_hooks';
import { pathToFileURL } from 'node:url';
import { Parser, type Result } from 'tap-parser';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { END_OF_FILE, SHARED_FILES } from './shared-files.ts';

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
const TIMEOUT_SECONDS = process.env.ISTHMUS_LONG === 'true' ? 3600 : 600;
/** Short files together take ten seconds or two; one that hangs is found when each runs alone. */
const SHARED_TIMEOUT_SECONDS = 180;
/** What TAP says of a file that defines no tests: those of some are defined by option only (ISTHMUS_LONG). */
const NO_TESTS = 'no tests found';
/** Between the two signals that end it. */
const GRACE_MS = 10_000;
/** How long its output may stay open after its end: what it started and left behind may hold it for ever. */
const LEFTOVERS_MS = 5000;

/** How several files did in one process. */
export type SharedResult =
  | { readonly kind: 'passed'; readonly results: readonly FileResult[] }
  /** Something failed: which file it was says only a run of each alone. */
  | { readonly kind: 'failed'; readonly failures: readonly string[]; readonly output: string };

const SHARED = 'dist/scripts/test-shared.js';
const PREPARED_KEYS = 'dist/scripts/prepared-keys.js';
/**
 * For the programs in Go that tests start (API servers, kubectl, helm, etcd): their collectors let five times as much gather as is
 * in use, not twice as much, which saves a sixth of the CPU time of an API server's start.
 */
const GOGC = '400';

/** Runs a file to its end, in a process of its own. */
export async function runTestFile(name: string): Promise<FileResult> {
  const run = await runProcess(name, { timeoutSeconds: TIMEOUT_SECONDS });
  const [book = emptyBook()] = run.books;
  return {
    ...book,
    name,
    seconds: run.seconds,
    failures: run.failures,
    failed: Math.max(book.failed, run.failures.length > 0 ? 1 : 0),
    output: run.output,
  };
}

/** Runs files one after the other in one process. */
export async function runSharedFiles(names: readonly string[]): Promise<SharedResult> {
  const { books, failures, output } = await runProcess(SHARED, {
    timeoutSeconds: SHARED_TIMEOUT_SECONDS,
    env: { [SHARED_FILES]: names.join('\n') },
  });
  const ended = books.flatMap(({ name }) => (name === undefined ? [] : [name]));
  if (failures.length > 0 || ended.join() !== names.join()) {
    return { kind: 'failed', failures: failures.length > 0 ? failures : [NOT_ALL], output };
  }
  const results = names.map((name, index): FileResult => {
    const { passed = 0, failed = 0, skips = [], seconds = 0 } = books[index] ?? {};
    // All of them wrote one output: it stands with the first.
    return {
      name,
      seconds,
      passed,
      failed,
      failures: [],
      skips,
      output: index === 0 ? output : '',
    };
  });
  return { kind: 'passed', results };
}

const NOT_ALL = 'not every file said that it has ended';

/**
 * Runs a program of tests to its end. Without tap's own runner, whose loader hooks make the start of each file, and of each Node
 * program that tests start, seconds longer.
 */
async function runProcess(
  program: string,
  options: {
    readonly timeoutSeconds: number;
    readonly env?: Readonly<Record<string, string>>;
  },
): Promise<{
  readonly books: readonly Book[];
  readonly failures: readonly string[];
  readonly seconds: number;
  readonly output: string;
}> {
  const { timeoutSeconds, env } = options;
  const began = performance.now();
  const preloaded = ['--import', pathToFileURL(projectPath(PREPARED_KEYS)).href];
  const child = spawn(process.execPath, ['--enable-source-maps', ...preloaded, program], {
    cwd: projectPath('.'),
    env: {
      ...process.env,
      ...env,
      TAP: '1',
      TAP_TIMEOUT: String(timeoutSeconds),
      GOGC: process.env.GOGC ?? GOGC,
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const parser = new Parser();
  const failures: string[] = [];
  const books = follow(parser, failures);
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => {
    chunks.push(chunk);
    parser.write(chunk);
  });
  const late = setTimeout(() => {
    failures.push(`it ran for ${timeoutSeconds} s and was ended`);
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
  }, timeoutSeconds * 1000);
  const exit = await ended(child, failures);
  clearTimeout(late);
  parser.end();
  // What TAP does not tell: that the process died, or that it planned more tests than it ran.
  const isWhole = parser.results?.ok === true && exit === 'code 0';
  if (!isWhole && failures.length === 0) {
    const passed = books.reduce((sum, book) => sum + book.passed, 0);
    failures.push(`it ended with ${exit} after ${passed} tests`);
  }
  return {
    books,
    failures,
    seconds: (performance.now() - began) / 1000,
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

/** What is counted of one file. */
interface Book {
  /** Set when a process of several files said that this one has ended. */
  name: string | undefined;
  seconds: number;
  passed: number;
  failed: number;
  readonly skips: string[];
}

function emptyBook(): Book {
  return { name: undefined, seconds: 0, passed: 0, failed: 0, skips: [] };
}

/** Counts tests by file, and collects the innermost assertions that failed: the outer ones only repeat them. */
function follow(parser: Parser, failures: string[]): readonly Book[] {
  const books = [emptyBook()];
  let book = books[0] ?? emptyBook();
  let began = performance.now();
  parser.on('assert', (test: Result) => {
    if (test.name.startsWith(END_OF_FILE)) {
      book.name = test.name.slice(END_OF_FILE.length);
      book.seconds = (performance.now() - began) / 1000;
      began = performance.now();
      book = emptyBook();
      books.push(book);
    } else if (test.skip) book.skips.push(`${test.name}: ${String(test.skip)}`);
    else if (test.ok || test.todo) book.passed += 1;
    else book.failed += 1;
  });
  parser.on('plan', (plan: { start: number; end: number; comment: string }) => {
    if (plan.end < plan.start && plan.comment !== NO_TESTS) {
      book.skips.push(plan.comment || 'all of it');
    }
  });
  parser.on('bailout', (reason: string) => failures.push(`bailed out: ${reason}`));
  followAsserts(parser, [], failures);
  return books;
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
