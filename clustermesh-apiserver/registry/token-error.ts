/** What is wrong with a call that is about tokens. */
export type TokenErrorCode = 'invalid' | 'unknown' | 'too-many' | 'contended';

/** A call about tokens that cannot be answered; the message says what to do. */
export class TokenError extends Error {
  readonly code: TokenErrorCode;
  readonly retryable: boolean;

  constructor(code: TokenErrorCode, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TokenError';
    this.code = code;
    this.retryable = code === 'contended';
  }
}
