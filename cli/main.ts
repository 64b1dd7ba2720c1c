#!/usr/bin/env node
import type { CliContext } from './cli-context.ts';
import { CliError, EXIT_CODES } from './cli-error.ts';
import { errorLines, exitCodeOf } from './exit-code.ts';
import { createPipeWriter } from './pipe-writer.ts';
import { programFor } from './program.ts';

const setExitCode = (code: number): void => {
  process.exitCode = code;
};
const ending = new AbortController();
const { NO_COLOR, TERM } = process.env;
const context: CliContext = {
  input: process.stdin,
  print: (text) => process.stdout.write(text),
  say: (text) => process.stderr.write(text),
  output: () => createPipeWriter(process.stdout),
  setExitCode,
  setProblem: () => setExitCode(EXIT_CODES.problem),
  signal: ending.signal,
  // https://no-color.org: set to anything but nothing.
  hasColours: process.stdout.isTTY === true && (NO_COLOR ?? '') === '' && TERM !== 'dumb',
  isWatched: process.stderr.isTTY === true,
};

const interrupt = (): void => ending.abort(new CliError('problem', 'interrupted'));
// Who reads may have seen enough, as `head` has: no failure of ours.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') setExitCode(report(error));
});
process.once('SIGINT', interrupt);
process.once('SIGTERM', interrupt);
try {
  const program = await programFor(process.argv.slice(2), context);
  await program.parseAsync(process.argv);
} catch (error) {
  setExitCode(report(error));
}

/** Says what went wrong, a line each thing; the exit code. */
function report(error: unknown): number {
  for (const line of errorLines(error)) process.stderr.write(`clustermesh: ${line}\n`);
  return exitCodeOf(error);
}
