/** What kept the registry from listening. */
export type RegistryErrorCode = 'file' | 'port-taken' | 'address';

/** The registry cannot be opened; the message says what to do. */
export class RegistryError extends Error {
  readonly code: RegistryErrorCode;
  readonly retryable: boolean;

  constructor(
    code: RegistryErrorCode,
    message: string,
    options: { readonly retryable: boolean; readonly cause?: unknown },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'RegistryError';
    this.code = code;
    this.retryable = options.retryable;
  }
}
