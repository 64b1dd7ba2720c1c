/**
 * Certificates are built by node-forge, because `node:crypto` cannot make them; keys come from `node:crypto`, and everything that
 * reads a certificate is `node:crypto` too: forge parses nothing but what this module has made.
 */
import {
  createPublicKey,
  generateKeyPair,
  type KeyObject,
  randomBytes,
  sign as rsaSign,
  X509Certificate,
} from 'node:crypto';
import { isIP } from 'node:net';
import { promisify } from 'node:util';
import forge from 'node-forge';

/** A certificate with its private key, both PEM. */
export interface KeyPair {
  readonly certificate: string;
  readonly privateKey: string;
}

/** A certificate authority. `chain` is what a leaf's file carries behind the leaf: the intermediates, without the root. */
export interface CertificateAuthority extends KeyPair {
  /** Root certificate that verifiers trust. */
  readonly root: string;
  readonly chain: readonly string[];
}

/** How long and from when a certificate is valid. The beginning lies a little back: clocks differ. */
export interface ValidityOptions {
  /** Default 1095, as Cilium's charts. */
  readonly validityDays?: number;
  /** Milliseconds since 1970; default five minutes ago. */
  readonly notBefore?: number;
  /** Overrides `validityDays`; milliseconds since 1970. */
  readonly notAfter?: number;
}

export interface LeafOptions extends ValidityOptions {
  readonly commonName: string;
  readonly usage: 'server' | 'client';
  readonly dnsNames?: readonly string[];
  readonly ipAddresses?: readonly string[];
  /** ASCII. */
  readonly uris?: readonly string[];
}

const DAY_MS = 86_400_000;
const CLOCK_SLACK_MS = 300_000;
const RSA_BITS = 2048;
const ENROLLMENT_CA_NAME = 'Isthmus enrollment CA';
const generate = promisify(generateKeyPair);

/** Makes a self-signed authority. The name is Cilium's own by default, so that its tools recognise it. */
export async function createCa(
  options: ValidityOptions & { commonName?: string } = {},
): Promise<CertificateAuthority> {
  const { commonName = 'Cilium CA' } = options;
  const keys = await makeKeys();
  const certificate = newCertificate(keys.publicKey, commonName, options);
  certificate.setIssuer(certificate.subject.attributes);
  certificate.setExtensions(caExtensions());
  const pem = sign(certificate, keys.privateKey);
  return { certificate: pem, privateKey: keys.privateKey, root: pem, chain: [] };
}

/** Makes an authority below another: what it signs carries its certificate along, and verifiers need the root alone. */
export async function createIntermediateCa(
  parent: CertificateAuthority,
  options: ValidityOptions & { commonName: string },
): Promise<CertificateAuthority> {
  return createAuthorityBelow(parent, { ...options, extensions: caExtensions() });
}

/**
 * Makes the authority that a registry signs machines, nodes and peers with. It may vouch for TLS clients alone and for no
 * further authority, so a server by it is believed by no client; gate and registry know it by that usage, and take
 * nothing below it for an administrator, a local reader or a nameless peer (`clustermesh-apiserver/gate/certificate-chain.ts`).
 */
export async function createEnrollmentCa(
  parent: CertificateAuthority,
  options: ValidityOptions & { commonName?: string } = {},
): Promise<CertificateAuthority> {
  const { commonName = ENROLLMENT_CA_NAME } = options;
  const extensions = [
    ...caExtensions({ pathLenConstraint: 0 }),
    { name: 'extKeyUsage', clientAuth: true },
  ];
  return createAuthorityBelow(parent, { ...options, commonName, extensions });
}

async function createAuthorityBelow(
  parent: CertificateAuthority,
  options: ValidityOptions & {
    readonly commonName: string;
    readonly extensions: readonly Record<string, unknown>[];
  },
): Promise<CertificateAuthority> {
  const keys = await makeKeys();
  const certificate = newCertificate(keys.publicKey, options.commonName, options);
  certificate.setIssuer(forge.pki.certificateFromPem(parent.certificate).subject.attributes);
  certificate.setExtensions([...options.extensions, ...authorityKeyId(parent)]);
  const pem = sign(certificate, parent.privateKey);
  return {
    certificate: pem,
    privateKey: keys.privateKey,
    root: parent.root,
    chain: [pem, ...parent.chain],
  };
}

/** Makes a leaf certificate with a new key; `certificate` holds the leaf and its intermediates. */
export async function issueCertificate(
  ca: CertificateAuthority,
  options: LeafOptions,
): Promise<KeyPair> {
  const { publicKey, privateKey } = await makeKeys();
  const certificate = issueForKey(ca, { ...options, publicKey: createPublicKey(publicKey) });
  return { certificate, privateKey };
}

