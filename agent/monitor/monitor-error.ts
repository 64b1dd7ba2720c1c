/** `bad-record`: bytes that no program of ours writes; `bad-filter`: a question that cannot be answered. */
export type MonitorErrorCode = 'bad-record' | 'bad-filter';

/** What the monitor cannot read. The message says what was expected. */
export class MonitorError extends Error {
  readonly code: MonitorErrorCode;
  readonly retryable = false;

  constructor(code: MonitorErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'MonitorError';
    this.code = code;
  }
}
