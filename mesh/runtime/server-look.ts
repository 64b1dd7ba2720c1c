/** A look at the certificates that a server shows, and at whether it takes ours: for messages to people, nothing is believed by it. */
import { X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { connect, type DetailedPeerCertificate, type TLSSocket } from 'node:tls';

const LONGEST_CHAIN = 8;
const TIMEOUT_MS = 5000;

/** What was seen. */
export interface ServerLook {
  /** What the server shows, its own certificate first. Empty: it shows none, or nobody speaks TLS there. */
  readonly chain: readonly X509Certificate[];
  /** Whether it goes on with the caller's certificate; undefined when that is not known. */
  readonly takesCaller: boolean | undefined;
  /** What the connection ended of, when it ended early. */
  readonly error: string | undefined;
}

/** Connects once and closes. Never rejects: what goes wrong is part of the answer. */
export async function lookAtServer(options: {
  readonly host: string;
  readonly port: number;
  /** Name that the server is asked for. Default: `host`, when that is a name. */
  readonly name?: string;
  /** Certificate and key that are shown to it, PEM. Default: none. */
  readonly caller?: { readonly cert: Buffer | string; readonly key: Buffer | string };
  readonly signal?: AbortSignal;
}): Promise<ServerLook> {
  const { host, port, name = host, caller, signal } = options;
  let chain: readonly X509Certificate[] = [];
  return new Promise((resolve) => {
    let socket: TLSSocket | undefined;
    const end = (takesCaller: boolean | undefined, error?: string): void => {
      signal?.removeEventListener('abort', onAbort);
      socket?.destroy();
      resolve({ chain, takesCaller, error });
    };
    const onAbort = (): void => end(undefined, 'it was given up');
    try {
      socket = connect({
        host,
        port,
        ...(isIP(name) === 0 ? { servername: name } : {}),
        ...(caller === undefined ? {} : { cert: caller.cert, key: caller.key }),
        ALPNProtocols: ['h2'],
        // It is looked at, and nothing else is sent or believed.
        rejectUnauthorized: false,
      });
    } catch (error) {
      end(undefined, messageOf(error));
      return;
    }
    const open = socket;
    signal?.addEventListener('abort', onAbort, { once: true });
    open.setTimeout(TIMEOUT_MS, () => end(undefined, `no answer within ${TIMEOUT_MS / 1000} s`));
    open.once('secureConnect', () => {
      chain = chainOf(open);
    });
    // A server of HTTP/2 speaks first, once it has judged the caller's certificate; else it closes.
    open.once('data', () => end(true));
    open.once('error', (error) => end(chain.length > 0 ? false : undefined, messageOf(error)));
    open.once('close', () => end(chain.length > 0 ? false : undefined, 'it closed the connection'));
  });
}

function chainOf(socket: TLSSocket): X509Certificate[] {
  const chain: X509Certificate[] = [];
  let shown: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  const seen = new Set<string>();
  while (shown?.raw !== undefined && !seen.has(shown.fingerprint256)) {
    if (chain.length === LONGEST_CHAIN) break;
    seen.add(shown.fingerprint256);
    chain.push(new X509Certificate(shown.raw));
    shown = shown.issuerCertificate;
  }
  return chain;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
