/** Reading back an authority that was written, or that somebody put there: checked before anything is signed with it. */
import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CertificateAuthority } from './ca.ts';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** Why a file of certificates cannot be used. */
export class PkiError extends Error {
  readonly code:
    | 'unreadable'
    | 'not-an-authority'
    | 'key-mismatch'
    | 'expired'
    | 'not-ours'
    | 'wrong-stage';
  readonly retryable = false;

  constructor(code: PkiError['code'], message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'PkiError';
    this.code = code;
  }
}

/**
 * Reads `ca.crt` and `ca.key` of a folder. While an authority is being replaced, `ca.crt` holds several: the one of the key signs.
 * Throws PkiError naming the file: unreadable, no authority, signed by another one, no RSA key, a key of another
 * certificate, expired.
 */
export async function readCa(
  folder: string,
  now: number = Date.now(),
): Promise<CertificateAuthority> {
  return readAuthority({ certificate: join(folder, 'ca.crt'), key: join(folder, 'ca.key') }, now);
}

/** The same for two files of any name. */
export async function readAuthority(
  files: { readonly certificate: string; readonly key: string },
  now: number,
): Promise<CertificateAuthority> {
  const bundle = await parsed(files.certificate, parseCertificates);
  const key = await parsed(files.key, (text) => createPrivateKey(text));
  return checkedAuthority({ bundle, key }, files, now);
}

/** The same for two texts in PEM form; `names` says in messages where they are from. */
export function parseAuthority(
  pem: { readonly certificate: string; readonly key: string },
  names: { readonly certificate: string; readonly key: string },
  now: number,
): CertificateAuthority {
  const bundle = parsedText(names.certificate, () => parseCertificates(pem.certificate));
  const key = parsedText(names.key, () => createPrivateKey(pem.key));
  return checkedAuthority({ bundle, key }, names, now);
}

function checkedAuthority(
  {
    bundle,
    key,
  }: { readonly bundle: readonly [X509Certificate, ...X509Certificate[]]; readonly key: KeyObject },
  files: { readonly certificate: string; readonly key: string },
  now: number,
): CertificateAuthority {
  const certificate = bundle.find((one) => samePublicKey(one, key)) ?? bundle[0];
  checkAuthority(certificate, files.certificate);
  if (!certificate.verify(certificate.publicKey)) {
    throw new PkiError(
      'not-an-authority',
      `cannot sign with ${files.certificate}: another authority signed it, expected a root`,
    );
  }
  checkKey(key, { certificate, certificateFile: files.certificate, keyFile: files.key });
  checkEnd(certificate, { file: files.certificate, now });
  const pem = certificate.toString();
  return { certificate: pem, privateKey: exportKey(key), root: pem, chain: [] };
}

/** Every root of a folder's `ca.crt`, PEM: what is believed of its authority, two while it is being replaced. */
export async function readRoots(folder: string): Promise<string> {
  return (await parsed(join(folder, 'ca.crt'), parseCertificates)).map(String).join('');
}

/** Certificates of a PEM file, in their order. Throws an Error when there is none or one that is damaged. */
export function parseCertificates(text: string): [X509Certificate, ...X509Certificate[]] {
  const [first, ...others] = (text.match(PEM_CERTIFICATE) ?? []).map(
    (block) => new X509Certificate(block),
  );
  if (first === undefined) throw new Error('expected at least one PEM certificate');
  return [first, ...others];
}

function checkAuthority(certificate: X509Certificate, file: string): void {
  if (certificate.ca) return;
  throw new PkiError(
    'not-an-authority',
    `cannot sign with ${file}: it is no authority's certificate`,
  );
}

function checkKey(
  key: KeyObject,
  options: {
    readonly certificate: X509Certificate;
    readonly certificateFile: string;
    readonly keyFile: string;
  },
): void {
  const { certificate, certificateFile, keyFile } = options;
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
}

function checkEnd(
  certificate: X509Certificate,
  options: { readonly file: string; readonly now: number },
): void {
  const { file, now } = options;
  if (Date.parse(certificate.validTo) > now) return;
  throw new PkiError(
    'expired',
    `cannot sign with ${file}: it ended ${certificate.validTo}; make a new one with "clustermesh pki init"`,
  );
}

function exportKey(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}

function samePublicKey(certificate: X509Certificate, key: KeyObject): boolean {
  return certificate.publicKey.equals(createPublicKey(key));
}

async function parsed<T>(file: string, parse: (text: string) => T): Promise<T> {
  try {
    return parse(await readFile(file, 'utf8'));
  } catch (cause) {
    throw unreadable(file, cause);
  }
}

function parsedText<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw unreadable(name, cause);
  }
}

function unreadable(name: string, cause: unknown): PkiError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new PkiError('unreadable', `cannot read ${name}: ${reason}`, { cause });
}
