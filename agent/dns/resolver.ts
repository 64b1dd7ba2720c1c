/** A name server for services on one address of the machine: UDP and TCP, and nothing but our own zones. */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, isIPv6, type Server, type Socket } from 'node:net';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { answerMessage } from './answer.ts';
import type { NameBook } from './name-book.ts';
import type { ZoneDomains } from './names.ts';

const MAX_CONNECTIONS = 64;
const IDLE_MS = 10_000;
/** A question has a name of at most 255 bytes, and some options. */
const MAX_QUESTION_BYTES = 4096;

/** The resolver cannot listen. Retryable: whoever has the port may give it up. */
export class ResolverError extends Error {
  readonly code = 'cannot-listen';
  readonly retryable = true;

  constructor(message: string, options: { readonly cause: unknown }) {
    super(message, options);
    this.name = 'ResolverError';
  }
}

/** A listening resolver. Disposing ends its connections. */
export interface Resolver extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
  /** Questions that were answered, and bytes that were none. */
  readonly statistics: { readonly answered: number; readonly ignored: number };
}

/** Listens. Throws ResolverError when the address or port is not to be had. */
export async function listenResolver(options: {
  readonly address: HostPort;
  readonly names: NameBook;
  readonly domains: ZoneDomains;
}): Promise<Resolver> {
  const { names, domains } = options;
  const statistics = { answered: 0, ignored: 0 };
  const answer = (message: Buffer, transport: 'udp' | 'tcp'): Buffer | undefined => {
    const bytes = answerMessage(message, { names, domains, transport });
    if (bytes === undefined) statistics.ignored += 1;
    else statistics.answered += 1;
    return bytes;
  };
  const tcp = createServer({ noDelay: true }, (socket) => serveStream(socket, answer));
  tcp.maxConnections = MAX_CONNECTIONS;
  const udp = createSocket({ type: isIPv6(options.address.host) ? 'udp6' : 'udp4' });
  udp.on('message', (message, from) => {
    const bytes = answer(message, 'udp');
    // Who asked may be gone: then nobody misses the answer.
    if (bytes !== undefined) udp.send(bytes, from.port, from.address, () => undefined);
  });
  let address: HostPort;
  try {
    const { host } = options.address;
    const port = await listenTcp(tcp, options.address);
    await bindUdp(udp, { host, port });
    address = { host, port };
  } catch (cause) {
    tcp.close();
    udp.close();
    const { host, port } = options.address;
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ResolverError(
      `cannot answer names on ${host} port ${port}: ${why}; free it, or choose another with --dns-address`,
      { cause },
    );
  }
  const connections = new Set<Socket>();
  tcp.on('connection', (socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  // Errors of a socket that is bound are those of single packets.
  udp.on('error', () => undefined);
  tcp.on('error', () => undefined);
  let closed: Promise<void> | undefined;
  return {
    address,
    statistics,
    [Symbol.asyncDispose]() {
      closed ??= new Promise((resolve) => {
        udp.close();
        tcp.close(() => resolve());
        for (const socket of connections) socket.destroy();
      });
      return closed;
    },
  };
}

/** Questions of one connection, each with its length before it; answered one after the other. */
function serveStream(
  socket: Socket,
  answer: (message: Buffer, transport: 'tcp') => Buffer | undefined,
): void {
  let pending: Buffer = Buffer.alloc(0);
  socket.setTimeout(IDLE_MS, () => socket.destroy());
  socket.on('error', () => socket.destroy());
  socket.on('drain', () => socket.resume());
  socket.on('data', (data: Buffer) => {
    pending = pending.length === 0 ? data : Buffer.concat([pending, data]);
    while (pending.length >= 2) {
      const length = pending.readUInt16BE(0);
      const isWhole = pending.length >= 2 + length;
      if (length <= MAX_QUESTION_BYTES && !isWhole) return;
      const bytes = isWhole ? answer(pending.subarray(2, 2 + length), 'tcp') : undefined;
      if (bytes === undefined) {
        socket.destroy();
        return;
      }
      pending = pending.subarray(2 + length);
      const prefix = Buffer.alloc(2);
      prefix.writeUInt16BE(bytes.length);
      // Who asks and does not read has to wait.
      if (!socket.write(Buffer.concat([prefix, bytes]))) socket.pause();
    }
  });
}

function listenTcp(server: Server, { host, port }: HostPort): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      server.off('error', reject);
      const bound = server.address();
      resolve(typeof bound === 'object' && bound !== null ? bound.port : port);
    });
  });
}

function bindUdp(socket: UdpSocket, { host, port }: HostPort): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind({ address: host, port, exclusive: true }, () => {
      socket.off('error', reject);
      resolve();
    });
  });
}
