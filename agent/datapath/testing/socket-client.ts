/**
 * A process whose sockets belong to a cgroup that the test chose. Reads one JSON request a line on standard input and
 * answers with one JSON line each. Not a test itself.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';

/** What the client can be asked for. UDP sockets are kept by name, so that several datagrams come from one. */
export type SocketRequest =
  | { readonly kind: 'tcp'; readonly address: string; readonly port: number }
  | {
      readonly kind: 'udp';
      readonly socket: string;
      readonly type: 'udp4' | 'udp6';
      readonly connected?: boolean;
      readonly address: string;
      readonly port: number;
    };

/** Who answered, as the socket sees it, and what it said; or the error's code. */
export type SocketAnswer =
  | {
      readonly address: string | undefined;
      readonly port: number | undefined;
      readonly said: string;
    }
  | { readonly error: string };

const TIMEOUT_MS = 3000;
const sockets = new Map<string, Socket>();

for await (const line of createInterface({ input: process.stdin })) {
  const request: SocketRequest = JSON.parse(line);
  const answer = request.kind === 'tcp' ? await callTcp(request) : await callUdp(request);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
for (const socket of sockets.values()) socket.close();

function callTcp(request: { address: string; port: number }): Promise<SocketAnswer> {
  return new Promise((resolve) => {
    const socket = connect({ host: request.address, port: request.port, autoSelectFamily: false });
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('timeout')));
    socket.on('error', (error) => resolve({ error: codeOf(error) }));
    socket.on('data', (data) => {
      resolve({ address: socket.remoteAddress, port: socket.remotePort, said: data.toString() });
      socket.destroy();
    });
  });
}

async function callUdp(request: SocketRequest & { kind: 'udp' }): Promise<SocketAnswer> {
  const socket = sockets.get(request.socket) ?? createSocket(request.type);
  const isNew = !sockets.has(request.socket);
  sockets.set(request.socket, socket);
  return await new Promise<SocketAnswer>((resolve) => {
    const finish = (answer: SocketAnswer): void => {
      clearTimeout(timer);
      socket.removeAllListeners();
      resolve(answer);
    };
    const timer = setTimeout(() => finish({ error: 'timeout' }), TIMEOUT_MS);
    socket.on('error', (error) => finish({ error: codeOf(error) }));
    socket.on('message', (data: Buffer, from: RemoteInfo) =>
      finish({ address: from.address, port: from.port, said: data.toString() }),
    );
    const onSent = (error: Error | null): void => {
      if (error) finish({ error: codeOf(error) });
    };
    if (!request.connected) {
      socket.send('hello', request.port, request.address, onSent);
    } else if (isNew) {
      socket.connect(request.port, request.address, (...args: unknown[]) => {
        const [error] = args;
        if (error instanceof Error) finish({ error: codeOf(error) });
        else socket.send('hello', onSent);
      });
    } else {
      socket.send('hello', onSent);
    }
  });
}

function codeOf(error: Error): string {
  return 'code' in error ? String(error.code) : error.message;
}
