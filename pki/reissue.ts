/** A certificate of ours made anew: another key, the same name, names and use, and a life as long as before. */
import type { X509Certificate } from 'node:crypto';
import { PkiError } from './authority-file.ts';
import {
  type CertificateAuthority,
  createEnrollmentCa,
  issueCertificate,
  type KeyPair,
  type LeafOptions,
} from './ca.ts';
import { type CertificateFile, commonNameOf } from './certificate-files.ts';

const SERVER_USAGE = '1.3.6.1.5.5.7.3.1';
const CLIENT_USAGE = '1.3.6.1.5.5.7.3.2';
/** The beginning of a new certificate lies back this far: clocks differ. */
const CLOCK_SLACK_MS = 300_000;

/**
 * Makes what a file holds anew, signed by `ca`. A life never goes on beyond that of its authority. Throws PkiError
 * `not-ours` for a certificate of a form that `clustermesh pki` does not make.
 */
export async function reissue(
  ca: CertificateAuthority,
  file: Pick<CertificateFile, 'path' | 'certificates'>,
  options: { readonly now: number; readonly authority: X509Certificate },
): Promise<KeyPair> {
  const [old] = file.certificates;
  const notBefore = options.now - CLOCK_SLACK_MS;
  const life = Date.parse(old.validTo) - Date.parse(old.validFrom);
  const notAfter = Math.min(notBefore + life, Date.parse(options.authority.validTo));
  const commonName = commonNameOf(old);
  if (commonName === undefined) throw notOurs(file.path, 'its subject is more than a common name');
  if (old.ca) {
    if (old.issuer === old.subject || old.keyUsage?.join() !== CLIENT_USAGE) {
      throw notOurs(file.path, 'it is an authority, and none of enrollment');
    }
    const below = await createEnrollmentCa(ca, { commonName, notBefore, notAfter });
    return { certificate: below.chain.join(''), privateKey: below.privateKey };
  }
  const leaf = { commonName, notBefore, notAfter, ...usageOf(old, file.path) };
  return issueCertificate(ca, { ...leaf, ...altNamesOf(old, file.path) });
}

function usageOf(certificate: X509Certificate, path: string): Pick<LeafOptions, 'usage'> {
  const usages: readonly string[] = certificate.keyUsage ?? [];
  switch (usages.join()) {
    case SERVER_USAGE:
      return { usage: 'server' };
    case CLIENT_USAGE:
      return { usage: 'client' };
    default:
      throw notOurs(path, 'it is for more or less than a server or a client');
  }
}

function altNamesOf(
  certificate: X509Certificate,
  path: string,
): Pick<LeafOptions, 'dnsNames' | 'ipAddresses'> {
  const dnsNames: string[] = [];
  const ipAddresses: string[] = [];
  for (const name of certificate.subjectAltName?.split(', ') ?? []) {
    const [, kind, value = ''] = /^(DNS|IP Address):([^",]+)$/.exec(name) ?? [];
    if (kind === 'DNS') dnsNames.push(value);
    else if (kind === 'IP Address') ipAddresses.push(value);
    else throw notOurs(path, `it has a name of another kind, ${name}`);
  }
  return { dnsNames, ipAddresses };
}

function notOurs(path: string, why: string): PkiError {
  return new PkiError('not-ours', `cannot make ${path} anew: ${why}; use what it was made with`);
}
