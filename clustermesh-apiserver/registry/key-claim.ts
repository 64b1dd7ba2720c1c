/** The public key of a stranger, and whether the stranger holds its private half. Read by `node:crypto` alone. Pure. */
import { createHash, createPublicKey, type KeyObject, verify } from 'node:crypto';

const LEAST_BITS = 2048;
const MOST_BITS = 8192;
/** The one that everybody uses: others make a verification cheap to forge or dear to do. */
const EXPONENT = 65_537n;

/** A key that is good enough for a certificate. */
export interface ClaimedKey {
  readonly publicKey: KeyObject;
  /** SHA-256 of the key (SPKI, DER) in lower-case hex. */
  readonly hash: string;
}

/** What came of reading a key; `reason` is for people. */
export type KeyReading =
  | { readonly kind: 'key'; readonly key: ClaimedKey }
  | { readonly kind: 'unusable'; readonly reason: string };

/** Reads a SubjectPublicKeyInfo in DER form. */
export function readClaimedKey(der: Uint8Array): KeyReading {
  let publicKey: KeyObject;
  try {
    publicKey = createPublicKey({ key: Buffer.from(der), format: 'der', type: 'spki' });
  } catch {
    return unusable('it is no public key (SubjectPublicKeyInfo in DER form)');
  }
  if (publicKey.asymmetricKeyType !== 'rsa') {
    return unusable(`it is ${publicKey.asymmetricKeyType}, expected RSA`);
  }
  const { modulusLength = 0, publicExponent } = publicKey.asymmetricKeyDetails ?? {};
  if (modulusLength < LEAST_BITS || modulusLength > MOST_BITS) {
    return unusable(`it has ${modulusLength} bits, expected ${LEAST_BITS} to ${MOST_BITS}`);
  }
  if (publicExponent !== EXPONENT) {
    return unusable(`its exponent is ${publicExponent}, expected ${EXPONENT}`);
  }
  // As written anew, so that one key has one hash.
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  const hash = createHash('sha256').update(spki).digest('hex');
  return { kind: 'key', key: { publicKey, hash } };
}

/** Whether `proof` was made over `input` with the private half of a key. */
export function isProven(
  key: ClaimedKey,
  claim: { readonly input: Uint8Array; readonly proof: Uint8Array },
): boolean {
  try {
    return verify('sha256', claim.input, key.publicKey, claim.proof);
  } catch {
    return false;
  }
}

function unusable(reason: string): KeyReading {
  return { kind: 'unusable', reason: `cannot use the public key: ${reason}` };
}
