/** Why a part of a policy is not enforced as written: `unsupported` by this version, or `invalid` for any. */
export type PolicyErrorCode = 'unsupported' | 'invalid';

/** A part of a manifest that cannot be enforced. What it would have allowed is not allowed. */
export class PolicyError extends Error {
  readonly code: PolicyErrorCode;
  /** Field of the manifest, such as `spec.ingress[0].fromCIDR`. */
  readonly path: string;
  readonly retryable = false;

  constructor(code: PolicyErrorCode, path: string, complaint: string) {
    super(`${path} ${complaint}`);
    this.name = 'PolicyError';
    this.code = code;
    this.path = path;
  }
}
