/** Somebody who talks to an enrollment listener with whatever bytes, from any address of loopback. */
import { type ClientHttp2Session, connect as connectHttp2, constants } from 'node:http2';
import { connect as connectTls, type TLSSocket } from 'node:tls';

const PATH = '/isthmus.registry.v1.Enrollment/Enroll';

/** gRPC's answer: its number and words, and the message if there is one. */
export interface RawAnswer {
  readonly status: number;
  readonly details: string;
  readonly body: Buffer;
}

/** One connection. Disposing ends it. */
export interface Stranger extends Disposable {
  readonly socket: TLSSocket;
  /** Sends bytes as one message of a call. `length`: what the frame says of it. */
  send(
    message: Buffer,
    more?: { readonly path?: string; readonly length?: number },
  ): Promise<RawAnswer>;
}

/** Connects with TLS, believing everything. Rejects when the connection is ended before it is there. */
export async function connectStranger(port: number, localAddress = '127.0.0.1'): Promise<Stranger> {
  const socket = await new Promise<TLSSocket>((resolve, reject) => {
    const options = { host: '127.0.0.1', port, localAddress, ALPNProtocols: ['h2'] };
    const connecting = connectTls({ ...options, rejectUnauthorized: false }, () =>
      resolve(connecting),
    );
    connecting.on('error', reject);
    connecting.on('close', () => reject(new Error('closed')));
  });
  const session: ClientHttp2Session = connectHttp2('https://stranger', {
    createConnection: () => socket,
  });
  session.on('error', () => undefined);
  return {
    socket,
    send: (message, more) => sendOver(session, message, more ?? {}),
    [Symbol.dispose]() {
      session.destroy();
      socket.destroy();
    },
  };
}

function sendOver(
  session: ClientHttp2Session,
  message: Buffer,
  more: { readonly path?: string; readonly length?: number },
): Promise<RawAnswer> {
  return new Promise((resolve, reject) => {
    const stream = session.request({
      [constants.HTTP2_HEADER_METHOD]: 'POST',
      [constants.HTTP2_HEADER_PATH]: more.path ?? PATH,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    const parts: Buffer[] = [];
    let status: number | undefined;
    let details = '';
    const take = (headers: Readonly<Record<string, unknown>>): void => {
      if (headers['grpc-status'] === undefined) return;
      status = Number(headers['grpc-status']);
      details = decodeURIComponent(String(headers['grpc-message'] ?? ''));
    };
    stream.on('response', take);
    stream.on('trailers', take);
    stream.on('data', (part: Buffer) => parts.push(part));
    stream.on('error', reject);
    stream.on('close', () => {
      if (status === undefined) reject(new Error('the stream has ended without a status'));
      else resolve({ status, details, body: Buffer.concat(parts).subarray(5) });
    });
    const head = Buffer.alloc(5);
    head.writeUInt32BE(more.length ?? message.length, 1);
    stream.end(Buffer.concat([head, message]));
  });
}
