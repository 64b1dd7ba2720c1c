/**
 * Codes of the CNI specification that a runtime acts on (`CNI spec`, section 5, Error): 4 bad environment, 6 undecodable
 * content, 7 bad configuration, 11 try again later, 100 and up are ours. Of STATUS: 51 pods may lack connectivity; that the
 * agent does not answer at all, 50, is for the plugin to say.
 */
export type CniCode = 4 | 6 | 7 | 11 | 51 | 100 | 101;

/** A CNI request that was not served. */
export class CniError extends Error {
  readonly code: CniCode;
  readonly retryable: boolean;
  readonly details: string;

  constructor(code: CniCode, message: string, options: { details?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'CniError';
    this.code = code;
    this.retryable = code === 11;
    this.details = options.details ?? '';
  }
}

/** What the agent keeps of its endpoints cannot be read or written. */
export class EndpointStoreError extends Error {
  readonly code = 'state-dir';
  readonly retryable = false;

  constructor(message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'EndpointStoreError';
  }
}
