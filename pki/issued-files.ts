/** Certificates in files that one authority has issued, and putting others in their place. */
import type { X509Certificate } from 'node:crypto';
import { PkiError, parseCertificates } from './authority-file.ts';
import type { CertificateAuthority } from './ca.ts';
import type { CertificateFile } from './certificate-files.ts';
import { writePrivateFile } from './layout.ts';
import { reissue } from './reissue.ts';

/** A file with a key beside it, whose certificate can be made anew. */
export interface IssuedFile extends CertificateFile {
  readonly keyFile: string;
}

/** Files with a key whose certificate is directly below one of these authorities. */
export function issuedBy(
  authorities: readonly X509Certificate[],
  files: readonly CertificateFile[],
): IssuedFile[] {
  return files.filter(
    (file): file is IssuedFile =>
      file.keyFile !== undefined &&
      file.kind !== 'bundle' &&
      authorities.some((authority) => hasSigned(authority, file.certificates[0])),
  );
}

/** Whether `issuer` has signed `certificate`, and is not the same. */
export function hasSigned(issuer: X509Certificate, certificate: X509Certificate): boolean {
  return (
    issuer.fingerprint256 !== certificate.fingerprint256 &&
    certificate.checkIssued(issuer) &&
    certificate.verify(issuer.publicKey)
  );
}

/**
 * Puts a new certificate and a new key in the place of a file's own, the key first: a program that reads again when the
 * certificate changes finds the key that belongs to it. If it ends in between, the next renewal finds a key that does not
 * fit, and makes both anew.
 */
export async function renewFile(
  ca: CertificateAuthority,
  file: IssuedFile,
  now: number,
): Promise<X509Certificate> {
  const authority = authorityOf(ca);
  if (Date.parse(authority.validTo) <= now) {
    throw new PkiError(
      'expired',
      `cannot sign ${file.path}: the authority ended ${authority.validTo}`,
    );
  }
  const pair = await reissue(ca, file, { now, authority });
  await writePrivateFile(file.keyFile, pair.privateKey);
  await writePrivateFile(file.path, pair.certificate);
  return parseCertificates(pair.certificate)[0];
}

/** The certificate that an authority signs with. */
export function authorityOf(ca: CertificateAuthority): X509Certificate {
  return parseCertificates(ca.certificate)[0];
}
