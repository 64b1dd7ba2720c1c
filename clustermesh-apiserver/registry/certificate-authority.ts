/**
 * The authority that the registry signs with: an intermediate one that may vouch for TLS clients alone. Its files are followed,
 * so that another one takes its place without a restart.
 */
import {
  createPrivateKey,
  createPublicKey,
  type KeyObject,
  type X509Certificate,
} from 'node:crypto';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { fingerprintOf, issueForKey } from '../../pki/ca.ts';
import { isEnrollmentAuthority, isWithinValidity, parseBundle } from '../gate/certificate-chain.ts';
import { type FileContents, watchFiles } from '../gate/watch-files.ts';
import { RegistryError } from './registry-error.ts';

/** A certificate that would be valid for less is not worth its trouble. */
const LEAST_LIFE_MS = 10_000;

/** Files of the authority. */
export interface CertificateAuthorityFiles {
  /** The intermediate, and those between it and the root if there are any. */
  readonly certFile: string;
  readonly keyFile: string;
  /** Authorities of the own cluster, at one of which the intermediate ends; what machines are told to believe. */
  readonly ownCaFile: string;
}

/** A certificate that was issued. */
export interface IssuedCertificate {
  /** PEM: the leaf, then its intermediates. */
  readonly certificate: string;
  /** Milliseconds since 1970. */
  readonly notAfter: number;
}

/** Whether certificates can be had now. `reason` is for people. */
export type AuthorityState =
  | { readonly kind: 'usable'; readonly notAfter: number }
  | { readonly kind: 'unusable'; readonly reason: string };

/** Signs. Disposing stops following the files. */
export interface IssuingAuthority extends AsyncDisposable {
  readonly state: AuthorityState;
  /** PEM of the authorities of the own cluster. */
  readonly trustBundle: string;
  /** SHA-256 of its certificate in lower-case hex. */
  readonly fingerprint: string;
  /** When a certificate would run out that was issued now, milliseconds since 1970. */
  notAfter(): number;
  /** Issues a certificate for TLS clients. Throws RegistryError `file` while `state` is `unusable`. */
  issue(options: {
    readonly commonName: string;
    readonly publicKey: KeyObject;
    readonly notAfter: number;
    /** Written beside the common name. Default: none. */
    readonly uris?: readonly string[];
  }): IssuedCertificate;
}

interface Material {
  readonly certificate: X509Certificate;
  readonly chain: readonly string[];
  readonly privateKey: string;
  readonly trustBundle: string;
}

/**
 * Reads the files and follows them; what becomes unusable keeps its last good content. Throws RegistryError `file` when there is
 * nothing good to begin with.
 */
export async function openIssuingAuthority(
  files: CertificateAuthorityFiles,
  options: {
    /** How long certificates are valid. */
    readonly ttlMs: number;
    readonly clock: Clock;
    readonly signal: AbortSignal;
    readonly logger: Logger;
  },
): Promise<IssuingAuthority> {
  const { ttlMs, clock, logger } = options;
  const stopping = new AbortController();
  const signal = AbortSignal.any([options.signal, stopping.signal]);
  const contents = watchFiles([files.certFile, files.keyFile, files.ownCaFile], { signal, clock });
  const first = await contents.next();
  if (first.done) throw signal.reason;
  let material = readMaterial(files, first.value, clock.now());

  const follow = async (): Promise<void> => {
    for await (const changed of contents) {
      try {
        material = readMaterial(files, changed, clock.now());
        logger.info(
          { subject: material.certificate.subject, validTo: material.certificate.validTo },
          'the enrollment authority was read again',
        );
      } catch (error) {
        if (!(error instanceof RegistryError)) throw error;
        logger.warn({ err: error }, 'the enrollment authority stays as it was');
      }
    }
  };
  const following = follow();
  const endOf = (): number => Date.parse(material.certificate.validTo);
  const state = (): AuthorityState => {
    const notAfter = endOf();
    return notAfter - clock.now() < LEAST_LIFE_MS
      ? {
          kind: 'unusable',
          reason: `the enrollment authority in ${files.certFile} ended ${material.certificate.validTo}: make a new one with \`clustermesh pki enrollment\``,
        }
      : { kind: 'usable', notAfter };
  };
  return {
    get state() {
      return state();
    },
    get trustBundle() {
      return material.trustBundle;
    },
    get fingerprint() {
      return fingerprintOf(material.certificate.raw);
    },
    // A leaf that outlives its authority is refused all the same: better that its holder knows when.
    notAfter: () => Math.min(clock.now() + ttlMs, endOf()),
    issue({ commonName, publicKey, notAfter, uris = [] }) {
      const now = state();
      if (now.kind === 'unusable') throw unusable(now.reason);
      const { certificate, chain, privateKey, trustBundle } = material;
      const leaf = issueForKey(
        { certificate: certificate.toString(), privateKey, root: trustBundle, chain },
        {
          commonName,
          usage: 'client',
          publicKey,
          uris,
          notBefore: clock.now() - 300_000,
          notAfter,
        },
      );
      return { certificate: leaf, notAfter };
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await following;
    },
  };
}

function readMaterial(
  files: CertificateAuthorityFiles,
  contents: FileContents,
  now: number,
): Material {
  const { certFile, keyFile, ownCaFile } = files;
  const [certificate, ...between] = parsed(certFile, contents, parseBundle);
  const own = parsed(ownCaFile, contents, parseBundle);
  const key = parsed(keyFile, contents, (pem) => createPrivateKey(pem));
  if (certificate === undefined) throw unusable(`cannot use ${certFile}: it holds no certificate`);
  if (key.asymmetricKeyType !== 'rsa') {
    throw unusable(`cannot use ${keyFile}: it is ${key.asymmetricKeyType}, expected an RSA key`);
  }
  if (!certificate.publicKey.equals(createPublicKey(key))) {
    throw unusable(`cannot use ${keyFile}: it is not the key of ${certFile}`);
  }
  if (!isEnrollmentAuthority(certificate)) {
    throw unusable(
      `cannot use ${certFile}: it may sign servers and administrators, too; make one for enrollment with \`clustermesh pki enrollment\``,
    );
  }
  if (!isWithinValidity(certificate, now)) {
    throw unusable(
      `cannot use ${certFile}: it is valid from ${certificate.validFrom} to ${certificate.validTo} alone`,
    );
  }
  if (!endsAt(own, [certificate, ...between])) {
    throw unusable(
      `cannot use ${certFile}: none of the authorities in ${ownCaFile} has signed it, so nobody would believe its certificates`,
    );
  }
  return {
    certificate,
    chain: [certificate, ...between].map((one) => one.toString()),
    privateKey: key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    trustBundle: own.map((one) => one.toString()).join(''),
  };
}

/** Whether a chain, each signed by the next, ends at one of the authorities. */
function endsAt(own: readonly X509Certificate[], chain: readonly X509Certificate[]): boolean {
  return chain.every((certificate, index) => {
    const next = chain[index + 1];
    const issuers = next === undefined ? own : [next, ...own];
    return issuers.some(
      (issuer) => certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey),
    );
  });
}

function parsed<T>(file: string, contents: FileContents, parse: (pem: Buffer) => T): T {
  const content = contents.get(file);
  if (!Buffer.isBuffer(content)) {
    throw unusable(`cannot read ${file}: ${content?.message ?? 'it was not read'}`);
  }
  try {
    return parse(content);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw unusable(`cannot use ${file}: ${why}`, cause);
  }
}

function unusable(message: string, cause?: unknown): RegistryError {
  return new RegistryError('file', message, { retryable: false, cause });
}
