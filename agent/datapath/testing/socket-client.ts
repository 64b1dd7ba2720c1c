/**
 * A process whose sockets belong to a cgroup and a network namespace that the test chose: clients, and servers that say
 * their name. Reads one JSON request a line on standard input and answers with one JSON line each. Not a test itself.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';

/** What the process can be asked for. Sockets and servers are kept by name. */
export type SocketRequest =
  /** Connects, reads what the server says, and closes; `hold`: keeps the connection under that name. */
  | {
      readonly kind: 'tcp';
      readonly address: string;
      readonly port: number;
      readonly hold?: string;
      readonly timeoutMs?: number;
    }
  /** Sends a datagram and waits for the answer; several from one socket have its name. */
  | {
      readonly kind: 'udp';
      readonly socket: string;
      readonly type: 'udp4' | 'udp6';
      readonly connected?: boolean;
      readonly address: string;
      readonly port: number;
      readonly text?: string;
    }
  /** Sends from a connected UDP socket and waits for nothing: `said` is `sent`. */
  | { readonly kind: 'send'; readonly socket: string }
  /** Waits for a datagram. */
  | { readonly kind: 'receive'; readonly socket: string }
  /** Who the other side of a socket is. */
  | { readonly kind: 'peer'; readonly socket: string }
  /** Takes the socket's other side away, so that it can be connected anew, or closes it. */
  | { readonly kind: 'disconnect' | 'close'; readonly socket: string }
  /** Serves: TCP says the name and keeps the connection open; UDP answers with it, to `wait` only when asked by `answer`. */
  | {
      readonly kind: 'listen';
      readonly protocol: 'TCP' | 'UDP';
      readonly address: string;
      /** What it says. */
      readonly text: string;
      readonly name: string;
    }
  | { readonly kind: 'answer'; readonly name: string };

/** Who answered, as the socket sees it, and what it said; or the error's code. */
export type SocketAnswer =
  | {
      readonly address: string | undefined;
      readonly port: number | undefined;
      readonly said: string;
    }
  | { readonly error: string };

const TIMEOUT_MS = 3000;
const udpSockets = new Map<string, UdpSocket>();
/** Errors that came while nobody waited, by the name of the socket. */
const errors = new Map<string, string>();
const held = new Map<string, Socket>();
const servers = new Map<string, Server | UdpSocket>();
const served = new Set<Socket>();
/** Who is waiting for an answer, and for which, by the name of the server. */
const waiting = new Map<string, { readonly client: RemoteInfo; readonly text: string }>();

for await (const line of createInterface({ input: process.stdin })) {
  const request: SocketRequest = JSON.parse(line);
  process.stdout.write(`${JSON.stringify(await serve(request))}\n`);
}
for (const socket of udpSockets.values()) socket.close();
for (const socket of held.values()) socket.destroy();
for (const socket of served) socket.destroy();
for (const server of servers.values()) server.close();

async function serve(request: SocketRequest): Promise<SocketAnswer> {
  switch (request.kind) {
    case 'tcp':
      return callTcp(request);
    case 'udp':
      return callUdp(request);
    case 'send':
      return sendUdp(request.socket);
    case 'receive':
      return receiveUdp(request.socket);
    case 'peer':
      return peerOf(request.socket);
    case 'disconnect':
      return attempt(() => {
        udpSockets.get(request.socket)?.disconnect();
        return undefined;
      });
    case 'close':
      return close(request.socket);
    case 'listen':
      return listen(request);
    case 'answer':
      return answer(request.name);
    default:
      return request satisfies never;
  }
}

function callTcp(request: SocketRequest & { kind: 'tcp' }): Promise<SocketAnswer> {
  return new Promise((resolve) => {
    const socket = connect({ host: request.address, port: request.port, autoSelectFamily: false });
    const timeout = request.timeoutMs ?? TIMEOUT_MS;
    socket.setTimeout(timeout, () => socket.destroy(new Error('timeout')));
    socket.on('error', (error) => resolve({ error: codeOf(error) }));
    socket.on('data', (data) => {
      const said = data.toString();
      if (request.hold !== undefined) {
        // The peer's name is asked for later: Node remembers the first answer.
        socket.setTimeout(0);
        held.set(request.hold, socket);
        resolve(done(said));
        return;
      }
      resolve({ address: socket.remoteAddress, port: socket.remotePort, said });
      socket.destroy();
    });
  });
}

function openUdp(name: string, type: 'udp4' | 'udp6'): UdpSocket {
  const socket = createSocket(type);
  udpSockets.set(name, socket);
  socket.on('error', (error) => errors.set(name, codeOf(error)));
  return socket;
}

