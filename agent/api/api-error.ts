/** The agent's socket cannot be served or reached. */
export class ApiError extends Error {
  readonly code:
    | 'socket-taken'
    | 'socket-failed'
    | 'too-large'
    | 'unreachable'
    | 'timeout'
    | 'bad-answer'
    | 'bad-question';
  readonly retryable: boolean;

  constructor(code: ApiError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ApiError';
    this.code = code;
    this.retryable = code === 'unreachable' || code === 'timeout';
  }
}
