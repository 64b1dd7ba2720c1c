/**
 * The one line with which a machine enrols: `imt1.<id>.<secret>.<anchor>`. It holds what the machine shows to the registry, and
 * what it knows the registry by until it has the cluster's certificates. Pure.
 */
import { createHash, X509Certificate } from 'node:crypto';

const FORM = 'imt1';
/** 80 random bits: nobody guesses one, but it is no secret. */
const TOKEN_ID = /^[0-9a-f]{20}$/;
const SECRET_BYTES = 32;
const ANCHOR_BYTES = 32;
/** 43 characters of base64url are 32 bytes. */
const BASE64URL_32 = /^[A-Za-z0-9_-]{43}$/;

/** A token's parts. */
export interface EnrollmentToken {
  readonly id: string;
  /** 32 bytes. To be kept out of logs, arguments and environments. */
  readonly secret: Buffer;
  /** SHA-256 of the public key (SPKI, DER) of the authority at which the registry's certificate must end. */
  readonly anchor: Buffer;
}

/** The token as people paste it. */
export function formatEnrollmentToken(token: EnrollmentToken): string {
  const { id, secret, anchor } = token;
  return [FORM, id, secret.toString('base64url'), anchor.toString('base64url')].join('.');
}

/** Undefined when the text is no token. White space around it does not matter. */
export function parseEnrollmentToken(text: string): EnrollmentToken | undefined {
  const [form, id = '', secret = '', anchor = '', ...rest] = text.trim().split('.');
  if (form !== FORM || rest.length > 0 || !isTokenId(id)) return undefined;
  if (!BASE64URL_32.test(secret) || !BASE64URL_32.test(anchor)) return undefined;
  const token = {
    id,
    secret: Buffer.from(secret, 'base64url'),
    anchor: Buffer.from(anchor, 'base64url'),
  };
  return token.secret.length === SECRET_BYTES && token.anchor.length === ANCHOR_BYTES
    ? token
    : undefined;
}

/** Whether a text has the form of a token's id: nothing else may become part of a key in etcd. */
export function isTokenId(text: string): boolean {
  return TOKEN_ID.test(text);
}

/** What a token names an authority by. `certificate` is PEM or DER. */
export function anchorOf(certificate: string | Buffer): Buffer {
  const { publicKey } = new X509Certificate(certificate);
  const spki = publicKey.export({ type: 'spki', format: 'der' });
  return createHash('sha256').update(spki).digest();
}
