/** Looking at a registry before anything is said to it: is it the one that the token names, and what is its time? */
import { createHash, type KeyObject, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { connect as connectTls, type DetailedPeerCertificate, type TLSSocket } from 'node:tls';
import { describeCertificate } from '../../mesh/runtime/certificate-words.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { askServerDate } from '../../mesh/runtime/server-date.ts';
import { MachineError, reasonOf } from './machine-error.ts';

const LONGEST_CHAIN = 8;

/** A registry that is the one which a token names. */
export interface ProbedServer {
  /** PEM of the certificate in its chain that the token names. */
  readonly authority: string;
  /** Its own certificate. */
  readonly certificate: X509Certificate;
  /** Its clock, milliseconds since 1970, to the second; undefined: it does not tell. */
  readonly now: number | undefined;
}

/**
 * Connects and compares. `anchor`: SHA-256 of the public key that one certificate of the chain must have. Throws MachineError
 * `unreachable` or `untrusted`. Dates of certificates are not judged here: the clock of this machine may be wrong.
 */
export async function probeServer(
  server: HostPort,
  options: { readonly anchor: Buffer; readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<ProbedServer> {
  const { anchor, timeoutMs } = options;
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(timeoutMs)]);
  const where = hostPortText(server);
  const socket = await openTls(server, signal).catch((cause: unknown) => {
    options.signal.throwIfAborted();
    const why = signal.aborted ? `no answer within ${timeoutMs / 1000} s` : reasonOf(cause);
    throw new MachineError(
      'unreachable',
      `cannot reach the registry at ${where}: ${why}; check the address, that the clustermesh-apiserver runs with --enrollment-address, and that no firewall is between`,
      { retryable: true, cause },
    );
  });
  try {
    const chain = presentedChain(socket);
    const authority = findAuthority(chain, anchor);
    const [certificate] = chain;
    if (authority === undefined || certificate === undefined) {
      const shown = chain.map(describeCertificate).join('; ');
      throw new MachineError(
        'untrusted',
        `the server at ${where} is not the one that the token is for: none of its certificates has the key with SHA-256 ${anchor.toString('base64url')} (${shown === '' ? 'it shows none' : shown}); check the address, or make a new token if the cluster's authority was replaced`,
      );
    }
    const now = await askServerDate(socket, signal).catch(() => undefined);
    return { authority: authority.toString(), certificate, now };
  } finally {
    socket.destroy();
  }
}

/**
 * The certificate of a chain (the server's own first) that has the wanted key, if every one below it is signed by the next.
 * Only then does the chain say anything of the server.
 */
export function findAuthority(
  chain: readonly X509Certificate[],
  anchor: Buffer,
): X509Certificate | undefined {
  for (const [index, certificate] of chain.entries()) {
    const below = chain[index - 1];
    if (below !== undefined && !isSignedBy(below, certificate)) return undefined;
    if (spkiHash(certificate.publicKey).equals(anchor)) return certificate;
  }
  return undefined;
}

/** `host:port`, IPv6 in brackets. */
export function hostPortText({ host, port }: HostPort): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

function isSignedBy(certificate: X509Certificate, issuer: X509Certificate): boolean {
  return issuer.ca && certificate.checkIssued(issuer) && certificate.verify(issuer.publicKey);
}

function spkiHash(key: KeyObject): Buffer {
  return createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest();
}

function openTls({ host, port }: HostPort, signal: AbortSignal): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = connectTls({
      host,
      port,
      ALPNProtocols: ['h2'],
      // Judged by `findAuthority`, before a byte is sent.
      rejectUnauthorized: false,
      ...(isIP(host) === 0 ? { servername: host } : {}),
    });
    const onAbort = (): void => {
      socket.destroy();
      reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('secureConnect', () => {
      signal.removeEventListener('abort', onAbort);
      socket.on('error', () => undefined);
      resolve(socket);
    });
    socket.once('error', (error) => {
      signal.removeEventListener('abort', onAbort);
      reject(error);
    });
    socket.once('close', () => reject(new Error('the connection was closed during the handshake')));
  });
}

function presentedChain(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let next: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  const seen = new Set<string>();
  while (next?.raw !== undefined && chain.length < LONGEST_CHAIN) {
    if (seen.has(next.fingerprint256)) break;
    seen.add(next.fingerprint256);
    chain.push(new X509Certificate(next.raw));
    next = next.issuerCertificate;
  }
  return chain;
}
