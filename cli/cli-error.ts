/** A command cannot do what was asked; the exit code tells scripts why. */
export class CliError extends Error {
  /** `problem`: it was found that something is wrong (1); `usage`: the call is wrong (2); `unreachable`: nobody answers (3). */
  readonly code: 'problem' | 'usage' | 'unreachable';
  readonly retryable = false;

  constructor(code: CliError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CliError';
    this.code = code;
  }
}

/** Exit codes of every command. 4 is kept for "a verdict would change". */
export const EXIT_CODES = { fine: 0, problem: 1, usage: 2, unreachable: 3, timeout: 124 } as const;
