/** Peering cannot do what it was asked for. */
export class PeeringError extends Error {
  /**
   * `key`: the peering key cannot be used; `read-only`: peers cannot be written here; `refused`: the other cluster says no;
   * `half-connected`: it does not have us as a peer;
   * `unreachable`: it does not answer; `untrusted`: its certificate is not believed; `nonsense`: its answer does not hold together.
   */
  readonly code:
    | 'key'
    | 'read-only'
    | 'refused'
    | 'half-connected'
    | 'unreachable'
    | 'untrusted'
    | 'nonsense';
  readonly retryable: boolean;

  constructor(
    code: PeeringError['code'],
    message: string,
    options: { readonly retryable?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'PeeringError';
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}
