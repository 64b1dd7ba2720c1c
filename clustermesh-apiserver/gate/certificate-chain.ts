/** At which of several CAs a certificate's chain ends. Pure. */
import { X509Certificate } from 'node:crypto';
import type { ChainEnds } from './caller.ts';

const LONGEST_CHAIN = 8;
/** Extended key usage "TLS client" (RFC 5280, 4.2.1.12). */
const CLIENT_USAGE = '1.3.6.1.5.5.7.3.2';
/** "TLS server" and "any" of the same list. */
const SERVER_USAGES: readonly string[] = ['1.3.6.1.5.5.7.3.1', '2.5.29.37.0'];
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** The CAs that the gate believes: for what they may vouch is decided by whose they are. */
export interface TrustBundles {
  readonly own: readonly X509Certificate[];
  readonly peers: ReadonlyMap<string, readonly X509Certificate[]>;
}

/** Reads every certificate of a PEM bundle. Throws an Error when there is none, or one that is not a CA. */
export function parseBundle(pem: Buffer): X509Certificate[] {
  const certificates = (pem.toString('latin1').match(PEM_CERTIFICATE) ?? []).map(
    (block) => new X509Certificate(block),
  );
  if (certificates.length === 0) throw new Error('expected at least one PEM certificate');
  const leaf = certificates.find((certificate) => !certificate.ca);
  if (leaf !== undefined) {
    throw new Error(`expected certificates of authorities, ${leaf.subject} is none`);
  }
  return certificates;
}

/**
 * Finds the bundles that vouch for `leaf` by way of `intermediates`, which its holder sent. A chain that can be read as
 * ending at two different certificates of two owners is nobody's: it was made to be misread. `now` is in milliseconds
 * since 1970.
 */
export function findChainEnds(
  leaf: X509Certificate,
  intermediates: readonly X509Certificate[],
  bundles: TrustBundles,
  now: number,
): ChainEnds {
  const nobody: ChainEnds = { own: false, peers: [], enrolled: false };
  const usages: readonly string[] | undefined = leaf.keyUsage;
  if (usages !== undefined && !usages.includes(CLIENT_USAGE)) return nobody;
  const anchors = new Map<string | undefined, ReadonlySet<string>>();
  let enrolled = false;
  for (const [owner, bundle] of [[undefined, bundles.own] as const, ...bundles.peers]) {
    const found = anchorsOf(leaf, { intermediates, bundle, now });
    if (found.anchors.size > 0) anchors.set(owner, found.anchors);
    enrolled ||= found.enrolled;
  }
  const [first, ...others] = [...anchors.values()];
  if (first === undefined) return nobody;
  const isOneAnchor = others.every((set) => [...set].some((anchor) => first.has(anchor)));
  if (!isOneAnchor) return nobody;
  const peers = [...anchors.keys()].filter((owner) => owner !== undefined).sort();
  return { own: anchors.has(undefined), peers, enrolled };
}

/**
 * Whether an authority is one of enrollment (`createEnrollmentCa` in `pki/`): it names TLS clients as the only ones that it
 * vouches for. Others name no usage, or servers as well.
 */
export function isEnrollmentAuthority(certificate: X509Certificate): boolean {
  const usages: readonly string[] | undefined = certificate.keyUsage;
  if (usages === undefined) return false;
  return usages.includes(CLIENT_USAGE) && !usages.some(vouchesForServers);
}

/** Peers, or `undefined` for ourselves, that trust the same CA: those cannot be told apart by it. */
export function findSharedCas(
  bundles: TrustBundles,
): { readonly ca: string; readonly owners: readonly (string | undefined)[] }[] {
  const owners = new Map<string, { ca: string; owners: (string | undefined)[] }>();
  for (const [owner, bundle] of [[undefined, bundles.own] as const, ...bundles.peers]) {
    for (const key of new Set(bundle.map(publicKeyOf))) {
      const subject = bundle.find((ca) => publicKeyOf(ca) === key)?.subject ?? '';
      const entry = owners.get(key) ?? { ca: subject.replaceAll('\n', ', '), owners: [] };
      entry.owners.push(owner);
      owners.set(key, entry);
    }
  }
  return [...owners.values()].filter((entry) => entry.owners.length > 1);
}

/**
 * Public keys of the bundle's certificates at which a chain from `leaf` ends, and whether any certificate that has signed
 * on the way is of an enrollment authority: one such path is enough, a shorter one beside it frees nobody.
 */
function anchorsOf(
  leaf: X509Certificate,
  options: {
    readonly intermediates: readonly X509Certificate[];
    readonly bundle: readonly X509Certificate[];
    readonly now: number;
  },
): { readonly anchors: ReadonlySet<string>; readonly enrolled: boolean } {
  const { bundle, now } = options;
  const intermediates = options.intermediates.slice(0, LONGEST_CHAIN);
  const found = new Set<string>();
  let enrolled = false;
  const visited = new Set<string>();
  let level: X509Certificate[] = [leaf];
  for (let depth = 0; depth < LONGEST_CHAIN && level.length > 0; depth += 1) {
    const next: X509Certificate[] = [];
    for (const certificate of level) {
      visited.add(certificate.fingerprint256);
      for (const anchor of bundle) {
        if (!hasIssued(anchor, certificate, now)) continue;
        found.add(publicKeyOf(anchor));
        enrolled ||= isEnrollmentAuthority(anchor);
      }
      for (const issuer of intermediates) {
        if (visited.has(issuer.fingerprint256) || !hasIssued(issuer, certificate, now)) continue;
        next.push(issuer);
        enrolled ||= isEnrollmentAuthority(issuer);
      }
    }
    level = next;
  }
  return { anchors: found, enrolled };
}

function vouchesForServers(usage: string): boolean {
  return SERVER_USAGES.includes(usage);
}

function hasIssued(issuer: X509Certificate, certificate: X509Certificate, now: number): boolean {
  return (
    issuer.ca &&
    isWithinValidity(issuer, now) &&
    certificate.checkIssued(issuer) &&
    certificate.verify(issuer.publicKey)
  );
}

/** Whether a certificate is valid at `now`, in milliseconds since 1970. */
export function isWithinValidity(certificate: X509Certificate, now: number): boolean {
  return Date.parse(certificate.validFrom) <= now && now <= Date.parse(certificate.validTo);
}

function publicKeyOf(certificate: X509Certificate): string {
  const known = publicKeys.get(certificate);
  if (known !== undefined) return known;
  const text = certificate.publicKey.export({ type: 'spki', format: 'der' }).toString('base64');
  publicKeys.set(certificate, text);
  return text;
}

/** Of the same few authorities, asked for with each connection. */
const publicKeys = new WeakMap<X509Certificate, string>();
