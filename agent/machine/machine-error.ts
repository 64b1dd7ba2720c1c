/** Why a machine cannot join, renew or leave. Messages are for people: what, why, what to do. */
export class MachineError extends Error {
  /**
   * `usage`: the call is wrong; `preflight`: the machine is not fit for it, a line for each reason; `unreachable`: nobody
   * answers; `untrusted`: who answers is not who the token or the bundle names; `refused`: the registry says no; `other`: the
   * machine belongs to another cluster, or an agent that was not made by joining is there; `state`: what lies in the state
   * directory cannot be used; `disk`: it cannot be written.
   */
  readonly code:
    | 'usage'
    | 'preflight'
    | 'unreachable'
    | 'untrusted'
    | 'refused'
    | 'other'
    | 'state'
    | 'disk';
  readonly retryable: boolean;

  constructor(
    code: MachineError['code'],
    message: string,
    options: { readonly retryable?: boolean; readonly cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'MachineError';
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}

/** An error's words. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
