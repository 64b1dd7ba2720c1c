/** Why the firewall of the host cannot be switched. Messages are for people: what, why, what to do. */
export class FirewallError extends Error {
  /**
   * `usage`: the question is wrong; `unsupported`: this host cannot have one; `not-ready`: not now; `state`: not as things
   * stand; `disk`: what was decided cannot be kept.
   */
  readonly code: 'usage' | 'unsupported' | 'not-ready' | 'state' | 'disk';
  readonly retryable: boolean;

  constructor(
    code: FirewallError['code'],
    message: string,
    options: { readonly retryable?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'FirewallError';
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}
