/** A command cannot do what was asked; the exit code tells scripts why. */
export class CliError extends Error {
  /**
   * `problem`: it was found that something is wrong (1); `usage`: the call is wrong (2); `unreachable`: nobody answers (3);
   * `change`: a verdict would change (4); `timeout`: an answer does not come (124).
   */
  readonly code: 'problem' | 'usage' | 'unreachable' | 'change' | 'timeout';
  readonly retryable = false;

  constructor(code: CliError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CliError';
    this.code = code;
  }
}

/** Exit codes of every command; `change`: a verdict would change. */
export const EXIT_CODES = {
  fine: 0,
  problem: 1,
  usage: 2,
  unreachable: 3,
  change: 4,
  timeout: 124,
} as const;
