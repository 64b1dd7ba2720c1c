/**
 * Servers and clients of one network namespace, in a process of their own. Reads one JSON request a line on standard input
 * and answers each by one JSON line. Not a test itself.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';

/** What the process can be asked for. Calls are kept by name, so that one can begin before and end after a change. */
export type TrafficRequest =
  /** TCP: answers `<name> <client>`, the bytes asked for, then what was sent to it is counted. UDP: answers the same. */
  | {
      readonly kind: 'serve';
      readonly name: string;
      readonly addresses: readonly string[];
      readonly port: number;
    }
  /** Calls, asks for so many bytes and sends as many; waits for the first line of the answer, then stops reading. */
  | {
      readonly kind: 'call';
      readonly call: string;
      readonly address: string;
      readonly port: number;
      readonly bytes: number;
    }
  /** Reads the rest. */
  | { readonly kind: 'finish'; readonly call: string }
  /** One datagram of so many bytes from the socket of that name. */
  | {
      readonly kind: 'datagram';
      readonly call: string;
      readonly address: string;
      readonly port: number;
      readonly bytes: number;
    };

/** `said`: the server's first line; `from`: who the caller believes to talk to; `bytes`: how many came, `taken`: how many the server got. */
export type TrafficAnswer =
  | {
      readonly said: string;
      readonly from: string;
      readonly bytes: number;
      readonly taken: number;
    }
  | { readonly error: string };

interface Call {
  readonly socket: Socket;
  readonly wanted: number;
  received: Buffer[];
  size: number;
}

const TIMEOUT_MS = 8000;
const NONE = { said: '', from: '', bytes: 0, taken: 0 };
const calls = new Map<string, Call>();
const datagrams = new Map<string, UdpSocket>();

for await (const line of createInterface({ input: process.stdin })) {
  const request: TrafficRequest = JSON.parse(line);
  const answer = await handle(request).catch((error: unknown) => ({ error: codeOf(error) }));
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);

function handle(request: TrafficRequest): Promise<TrafficAnswer> {
  switch (request.kind) {
    case 'serve':
      return serve(request);
    case 'call':
      return begin(request);
    case 'finish':
      return finish(request.call);
    case 'datagram':
      return sendDatagram(request);
    default:
      throw new Error(`unknown request ${JSON.stringify(request satisfies never)}`);
  }
}

async function serve(request: TrafficRequest & { kind: 'serve' }): Promise<TrafficAnswer> {
  const { name, addresses, port } = request;
  const server = createServer((socket) => {
    let asked: number | undefined;
    let taken = 0;
    socket.on('error', () => socket.destroy());
    socket.on('data', (data) => {
      let body = data;
      if (asked === undefined) {
        const end = data.indexOf('\n');
        asked = Number(data.toString('utf8', 0, end));
        body = data.subarray(end + 1);
        socket.write(`${name} ${plain(socket.remoteAddress ?? '')}\n`);
        socket.write(Buffer.alloc(asked, 'x'));
      }
      taken += body.length;
      if (taken === asked) socket.end(`\n${taken}`);
    });
  });
  await new Promise<void>((resolve) => server.listen(port, '::', resolve));
  // A socket for each address: what answers from another one is nobody's answer.
  for (const address of addresses) {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (data, from) => {
      const text = `${name} ${from.address} ${data.length} `.padEnd(data.length, '.');
      socket.send(text, from.port, from.address);
    });
    await new Promise<void>((resolve) => socket.bind(port, address, resolve));
  }
  return NONE;
}

function begin(request: TrafficRequest & { kind: 'call' }): Promise<TrafficAnswer> {
  return new Promise((resolve, reject) => {
    const { address, port, bytes } = request;
    const socket = connect({ host: address, port, autoSelectFamily: false });
    const call: Call = { socket, wanted: bytes, received: [], size: 0 };
    calls.set(request.call, call);
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy(new Error('timeout')));
    socket.on('error', reject);
    socket.on('connect', () => {
      socket.write(`${bytes}\n`);
      socket.write(Buffer.alloc(bytes, 'y'));
    });
    socket.on('data', (data) => {
      call.received.push(data);
      call.size += data.length;
      if (call.size <= 4) return;
      socket.pause();
      resolve({ ...NONE, said: firstLine(call), from: plain(socket.remoteAddress ?? '') });
    });
  });
}

function finish(name: string): Promise<TrafficAnswer> {
  return new Promise((resolve, reject) => {
    const call = calls.get(name);
    if (call === undefined) throw new Error(`no call ${name}`);
    const { socket } = call;
    socket.removeAllListeners('data');
    socket.on('error', reject);
    socket.on('data', (data) => {
      call.received.push(data);
      call.size += data.length;
    });
    socket.on('end', () => {
      const all = Buffer.concat(call.received);
      const body = all.subarray(all.indexOf('\n') + 1);
      resolve({
        said: firstLine(call),
        from: plain(socket.remoteAddress ?? ''),
        bytes: body.lastIndexOf('\n'),
        taken: Number(body.toString('utf8', body.lastIndexOf('\n') + 1)),
      });
      socket.destroy();
    });
    socket.resume();
  });
}

function sendDatagram(request: TrafficRequest & { kind: 'datagram' }): Promise<TrafficAnswer> {
  const { address, port, bytes } = request;
  const type = address.includes(':') ? 'udp6' : 'udp4';
  const socket = datagrams.get(request.call) ?? createSocket(type);
  datagrams.set(request.call, socket);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('timeout')), TIMEOUT_MS);
    socket.removeAllListeners();
    socket.on('error', reject);
    socket.on('message', (data, from) => {
      clearTimeout(timer);
      const [name, client, taken] = data.toString().split(' ');
      resolve({
        said: `${name} ${client}`,
        from: plain(from.address),
        bytes: data.length,
        taken: Number(taken),
      });
    });
    const send = (): void =>
      socket.send(Buffer.alloc(bytes, 'z'), (error) => {
        if (error) reject(error);
      });
    try {
      socket.remoteAddress();
      send();
    } catch {
      socket.connect(port, address, send);
    }
  });
}

function firstLine(call: Call): string {
  const text = Buffer.concat(call.received).toString('latin1');
  return text.slice(0, text.indexOf('\n'));
}

function plain(address: string): string {
  return address.replace('::ffff:', '');
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error ? String(error.code) : error.message;
}
