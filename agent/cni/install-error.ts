/**
 * Why the plugin cannot be put into a node's CNI configuration: `no-conf` there is none yet; `bad-conf` what is there cannot
 * be chained behind; `io` a file cannot be read or written.
 */
export class CniInstallError extends Error {
  readonly code: 'no-conf' | 'bad-conf' | 'io';
  readonly retryable: boolean;

  constructor(
    code: 'no-conf' | 'bad-conf' | 'io',
    message: string,
    options: { readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CniInstallError';
    this.code = code;
    // A CNI that is being installed mends the first, and a CNI that is being upgraded the second.
    this.retryable = true;
  }
}
