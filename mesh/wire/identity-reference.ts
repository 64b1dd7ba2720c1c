/** The number behind a node's use of an identity (`pkg/kvstore/allocator`, the slave keys of its kvstore mode). */
import { type NumericIdentity, parseNumericIdentity } from './ids.ts';
import { checkSize, failField } from './json.ts';

const DECIMAL = /^[1-9]\d{0,8}$/;
const MAX_BYTES = 64;

/** Encodes the number of an identity. */
export function encodeIdentityReference(id: NumericIdentity): string {
  return String(id);
}

/** Decodes it. Throws WireError naming the key. */
export function decodeIdentityReference(value: Buffer | string, key: string): NumericIdentity {
  checkSize(value, key, MAX_BYTES);
  const text = value.toString();
  const number = DECIMAL.test(text) ? Number(text) : 0;
  if (number === 0 || number >= 2 ** 24) {
    failField({ key, field: 'identity' }, text, 'a decimal number below 2^24');
  }
  return parseNumericIdentity(number);
}
