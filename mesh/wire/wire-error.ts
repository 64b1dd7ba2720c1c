/** What a caller can do about a value that does not parse: the code says which part is wrong. */
export type WireErrorCode = 'bad-key' | 'bad-value' | 'bad-field' | 'too-large';

const EXCERPT_LENGTH = 60;

/**
 * What was found, short enough for a message. Objects and lists are only named: writing out one from outside that is
 * nested deeply enough would exhaust the stack.
 */
export function excerpt(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object' && value !== null) return 'an object';
  if (typeof value !== 'string') return String(value);
  if (value === '') return 'an empty string';
  const text = JSON.stringify(value.slice(0, EXCERPT_LENGTH));
  return value.length > EXCERPT_LENGTH ? `${text}…` : text;
}

/** A key or value from outside that cannot be accepted. Never fatal: the caller counts it and goes on. */
export class WireError extends Error {
  readonly code: WireErrorCode;
  /** Key of the value, where it is known. */
  readonly key: string | undefined;
  /** Path of the offending field, for instance `backends["10.0.0.1"].http.Port`. */
  readonly field: string | undefined;
  readonly retryable = false;

  constructor(
    code: WireErrorCode,
    message: string,
    options: { key?: string | undefined; field?: string | undefined; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'WireError';
    this.code = code;
    this.key = options.key;
    this.field = options.field;
  }
}
