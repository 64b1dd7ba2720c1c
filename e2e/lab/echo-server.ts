/** The lab's echo server: tells who answers and whom it sees, over HTTP and UDP. Sockets only; `echo-server-main.ts` runs it. */
import { createSocket, type Socket } from 'node:dgram';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { systemClock } from '../../mesh/runtime/clock.ts';

/** Ports to answer on, and the name to answer with. */
export interface EchoOptions {
  readonly pod: string;
  readonly tcp: readonly number[];
  readonly udp: readonly number[];
  readonly signal: AbortSignal;
}

const CHUNK_BYTES = 16 * 1024;
const MAX_BYTES = 64 * 1024 * 1024;

/**
 * Listens on all addresses of both families. HTTP: `/` answers a line `<pod> <client's address>`; `/slow?seconds=N` the same
 * line and then N chunks of 16 KiB, one a second in ten pieces, and last the line `end`; `/bytes?count=N` N bytes at once. UDP: every datagram is answered with
 * `<pod> <client's address>`. Resolves once everything listens.
 */
export async function listenEcho(options: EchoOptions): Promise<AsyncDisposable> {
  const servers = await Promise.all(options.tcp.map((port) => listenHttp(port, options)));
  const sockets = await Promise.all(options.udp.map((port) => listenUdp(port, options)));
  return {
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) await new Promise<void>((resolve) => socket.close(resolve));
      for (const server of servers) {
        server.closeAllConnections();
        await new Promise<void>((resolve) => server.close(() => resolve()));
      }
    },
  };
}

async function listenHttp(port: number, { pod, signal }: EchoOptions): Promise<Server> {
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://pod');
    response.setHeader('Content-Type', 'text/plain');
    const line = `${pod} ${plainAddress(request.socket.remoteAddress ?? '')}\n`;
    if (url.pathname === '/bytes') {
      response.end(Buffer.alloc(Math.min(Number(url.searchParams.get('count')), MAX_BYTES), '.'));
      return;
    }
    if (url.pathname !== '/slow') {
      response.end(line);
      return;
    }
    sendSlowly(response, line, { seconds: Number(url.searchParams.get('seconds')), signal }).catch(
      () => {
        // The client left, or we are told to end.
        response.destroy();
      },
    );
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: '::', ipv6Only: false }, () => resolve(server));
  });
}

async function sendSlowly(
  response: ServerResponse,
  line: string,
  options: { seconds: number; signal: AbortSignal },
): Promise<void> {
  response.write(line);
  const piece = Buffer.alloc(CHUNK_BYTES / 10, '.');
  for (let count = 0; count < options.seconds * 10; count += 1) {
    response.write(piece);
    await systemClock.sleep(100, options.signal);
  }
  response.end('\nend\n');
}

async function listenUdp(port: number, { pod }: EchoOptions): Promise<Socket> {
  const socket = createSocket({ type: 'udp6', ipv6Only: false });
  socket.on('message', (_, from) => {
    socket.send(`${pod} ${plainAddress(from.address)}\n`, from.port, from.address);
  });
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, '::', () => resolve(socket));
  });
}

/** An IPv4 client of a socket for both families has a mapped IPv6 address. */
function plainAddress(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/, '');
}
