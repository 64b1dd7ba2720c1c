/** What kept the gate from listening. */
export type GateErrorCode = 'file' | 'port-taken' | 'address';

/** The gate cannot be opened; the message says what to do. */
export class GateError extends Error {
  readonly code: GateErrorCode;
  readonly retryable: boolean;

  constructor(
    code: GateErrorCode,
    message: string,
    options: { retryable: boolean; cause?: unknown },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GateError';
    this.code = code;
    this.retryable = options.retryable;
  }
}
