/** A question about policies cannot be answered. */
export class TraceError extends Error {
  readonly code: 'bad-question';
  readonly retryable = false;

  constructor(code: 'bad-question', message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TraceError';
    this.code = code;
  }
}
