import { createHash } from 'node:crypto';

const DIGITS = '0123456789abcdefghijklmnopqrstuv';
const LENGTH = 10;

/** How the names of derived Services begin. */
export const DERIVED_PREFIX = 'derived-';

/**
 * Name of the Service that stands for a multi-cluster service in every cluster: `derived-` and the first 10 digits, base 32 with
 * the extended hex alphabet in lower case, of SHA-256 of `namespace/name` (`derivedName` in Cilium and in the reference
 * implementation). All clusters must agree on it: it is the key under which backends are published.
 */
export function derivedServiceName(namespace: string, name: string): string {
  const hash = createHash('sha256').update(`${namespace}/${name}`).digest();
  let digits = '';
  // Ten digits of five bits are the first fifty bits: seven bytes hold them.
  let bits = hash.readUIntBE(0, 6) * 4 + (hash.readUInt8(6) >> 6);
  for (let index = 0; index < LENGTH; index += 1) {
    digits = DIGITS.charAt(bits % 32) + digits;
    bits = Math.floor(bits / 32);
  }
  return `${DERIVED_PREFIX}${digits}`;
}
