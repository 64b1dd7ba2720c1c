/** What a caller can do about it. `bad-row`, `map-full` and `kernel` concern one row or call; the others stop the start. */
export type DatapathErrorCode =
  | 'preflight'
  | 'already-running'
  | 'bad-option'
  | 'bad-row'
  | 'map-full'
  | 'kernel'
  | 'load-failed'
  | 'incompatible-map'
  | 'no-interface'
  | 'device-failed'
  | 'port-taken';

/** Anything that the kernel, libbpf or iproute2 refused. The message says what to do where there is something to do. */
export class DatapathError extends Error {
  readonly code: DatapathErrorCode;
  readonly retryable: boolean;
  /** Name such as `ENOSPC`, where the kernel gave one. */
  readonly errno: string | undefined;

  constructor(
    code: DatapathErrorCode,
    message: string,
    options: { retryable?: boolean; errno?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'DatapathError';
    this.code = code;
    this.retryable = options.retryable ?? false;
    this.errno = options.errno;
  }
}
