/** What the Secrets of a cluster should hold, and whether what they hold will do. Nothing here touches a file or a network. */
import { createPrivateKey, type X509Certificate } from 'node:crypto';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { parseCertificates } from './authority-file.ts';
import {
  type CertificateAuthority,
  createEnrollmentCa,
  issueCertificate,
  type KeyPair,
  type LeafOptions,
} from './ca.ts';
import { commonNameOf } from './certificate-files.ts';
import { authorityOf, hasSigned } from './issued-files.ts';
import { validityOf } from './validity.ts';

/** Text of a Secret's fields: `ca.crt`, `tls.crt`, `tls.key`. */
export type SecretContent = Readonly<Record<string, string>>;

/** A certificate that a Secret is to hold: one that somebody shows, or the authority of enrollment. */
export type WantedCertificate =
  | { readonly kind: 'leaf'; readonly leaf: LeafOptions }
  | { readonly kind: 'enrollment' };

/** What is to be done about a Secret; `reason` is for people. */
export type SecretDecision =
  | { readonly kind: 'keep' }
  /** The certificate stays, the authorities that are believed with it are others. */
  | { readonly kind: 'change-bundle' }
  | { readonly kind: 'make'; readonly reason: string };

/** What a Secret is judged and made by. */
export interface SecretRules {
  readonly ca: CertificateAuthority;
  /** PEM of all authorities that are to be believed: `ca.crt`. */
  readonly roots: string;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** Judges what is there. A certificate is kept while two thirds of its life are not over, and it is what is wanted. */
export function judgeSecret(
  content: SecretContent | undefined,
  wanted: WantedCertificate,
  { ca, roots, now }: SecretRules,
): SecretDecision {
  if (content === undefined) return { kind: 'make', reason: 'it is not there' };
  const parsed = parseContent(content);
  if (typeof parsed === 'string') return { kind: 'make', reason: parsed };
  const { certificate, ownsKey } = parsed;
  if (!ownsKey) return { kind: 'make', reason: 'its key is not that of its certificate' };
  if (!hasSigned(authorityOf(ca), certificate)) {
    return { kind: 'make', reason: 'another authority has signed it' };
  }
  const validity = validityOf(certificate, now);
  if (validity !== 'good' && !endsWith(ca, certificate)) {
    return { kind: 'make', reason: `it ends ${certificate.validTo}` };
  }
  const other = differenceOf(certificate, wanted);
  if (other !== undefined) return { kind: 'make', reason: other };
  return content['ca.crt'] === roots ? { kind: 'keep' } : { kind: 'change-bundle' };
}

/** Makes what a Secret is to hold. A life never goes on beyond that of its authority. */
export async function makeSecret(
  wanted: WantedCertificate,
  { ca, roots, now }: SecretRules,
  validityDays: number,
): Promise<SecretContent> {
  const notBefore = now - CLOCK_SLACK_MS;
  const notAfter = Math.min(now + validityDays * DAY_MS, endOf(ca));
  const pair = await makePair(wanted, ca, { notBefore, notAfter });
  return { 'ca.crt': roots, 'tls.crt': pair.certificate, 'tls.key': pair.privateKey };
}

const DAY_MS = 86_400_000;
/** Clocks differ. */
const CLOCK_SLACK_MS = 300_000;

async function makePair(
  wanted: WantedCertificate,
  ca: CertificateAuthority,
  life: { readonly notBefore: number; readonly notAfter: number },
): Promise<KeyPair> {
  switch (wanted.kind) {
    case 'leaf':
      return issueCertificate(ca, { ...wanted.leaf, ...life });
    case 'enrollment': {
      const authority = await createEnrollmentCa(ca, life);
      return { certificate: authority.chain.join(''), privateKey: authority.privateKey };
    }
    default:
      return wanted satisfies never;
  }
}

/** The certificate and whether the key is its own, or what is wrong in words. */
function parseContent(
  content: SecretContent,
): { readonly certificate: X509Certificate; readonly ownsKey: boolean } | string {
  const { 'tls.crt': pem, 'tls.key': key } = content;
  if (pem === undefined || key === undefined) return 'it lacks tls.crt or tls.key';
  try {
    const [certificate] = parseCertificates(pem);
    return { certificate, ownsKey: certificate.checkPrivateKey(createPrivateKey(key)) };
  } catch (error) {
    return `it cannot be read: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function differenceOf(certificate: X509Certificate, wanted: WantedCertificate): string | undefined {
  if (wanted.kind === 'enrollment') {
    return certificate.ca ? undefined : 'it is no authority';
  }
  const { commonName, dnsNames = [], ipAddresses = [] } = wanted.leaf;
  if (certificate.ca) return 'it is an authority';
  if (commonNameOf(certificate) !== commonName) return `it is not for ${commonName}`;
  const names = [...dnsNames, ...ipAddresses.map(parseIpAddress)];
  return sorted(names) === sorted(altNamesOf(certificate)) ? undefined : 'it has other names';
}

function altNamesOf(certificate: X509Certificate): string[] {
  return (certificate.subjectAltName?.split(', ') ?? []).map((entry) => {
    const [, address] = /^IP Address:(.+)$/.exec(entry) ?? [];
    return address === undefined ? entry.replace(/^DNS:/, '') : parseIpAddress(address);
  });
}

function sorted(names: readonly string[]): string {
  return [...new Set(names)].sort().join();
}

function endOf(ca: CertificateAuthority): number {
  return Date.parse(authorityOf(ca).validTo);
}

/** Whether a certificate ends with its authority: another one would not last longer. */
function endsWith(ca: CertificateAuthority, certificate: X509Certificate): boolean {
  return endOf(ca) - Date.parse(certificate.validTo) < DAY_MS;
}