async function callUdp(request: SocketRequest & { kind: 'udp' }): Promise<SocketAnswer> {
  const text = request.text ?? 'hello';
  const known = udpSockets.get(request.socket);
  const socket = known ?? openUdp(request.socket, request.type);
  const answer = text === 'wait' ? undefined : receiveUdp(request.socket);
  const done = (resolve: (error: unknown) => void) => {
    return (...args: unknown[]): void => resolve(args[0]);
  };
  const isConnected = known !== undefined && 'said' in peerOf(request.socket);
  let error: unknown;
  if (request.connected && !isConnected) {
    error = await new Promise((resolve) =>
      socket.connect(request.port, request.address, done(resolve)),
    );
  }
  error ??= await new Promise((resolve) => {
    if (request.connected) socket.send(text, done(resolve));
    else socket.send(text, request.port, request.address, done(resolve));
  });
  if (error instanceof Error) socket.emit('error', error);
  return answer ?? { address: undefined, port: undefined, said: 'sent' };
}

function receiveUdp(name: string): Promise<SocketAnswer> {
  const socket = udpSockets.get(name);
  if (socket === undefined) return Promise.resolve({ error: 'no such socket' });
  return new Promise((resolve) => {
    const finish = (answer: SocketAnswer): void => {
      clearTimeout(timer);
      socket.off('error', onError);
      socket.off('message', onMessage);
      resolve(answer);
    };
    const onError = (error: Error): void => finish({ error: codeOf(error) });
    const onMessage = (data: Buffer, from: RemoteInfo): void =>
      finish({ address: from.address, port: from.port, said: data.toString() });
    const timer = setTimeout(() => finish({ error: 'timeout' }), TIMEOUT_MS);
    socket.on('error', onError);
    socket.on('message', onMessage);
  });
}

function sendUdp(name: string): Promise<SocketAnswer> {
  const socket = udpSockets.get(name);
  const error = errors.get(name);
  if (socket === undefined) return Promise.resolve({ error: 'no such socket' });
  if (error !== undefined) return Promise.resolve({ error });
  return new Promise((resolve) => {
    const onSent = (failure: Error | null): void =>
      resolve(failure === null ? done('sent') : { error: codeOf(failure) });
    try {
      socket.send('hello', onSent);
    } catch (failure) {
      resolve({ error: failure instanceof Error ? codeOf(failure) : String(failure) });
    }
  });
}

function peerOf(name: string): SocketAnswer {
  const tcp = held.get(name);
  if (tcp !== undefined) return { address: tcp.remoteAddress, port: tcp.remotePort, said: 'peer' };
  return attempt(() => udpSockets.get(name)?.remoteAddress());
}

/** Runs what may fail; what it returns is an address, where it is one. */
function attempt(action: () => { address: string; port: number } | undefined): SocketAnswer {
  try {
    const result = action();
    return { address: result?.address, port: result?.port, said: 'done' };
  } catch (error) {
    return { error: error instanceof Error ? codeOf(error) : String(error) };
  }
}

async function close(name: string): Promise<SocketAnswer> {
  const socket = held.get(name) ?? udpSockets.get(name);
  if (socket === undefined) return { error: 'no such socket' };
  held.delete(name);
  udpSockets.delete(name);
  errors.delete(name);
  const closed = once(socket, 'close');
  if ('destroy' in socket) socket.destroy();
  else socket.close();
  await closed;
  return done('closed');
}

async function listen(request: SocketRequest & { kind: 'listen' }): Promise<SocketAnswer> {
  const { protocol, address, name, text } = request;
  servers.get(name)?.close();
  if (protocol === 'TCP') {
    const server = createServer((socket) => {
      served.add(socket);
      socket.on('close', () => served.delete(socket));
      socket.on('error', () => undefined);
      socket.write(text);
    });
    servers.set(name, server);
    server.listen(0, address);
    await once(server, 'listening');
    const bound = server.address();
    return { address, port: typeof bound === 'object' ? bound?.port : undefined, said: text };
  }
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  servers.set(name, socket);
  socket.on('message', (data, from) => {
    if (data.toString() === 'wait') waiting.set(name, { client: from, text });
    else socket.send(text, from.port, from.address);
  });
  socket.bind(0, address);
  await once(socket, 'listening');
  return { address, port: socket.address().port, said: text };
}

/** Answers whoever waits; the datagram that asks for it may still be under way. */
async function answer(name: string): Promise<SocketAnswer> {
  const server = servers.get(name);
  const deadline = performance.now() + TIMEOUT_MS;
  while (!waiting.has(name) && performance.now() < deadline) await pause(5);
  const who = waiting.get(name);
  waiting.delete(name);
  if (who === undefined || server === undefined || !('send' in server)) {
    return { error: 'nobody waits' };
  }
  server.send(who.text, who.client.port, who.client.address);
  return done('answered');
}

function done(said: string): SocketAnswer {
  return { address: undefined, port: undefined, said };
}

function codeOf(error: Error): string {
  return 'code' in error ? String(error.code) : error.message;
}
