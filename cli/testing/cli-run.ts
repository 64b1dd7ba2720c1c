/** Commands run in this process, as `main.ts` runs them, with what they print kept. */
import { Readable } from 'node:stream';
import type { CliContext } from '../cli-context.ts';
import { EXIT_CODES } from '../cli-error.ts';
import { errorLines, exitCodeOf } from '../exit-code.ts';
import { createPipeWriter } from '../pipe-writer.ts';
import { programFor } from '../program.ts';

/** What a command came to. */
export interface CliRun {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A context that keeps what is printed. */
export function createCliContext(given: Partial<CliContext> = {}): CliContext & {
  readonly run: () => CliRun;
} {
  let [code, stdout, stderr] = [0, '', ''];
  const setExitCode = (next: number): void => {
    code = next;
  };
  return {
    input: Readable.from([]),
    print: (text) => {
      stdout += text;
    },
    say: (text) => {
      stderr += text;
    },
    output: () => createPipeWriter(process.stdout),
    setExitCode,
    setProblem: () => setExitCode(EXIT_CODES.problem),
    signal: new AbortController().signal,
    hasColours: false,
    isWatched: false,
    ...given,
    run: () => ({ code, stdout, stderr }),
  };
}

/** Runs a command. Never rejects: the exit code says what happened. */
export async function runCli(
  args: readonly string[],
  given: Partial<CliContext> = {},
): Promise<CliRun> {
  const context = createCliContext(given);
  try {
    const program = await programFor(args, context);
    await program.parseAsync([...args], { from: 'user' });
  } catch (error) {
    context.setExitCode(exitCodeOf(error));
    for (const line of errorLines(error)) context.say(`clustermesh: ${line}\n`);
  }
  return context.run();
}
