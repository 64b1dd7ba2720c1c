/** Reading back an authority that was written, or that somebody put there: checked before anything is signed with it. */
import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CertificateAuthority } from './ca.ts';

/** Why a file of certificates cannot be used. */
export class PkiError extends Error {
  readonly code: 'unreadable' | 'not-an-authority' | 'key-mismatch' | 'expired' | 'exists';
  readonly retryable = false;

  constructor(code: PkiError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'PkiError';
    this.code = code;
  }
}

/**
 * Reads `ca.crt` and `ca.key` of a folder. Throws PkiError naming the file: unreadable, no authority, signed by another one,
 * no RSA key, a key of another certificate, expired.
 */
export async function readCa(
  folder: string,
  now: number = Date.now(),
): Promise<CertificateAuthority> {
  const certificateFile = join(folder, 'ca.crt');
  const keyFile = join(folder, 'ca.key');
  const certificate = await parsed(certificateFile, (text) => new X509Certificate(text));
  const key = await parsed(keyFile, (text) => createPrivateKey(text));
  checkAuthority(certificate, certificateFile);
  if (key.asymmetricKeyType !== 'rsa') {
    throw new PkiError(
      'not-an-authority',
      `cannot sign with ${keyFile}: it is ${key.asymmetricKeyType}, expected an RSA key`,
    );
  }
  if (!samePublicKey(certificate, key)) {
    throw new PkiError(
      'key-mismatch',
      `cannot sign with ${keyFile}: it is not the key of ${certificateFile}`,
    );
  }
  if (Date.parse(certificate.validTo) <= now) {
    throw new PkiError(
      'expired',
      `cannot sign with ${certificateFile}: it ended ${certificate.validTo}; make a new one with "clustermesh pki init"`,
    );
  }
  const pem = certificate.toString();
  return {
    certificate: pem,
    privateKey: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    root: pem,
    chain: [],
  };
}

function checkAuthority(certificate: X509Certificate, file: string): void {
  if (!certificate.ca) {
    throw new PkiError(
      'not-an-authority',
      `cannot sign with ${file}: it is no authority's certificate`,
    );
  }
  if (!certificate.verify(certificate.publicKey)) {
    throw new PkiError(
      'not-an-authority',
      `cannot sign with ${file}: another authority signed it, expected a root`,
    );
  }
}

function samePublicKey(certificate: X509Certificate, key: KeyObject): boolean {
  return certificate.publicKey.equals(createPublicKey(key));
}

async function parsed<T>(file: string, parse: (text: string) => T): Promise<T> {
  try {
    return parse(await readFile(file, 'utf8'));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new PkiError('unreadable', `cannot read ${file}: ${reason}`, { cause });
  }
}
