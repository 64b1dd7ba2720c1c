/** What a person is told of a certificate that cannot be used: which one, from when to when, and what is wrong with it. Pure. */
import type { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';

/** What can be wrong with a certificate that somebody shows. */
export type CertificateFault = 'expired' | 'not-yet-valid' | 'wrong-ca' | 'wrong-name';

/** A fault with the words for it. */
export interface CertificateFinding {
  readonly fault: CertificateFault;
  readonly text: string;
}

/** A certificate by its subject, SHA-256 fingerprint and validity, on one line. */
export function describeCertificate(certificate: X509Certificate): string {
  const { validFrom, validTo } = certificate;
  return `${subjectOf(certificate)}, SHA-256 ${fingerprint(certificate)}, valid ${iso(validFrom)} to ${iso(validTo)}`;
}

/** Says when a certificate is not valid at `now`, in milliseconds since 1970; undefined when it is. */
export function findDateFault(
  certificate: X509Certificate,
  now: number,
): (CertificateFinding & { readonly fault: 'expired' | 'not-yet-valid' }) | undefined {
  const [from, to] = [Date.parse(certificate.validFrom), Date.parse(certificate.validTo)];
  const which = describeCertificate(certificate);
  const clock = `the clock here says ${new Date(now).toISOString()}`;
  if (now > to) return { fault: 'expired', text: `certificate expired (${which}; ${clock})` };
  if (now < from) {
    return { fault: 'not-yet-valid', text: `certificate is not yet valid (${which}; ${clock})` };
  }
  return undefined;
}

/**
 * Says why a server is not believed that shows `chain`, its own certificate first; undefined when nothing is found wrong.
 * `host` is the name or address that the certificate has to be for.
 */
export function findServerFault(
  chain: readonly X509Certificate[],
  options: {
    readonly authorities: readonly X509Certificate[];
    readonly host: string;
    readonly now: number;
  },
): CertificateFinding | undefined {
  const { authorities, host, now } = options;
  const [leaf] = chain;
  if (leaf === undefined) return undefined;
  const path = pathOf(leaf, { chain, authorities });
  for (const certificate of path.certificates) {
    const fault = findDateFault(certificate, now);
    if (fault !== undefined) return fault;
  }
  if (!path.isAnchored) {
    const trusted = authorities.map(describeCertificate).join('; ');
    return {
      fault: 'wrong-ca',
      text: `certificate is of an authority that is not trusted (${describeCertificate(leaf)}, issued by ${oneLine(leaf.issuer)}; trusted: ${trusted === '' ? 'none' : trusted})`,
    };
  }
  const isForHost = isIP(host) === 0 ? leaf.checkHost(host) : leaf.checkIP(host);
  if (isForHost === undefined) {
    const names = leaf.subjectAltName ?? 'no names';
    return {
      fault: 'wrong-name',
      text: `certificate is not for ${host} (${describeCertificate(leaf)}, for ${names})`,
    };
  }
  return undefined;
}

/** From a leaf upwards as far as each certificate's issuer is known. */
function pathOf(
  leaf: X509Certificate,
  options: {
    readonly chain: readonly X509Certificate[];
    readonly authorities: readonly X509Certificate[];
  },
): { readonly certificates: readonly X509Certificate[]; readonly isAnchored: boolean } {
  const certificates = [leaf];
  for (;;) {
    const lowest = certificates.at(-1) ?? leaf;
    const isSigner = (issuer: X509Certificate): boolean =>
      lowest.checkIssued(issuer) && lowest.verify(issuer.publicKey);
    const anchor = options.authorities.find(
      (authority) => isSigner(authority) || authority.fingerprint256 === lowest.fingerprint256,
    );
    if (anchor !== undefined) return { certificates: [...certificates, anchor], isAnchored: true };
    const next = options.chain.find((issuer) => !certificates.includes(issuer) && isSigner(issuer));
    if (next === undefined) return { certificates, isAnchored: false };
    certificates.push(next);
  }
}

/** Lower-case hex without colons, as revocations name a certificate. */
function fingerprint(certificate: X509Certificate): string {
  return certificate.fingerprint256.replaceAll(':', '').toLowerCase();
}

function subjectOf(certificate: X509Certificate): string {
  return certificate.subject === '' || certificate.subject === undefined
    ? 'without a name'
    : oneLine(certificate.subject);
}

function oneLine(name: string): string {
  return name.replaceAll('\n', ', ');
}

function iso(date: string): string {
  return new Date(date).toISOString().replace('.000Z', 'Z');
}
