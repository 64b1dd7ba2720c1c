/** What kept the apiserver from starting. */
export type ApiserverErrorCode = 'manifests' | 'certificate';

/** The apiserver cannot start; the message says what to do. */
export class ApiserverError extends Error {
  readonly code: ApiserverErrorCode;
  readonly retryable: boolean;

  constructor(
    code: ApiserverErrorCode,
    message: string,
    options: { readonly retryable?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'ApiserverError';
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}