/**
 * Makes a leaf certificate for a public key whose private half is elsewhere: the leaf and its intermediates, PEM. `publicKey`
 * is RSA; what forge reads of it is what `node:crypto` has written.
 */
export function issueForKey(
  ca: CertificateAuthority,
  options: LeafOptions & { readonly publicKey: KeyObject },
): string {
  const publicKey = options.publicKey.export({ type: 'spki', format: 'pem' }).toString();
  const certificate = newCertificate(publicKey, options.commonName, options);
  certificate.setIssuer(forge.pki.certificateFromPem(ca.certificate).subject.attributes);
  const altNames = [
    ...(options.dnsNames ?? []).map((value) => ({ type: 2, value })),
    ...(options.ipAddresses ?? []).map((ip) => ({ type: 7, ip: checkedIp(ip) })),
    ...(options.uris ?? []).map((value) => ({ type: 6, value })),
  ];
  certificate.setExtensions([
    { name: 'basicConstraints', cA: false, critical: true },
    { name: 'keyUsage', critical: true, digitalSignature: true, keyEncipherment: true },
    {
      name: 'extKeyUsage',
      serverAuth: options.usage === 'server',
      clientAuth: options.usage === 'client',
    },
    { name: 'subjectKeyIdentifier' },
    ...authorityKeyId(ca),
    ...(altNames.length > 0 ? [{ name: 'subjectAltName', altNames }] : []),
  ]);
  const leaf = sign(certificate, ca.privateKey);
  return [leaf, ...ca.chain].join('');
}

/** SHA-256 of a certificate in lower-case hex without colons, the form in which revocations name it. */
export function fingerprintOf(certificate: string | Buffer): string {
  return new X509Certificate(certificate).fingerprint256.replaceAll(':', '').toLowerCase();
}

async function makeKeys(): Promise<{ publicKey: string; privateKey: string }> {
  return generate('rsa', {
    modulusLength: RSA_BITS,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  });
}

function newCertificate(
  publicKey: string,
  commonName: string,
  options: ValidityOptions,
): forge.pki.Certificate {
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = forge.pki.publicKeyFromPem(publicKey);
  // A positive number of 127 random bits: serial numbers must not repeat below one issuer.
  const serial = randomBytes(16);
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  certificate.serialNumber = serial.toString('hex');
  const notBefore = options.notBefore ?? Date.now() - CLOCK_SLACK_MS;
  certificate.validity.notBefore = new Date(notBefore);
  certificate.validity.notAfter = new Date(
    options.notAfter ?? notBefore + CLOCK_SLACK_MS + (options.validityDays ?? 1095) * DAY_MS,
  );
  certificate.setSubject([{ name: 'commonName', value: commonName }]);
  return certificate;
}

function caExtensions(constraints: { pathLenConstraint?: number } = {}): Record<string, unknown>[] {
  return [
    { name: 'basicConstraints', cA: true, critical: true, ...constraints },
    { name: 'keyUsage', critical: true, keyCertSign: true, cRLSign: true, digitalSignature: true },
    { name: 'subjectKeyIdentifier' },
  ];
}

/**
 * Names the issuer's key as the issuer itself does: others, Helm and cert-manager among them, do not make the identifier of the key
 * as we do, and verifiers take nothing from an issuer with another one. None where the issuer has none.
 */
function authorityKeyId(ca: CertificateAuthority): Record<string, unknown>[] {
  const issuer = forge.pki.certificateFromPem(ca.certificate);
  const extension = issuer.getExtension('subjectKeyIdentifier') ?? {};
  const hex = 'subjectKeyIdentifier' in extension ? extension.subjectKeyIdentifier : undefined;
  if (typeof hex !== 'string') return [];
  return [{ name: 'authorityKeyIdentifier', keyIdentifier: forge.util.hexToBytes(hex) }];
}

/** The signature itself is OpenSSL's: forge's arithmetic would keep a daemon from everything else for 40 ms each time. */
function sign(certificate: forge.pki.Certificate, privateKey: string): string {
  const signer = Object.assign(forge.pki.privateKeyFromPem(privateKey), {
    sign() {
      const bytes = forge.asn1.toDer(certificate.tbsCertificate).getBytes();
      return rsaSign('sha256', Buffer.from(bytes, 'latin1'), privateKey).toString('latin1');
    },
  });
  certificate.sign(signer, forge.md.sha256.create());
  return forge.pki.certificateToPem(certificate).replaceAll('\r\n', '\n');
}

function checkedIp(ip: string): string {
  if (isIP(ip) === 0)
    throw new TypeError(
      `cannot put ${JSON.stringify(ip)} into a certificate: expected an IP address`,
    );
  return ip;
}
