/** The clock of a server of HTTP/2, by the date that it gives every answer. */
import { once } from 'node:events';
import { connect as connectHttp2 } from 'node:http2';
import { isIP } from 'node:net';
import { connect as connectTls, type TLSSocket } from 'node:tls';

const TIMEOUT_MS = 5000;

/** Any path gets an answer with a date; this one does nothing. */
const DATE_PATH = '/isthmus.registry.v1.Enrollment/Date';

/**
 * Milliseconds since 1970, to the second; undefined: it does not tell. A server dates its answer also to a question that it does
 * not know. Rejects when `signal` aborts.
 */
export function askServerDate(socket: TLSSocket, signal: AbortSignal): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    if (socket.alpnProtocol !== 'h2') return resolve(undefined);
    const session = connectHttp2('https://registry', { createConnection: () => socket });
    const stop = (): void => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
    session.once('error', reject);
    session.once('close', () => resolve(undefined));
    const stream = session.request({
      ':method': 'POST',
      ':path': DATE_PATH,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    stream.once('error', reject);
    stream.once('response', (headers) => {
      const date = Date.parse(headers.date ?? '');
      resolve(Number.isNaN(date) ? undefined : date);
      signal.removeEventListener('abort', stop);
      session.destroy();
    });
    stream.end();
  });
}

/** Connects once, believes nothing, and asks for the date. Undefined: nobody answers, or not with a date. */
export async function lookAtServerDate(options: {
  readonly host: string;
  readonly port: number;
  /** Name that it is asked for. Default: none. */
  readonly name?: string;
  /** Certificate and key that are shown to it, PEM. Default: none. */
  readonly caller?: { readonly cert: Buffer | string; readonly key: Buffer | string };
  readonly signal: AbortSignal;
}): Promise<number | undefined> {
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(TIMEOUT_MS)]);
  const { host, port, name = '', caller } = options;
  const socket = connectTls({
    host,
    port,
    ...(name === '' || isIP(name) !== 0 ? {} : { servername: name }),
    ...(caller === undefined ? {} : { cert: caller.cert, key: caller.key }),
    ALPNProtocols: ['h2'],
    rejectUnauthorized: false,
  });
  try {
    await once(socket, 'secureConnect', { signal });
    socket.on('error', () => undefined);
    return await askServerDate(socket, signal);
  } catch {
    return undefined;
  } finally {
    socket.destroy();
  }
}
