/**
 * Connections of strangers: TLS with a certificate of ours and none of theirs. There are so many of them at most, each lasts so
 * long at most, and a new one pushes out the oldest rather than being kept out by it.
 */
import { constants } from 'node:crypto';
import type { Socket } from 'node:net';
import { createServer, type TLSSocket, type TlsOptions } from 'node:tls';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { HostPort } from '../../mesh/runtime/option-parsers.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { RegistryError } from './registry-error.ts';

const HANDSHAKE_TIMEOUT_MS = 5000;
const AGE_CHECK_MS = 1000;

/** Limits of connections. */
export interface SocketLimits {
  /** Default 256. */
  readonly connections?: number;
  /** From one address. Default 32. */
  readonly connectionsPerSource?: number;
  /** How long one may last. Default 20,000. */
  readonly maxAgeMs?: number;
}

/** Where a connection comes from and where it came in. */
export interface Arrival {
  readonly from: IpAddress;
  readonly to: IpAddress;
}

/** The listening side. Disposing ends every connection. */
export interface EnrollmentSockets extends AsyncDisposable {
  readonly address: HostPort;
  readonly connections: number;
  /** The connection whose other end is `address:port`, as gRPC names it; undefined when it is gone. */
  find(peer: string): Arrival | undefined;
  /** Shows another certificate from now on. */
  update(tls: EnrollmentTls): void;
}

/** What is shown, PEM. */
export interface EnrollmentTls {
  readonly cert: string;
  readonly key: Buffer;
}

/** Listens. Throws RegistryError `port-taken` or `address`. */
export async function listenEnrollmentSockets(options: {
  readonly address: HostPort;
  readonly tls: EnrollmentTls;
  readonly limits?: SocketLimits;
  /** Whether connections from there are not worth a handshake. */
  readonly isShut: (source: IpAddress) => boolean;
  readonly onConnection: (socket: TLSSocket) => void;
  readonly onError: (error: Error) => void;
  readonly clock: Clock;
  readonly signal: AbortSignal;
}): Promise<EnrollmentSockets> {
  const { isShut, onConnection, clock } = options;
  const { connections = 256, connectionsPerSource = 32, maxAgeMs = 20_000 } = options.limits ?? {};
  /** The oldest first. */
  const sockets = new Map<Socket, { readonly since: number; readonly arrival: Arrival }>();
  const perSource = new Map<IpAddress, number>();
  const arrivals = new Map<string, Arrival>();

  const accept = (socket: Socket): void => {
    // Nobody else listens before the handshake.
    socket.on('error', () => undefined);
    const arrival = arrivalOf(socket);
    const count = arrival === undefined ? 0 : (perSource.get(arrival.from) ?? 0);
    if (arrival === undefined || count >= connectionsPerSource || isShut(arrival.from)) {
      socket.destroy();
      return;
    }
    const [oldest] = sockets.keys();
    if (sockets.size >= connections) oldest?.destroy();
    sockets.set(socket, { since: clock.monotonic(), arrival });
    perSource.set(arrival.from, count + 1);
    const peer = peerOf(socket);
    arrivals.set(peer, arrival);
    socket.once('close', () => {
      sockets.delete(socket);
      arrivals.delete(peer);
      const left = (perSource.get(arrival.from) ?? 1) - 1;
      if (left === 0) perSource.delete(arrival.from);
      else perSource.set(arrival.from, left);
    });
  };
  const server = createServer(tlsOptions(options.tls), (socket) => {
    socket.on('error', () => undefined);
    if (socket.alpnProtocol === 'h2') onConnection(socket);
    else socket.destroy();
  });
  // Before the server's own listener, which begins the handshake.
  server.prependListener('connection', accept);
  server.on('tlsClientError', (_error, socket) => socket.destroy());
  await listen(server, options.address);
  server.on('error', options.onError);

  const ending = new AbortController();
  const signal = AbortSignal.any([options.signal, ending.signal]);
  const endOld = async (): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(AGE_CHECK_MS, signal).catch(() => undefined);
      const now = clock.monotonic();
      for (const [socket, { since }] of [...sockets]) {
        if (now - since < maxAgeMs) break;
        socket.destroy();
      }
    }
  };
  const aging = endOld();
  const bound = server.address();
  return {
    address: {
      host: typeof bound === 'object' && bound !== null ? bound.address : options.address.host,
      port: typeof bound === 'object' && bound !== null ? bound.port : options.address.port,
    },
    get connections() {
      return sockets.size;
    },
    find: (peer) => arrivals.get(peer),
    update: (tls) => server.setSecureContext(tlsOptions(tls)),
    async [Symbol.asyncDispose]() {
      ending.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of [...sockets.keys()]) socket.destroy();
      await Promise.all([closed, aging]);
    },
  };
}

function tlsOptions({ cert, key }: EnrollmentTls): TlsOptions {
  return {
    cert,
    key,
    requestCert: false,
    ALPNProtocols: ['h2'],
    minVersion: 'TLSv1.2',
    handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
    // Machines call once: tickets would only be kept.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

function listen(server: ReturnType<typeof createServer>, address: HostPort): Promise<void> {
  const { host, port } = address;
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return new Promise((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) => {
      const isTaken = cause.code === 'EADDRINUSE';
      const why = isTaken
        ? 'the port is taken; free it or choose another with --enrollment-address'
        : cause.message;
      reject(
        new RegistryError(isTaken ? 'port-taken' : 'address', `cannot listen on ${where}: ${why}`, {
          retryable: isTaken,
          cause,
        }),
      );
    });
    server.listen({ host, port }, () => {
      server.removeAllListeners('error');
      resolve();
    });
  });
}

/** As gRPC's server names the other end of a call. */
function peerOf(socket: Socket): string {
  return `${socket.remoteAddress}:${socket.remotePort}`;
}

/** Undefined when the other end has left already. */
function arrivalOf(socket: Socket): Arrival | undefined {
  try {
    return {
      from: parseIpAddress(withoutZone(socket.remoteAddress)),
      to: parseIpAddress(withoutZone(socket.localAddress)),
    };
  } catch {
    return undefined;
  }
}

function withoutZone(address: string | undefined): string | undefined {
  return address?.replace(/%.*$/, '');
}
