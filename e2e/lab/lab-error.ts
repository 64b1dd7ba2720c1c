/** Why a lab cannot do what was asked. */
export class LabError extends Error {
  /**
   * `topology`: the file is wrong; `preflight`: this machine lacks something; `command`: a program failed; `cni`: a plugin
   * refused; `timeout`: what was waited for did not come; `unknown-name`: no such lab, pod, node or cluster; `busy`: the name
   * is taken by a running lab.
   */
  readonly code: 'topology' | 'preflight' | 'command' | 'cni' | 'timeout' | 'unknown-name' | 'busy';
  readonly retryable: boolean;

  constructor(
    code: LabError['code'],
    message: string,
    options: { cause?: unknown; retryable?: boolean } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'LabError';
    this.code = code;
    this.retryable = options.retryable ?? code === 'timeout';
  }
}
