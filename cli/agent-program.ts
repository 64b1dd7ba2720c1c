/** Running an agent's own commands: they know how to show what agents say. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { CliError, EXIT_CODES } from './cli-error.ts';

const AGENT = fileURLToPath(new URL('../agent/main.js', import.meta.url));
const TIMEOUT_MS = 20_000;
const MAX_OUTPUT = 64 * 1024 * 1024;

/** What a command of the agent's program came to; its exit codes are ours. */
export interface ProgramAnswer {
  readonly code: number;
  /** What it printed. */
  readonly text: string;
  /** Why it failed. */
  readonly problem: string;
}

/** Runs one. Never rejects: the exit code says what happened. */
export function runAgentProgram(args: readonly string[]): Promise<ProgramAnswer> {
  const options = { timeout: TIMEOUT_MS, maxBuffer: MAX_OUTPUT };
  return new Promise((resolve) => {
    execFile(process.execPath, [AGENT, ...args], options, (error, stdout, stderr) => {
      const said = stderr.trim().replace(/^clustermesh-agent: /, '') || (error?.message ?? '');
      const isLate = error?.killed === true;
      const ended = error?.code;
      const code = error === null ? 0 : typeof ended === 'number' ? ended : EXIT_CODES.problem;
      resolve({
        code: isLate ? EXIT_CODES.timeout : code,
        text: stdout,
        problem: isLate ? `no answer within ${TIMEOUT_MS / 1000} s` : said,
      });
    });
  });
}

/** The error for programs that failed: the worst of their exit codes counts. */
export function failureOf(answers: readonly ProgramAnswer[]): CliError {
  const text = answers.map(({ problem }) => problem).join('\n');
  for (const code of ['unreachable', 'timeout', 'usage'] as const) {
    if (answers.some((answer) => answer.code === EXIT_CODES[code])) return new CliError(code, text);
  }
  return new CliError('problem', text);
}
