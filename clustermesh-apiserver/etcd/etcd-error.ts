/** What kept the embedded etcd from starting. */
export type EtcdErrorCode =
  | 'binary-missing'
  | 'data-directory'
  | 'data-directory-in-use'
  | 'second-replica'
  | 'port-taken'
  | 'not-ready';

/** The embedded etcd cannot be started; the message says what to do. */
export class EtcdError extends Error {
  readonly code: EtcdErrorCode;
  readonly retryable: boolean;

  constructor(
    code: EtcdErrorCode,
    message: string,
    options: { retryable: boolean; cause?: unknown },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'EtcdError';
    this.code = code;
    this.retryable = options.retryable;
  }
}
