/** The list of certificates that are no longer to be believed. Pure. */
import { parse } from 'yaml';

/** What is revoked: certificates and intermediate authorities by the SHA-256 of their DER form, and every certificate of a name. */
export interface Revocations {
  readonly fingerprints: ReadonlySet<string>;
  readonly commonNames: ReadonlySet<string>;
}

export const NO_REVOCATIONS: Revocations = { fingerprints: new Set(), commonNames: new Set() };

/**
 * Reads the revocation file: a YAML list of `{ fingerprint: <SHA-256, hex, colons allowed> }` and `{ commonName: <name> }`; an empty
 * file revokes nothing. Throws an Error that names the entry.
 */
export function parseRevocations(content: string): Revocations {
  const list: unknown = parse(content) ?? [];
  if (!Array.isArray(list)) throw new Error('expected a list of fingerprint or commonName entries');
  const fingerprints = new Set<string>();
  const commonNames = new Set<string>();
  for (const [index, entry] of list.entries()) {
    const { fingerprint, commonName } = (entry ?? {}) as Record<string, unknown>;
    if (typeof commonName === 'string' && commonName !== '' && fingerprint === undefined) {
      commonNames.add(commonName);
    } else if (typeof fingerprint === 'string' && commonName === undefined) {
      fingerprints.add(parseFingerprint(fingerprint, index));
    } else {
      throw new Error(`entry ${index + 1}: expected either fingerprint or commonName as text`);
    }
  }
  return { fingerprints, commonNames };
}

/**
 * Whether a certificate is revoked: itself, by its name, or with an authority between it and its root. `fingerprints` are its own
 * and those of the authorities that came with it.
 */
export function isRevoked(
  certificate: { readonly fingerprints: readonly string[]; readonly commonName: string },
  revocations: Revocations,
): boolean {
  return (
    certificate.fingerprints.some((one) => revocations.fingerprints.has(one)) ||
    revocations.commonNames.has(certificate.commonName)
  );
}

/** SHA-256 fingerprint in lower-case hex without colons. */
export function plainFingerprint(fingerprint256: string): string {
  return fingerprint256.replaceAll(':', '').toLowerCase();
}

function parseFingerprint(text: string, index: number): string {
  const plain = plainFingerprint(text);
  if (!/^[0-9a-f]{64}$/.test(plain)) {
    throw new Error(`entry ${index + 1}: fingerprint is not a SHA-256 (64 hex digits)`);
  }
  return plain;
}
