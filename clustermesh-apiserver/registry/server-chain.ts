/** The server's certificate as a stranger has to see it: up to the authority that a token names. Pure. */
import { X509Certificate } from 'node:crypto';
import { anchorOf } from '../../mesh/wire/enrollment-token.ts';

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;
const LONGEST_CHAIN = 8;

/** What a server shows to those who know nothing but a token. */
export interface ServerChain {
  /** PEM: the leaf, its intermediates and the authority at the end. */
  readonly pem: string;
  /** SHA-256 of that authority's public key (SPKI, DER). */
  readonly anchor: Buffer;
  /** A name in the certificate. */
  readonly serverName: string;
}

/**
 * Reads a server's certificate with its intermediates (PEM) and finds the authority at which it ends. Throws an Error when
 * it ends at none of them. `preferredName` is taken as the name if the certificate has it.
 */
export function readServerChain(
  cert: Buffer,
  options: { readonly own: readonly X509Certificate[]; readonly preferredName: string },
): ServerChain {
  const { own, preferredName } = options;
  const shown = (cert.toString('latin1').match(PEM_CERTIFICATE) ?? []).map(
    (block) => new X509Certificate(block),
  );
  const [leaf] = shown;
  if (leaf === undefined) throw new Error('expected a certificate in PEM form');
  const chain = [leaf];
  for (let last = leaf; chain.length <= LONGEST_CHAIN; ) {
    const anchor = own.find((authority) => isIssuedBy(last, authority));
    if (anchor !== undefined) {
      const pem = [...chain, anchor].map((one) => one.toString()).join('');
      return { pem, anchor: anchorOf(anchor.raw), serverName: nameOf(leaf, preferredName) };
    }
    const next = shown.find((one) => !chain.includes(one) && isIssuedBy(last, one));
    if (next === undefined) break;
    chain.push(next);
    last = next;
  }
  throw new Error("it ends at none of the cluster's own authorities, by which machines know it");
}

function isIssuedBy(certificate: X509Certificate, authority: X509Certificate): boolean {
  return (
    authority.ca && certificate.checkIssued(authority) && certificate.verify(authority.publicKey)
  );
}

function nameOf(leaf: X509Certificate, preferred: string): string {
  if (leaf.checkHost(preferred) !== undefined) return preferred;
  const names = (leaf.subjectAltName ?? '').split(', ').flatMap((entry) => {
    const name = /^DNS:([^*"]+)$/.exec(entry)?.[1];
    return name === undefined ? [] : [name];
  });
  return names[0] ?? preferred;
}
