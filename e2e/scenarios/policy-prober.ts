/**
 * What runs in a pod of the policy scenarios: servers on any ports, calls, and flows that go on. It is told by lines of JSON
 * over a Unix socket, which reaches across network namespaces. `policy-probes.ts` is the other end.
 */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { connect, createServer, type Server, type Socket as Stream } from 'node:net';
import { createInterface } from 'node:readline';

/** Protocols that a prober speaks itself; `ping` sends echo requests for it. */
export type ProbeProtocol = 'tcp' | 'udp';

/** Where a call goes, and from which port. */
export interface ProbeTarget {
  readonly protocol: ProbeProtocol;
  readonly address: string;
  readonly port: number;
  /** Default: any. */
  readonly localPort?: number | undefined;
}

/** What a prober can be told. `id` comes back with each answer. */
export type ProbeRequest = { readonly id: number } & (
  | { readonly kind: 'listen'; readonly protocol: ProbeProtocol; readonly ports: readonly number[] }
  /** Answered once with `answered`, when the server's echo is here. */
  | ({ readonly kind: 'call' } & ProbeTarget)
  /** A question each so many milliseconds, over one socket. */
  | ({ readonly kind: 'stream'; readonly intervalMs: number } & ProbeTarget)
  /** One question, and then the server alone sends, each so many milliseconds; TCP's own acknowledgements aside. */
  | ({ readonly kind: 'download'; readonly intervalMs: number } & ProbeTarget)
  /** The stream `of` asks no more; its last answers may still come. */
  | { readonly kind: 'hush'; readonly of: number }
  /** Ends the call, stream or download `of`. */
  | { readonly kind: 'end'; readonly of: number }
  | { readonly kind: 'report'; readonly of: number }
  /** How many questions came from each address, to any port. */
  | { readonly kind: 'received' }
);

/** What became of a stream or download so far. */
export interface ProbeReport {
  /** Questions; for a download, 1. */
  readonly sent: number;
  /** Answers; for a download, pieces that the server has sent. */
  readonly answered: number;
  /** Why it is over; undefined: it goes on. */
  readonly failure: string | undefined;
}

/** A line that a prober writes. */
export type ProbeAnswer = { readonly id: number } & (
  | { readonly kind: 'done' }
  | { readonly kind: 'answered' }
  | { readonly kind: 'failed'; readonly message: string }
  | { readonly kind: 'report'; readonly report: ProbeReport }
  | { readonly kind: 'received'; readonly counts: Readonly<Record<string, number>> }
);

/** A call, stream or download that goes on. */
interface Going {
  report(): ProbeReport;
  hush(): void;
  end(): void;
}

/** Listens on a Unix socket. Disposing ends everything that goes on. */
export async function listenProber(socketPath: string): Promise<AsyncDisposable> {
  const going = new Map<number, Going>();
  const servers: (Server | Socket)[] = [];
  const received = new Map<string, number>();
  const note = (address: string): void => {
    const plain = address.replace(/^::ffff:(?=\d+\.)/, '');
    received.set(plain, (received.get(plain) ?? 0) + 1);
  };

  const handle = async (
    request: ProbeRequest,
    say: (answer: ProbeAnswer) => void,
  ): Promise<void> => {
    const { id } = request;
    switch (request.kind) {
      case 'listen':
        for (const port of request.ports) {
          servers.push(await (request.protocol === 'tcp' ? serveTcp : serveUdp)(port, note));
        }
        say({ id, kind: 'done' });
        return;
      case 'call':
        going.set(id, call(request, say));
        return;
      case 'stream':
        going.set(id, stream(request));
        say({ id, kind: 'done' });
        return;
      case 'download':
        going.set(id, download(request));
        say({ id, kind: 'done' });
        return;
      case 'hush':
        going.get(request.of)?.hush();
        say({ id, kind: 'done' });
        return;
      case 'end':
        going.get(request.of)?.end();
        going.delete(request.of);
        say({ id, kind: 'done' });
        return;
      case 'report': {
        const found = going.get(request.of);
        if (found === undefined) throw new Error(`nothing has the number ${request.of}`);
        say({ id, kind: 'report', report: found.report() });
        return;
      }
      case 'received':
        say({ id, kind: 'received', counts: Object.fromEntries(received) });
        return;
      default:
        request satisfies never;
    }
  };

  const controls = new Set<Stream>();
  const control = createServer((connection) => {
    controls.add(connection);
    connection.once('close', () => controls.delete(connection));
    connection.on('error', () => connection.destroy());
    const say = (answer: ProbeAnswer): void => {
      connection.write(`${JSON.stringify(answer)}\n`);
    };
    createInterface({ input: connection }).on('line', (line) => {
      const request = JSON.parse(line) as ProbeRequest;
      handle(request, say).catch((error: unknown) => {
        say({ id: request.id, kind: 'failed', message: String(error) });
      });
    });
  });
  await new Promise<void>((resolve, reject) => {
    control.once('error', reject);
    control.listen(socketPath, () => resolve());
  });
  return {
    async [Symbol.asyncDispose]() {
      for (const one of going.values()) one.end();
      for (const connection of controls) connection.destroy();
      for (const server of [...servers, control]) {
        await new Promise<void>((resolve) => server.close(() => resolve()));
      }
    },
  };
}

const DOWNLOAD = 'download';

/** Sends what comes back; told `download N`, a piece each N milliseconds. */
function serveTcp(port: number, note: (address: string) => void): Promise<Server> {
  const server = createServer((connection) => {
    let timer: NodeJS.Timeout | undefined;
    connection.on('error', () => connection.destroy());
    connection.once('close', () => clearInterval(timer));
    connection.on('data', (data: Buffer) => {
      note(connection.remoteAddress ?? '');
      const text = data.toString();
      if (!text.startsWith(DOWNLOAD)) {
        connection.write(data);
        return;
      }
      timer ??= setInterval(() => connection.write('.'), Number(text.slice(DOWNLOAD.length)));
    });
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port, host: '::' }, () => resolve(server));
  });
}

function serveUdp(port: number, note: (address: string) => void): Promise<Socket> {
  const socket = createSocket({ type: 'udp6', ipv6Only: false });
  const downloads = new Map<string, NodeJS.Timeout>();
  socket.once('close', () => {
    for (const timer of downloads.values()) clearInterval(timer);
  });
  // What a route or a closed port answers is no business of a server.
  socket.on('error', () => undefined);
  socket.on('message', (data: Buffer, from: RemoteInfo) => {
    note(from.address);
    const text = data.toString();
    if (!text.startsWith(DOWNLOAD)) {
      socket.send(data, from.port, from.address);
      return;
    }
    const key = `${from.address} ${from.port}`;
    clearInterval(downloads.get(key));
    const send = (): void => socket.send('.', from.port, from.address);
    downloads.set(key, setInterval(send, Number(text.slice(DOWNLOAD.length))));
  });
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, '::', () => resolve(socket));
  });
}

/** Either kind of socket, as calls and flows see it. */
interface Line {
  send(text: string): void;
  end(): void;
}

function open(
  target: ProbeTarget,
  on: { readonly data: (length: number) => void; readonly failure: (message: string) => void },
): Line {
  const { protocol, address, port, localPort } = target;
  if (protocol === 'udp') {
    const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.on('error', (error) => on.failure(error.message));
    socket.on('message', () => on.data(1));
    if (localPort !== undefined) socket.bind(localPort);
    return {
      send: (text) => socket.send(text, port, address),
      end: () => socket.close(),
    };
  }
  const socket = connect({
    host: address,
    port,
    ...(localPort === undefined ? {} : { localPort }),
  });
  socket.setNoDelay(true);
  socket.on('error', (error) => on.failure(error.message));
  socket.on('data', (data: Buffer) => on.data(data.length));
  socket.on('end', () => on.failure('the server has closed'));
  return {
    send: (text) => {
      socket.write(text);
    },
    // A closed connection would occupy its port for a minute, and be answered meanwhile.
    end: () => socket.resetAndDestroy(),
  };
}

function call(
  request: ProbeTarget & { readonly id: number },
  say: (answer: ProbeAnswer) => void,
): Going {
  const { id } = request;
  let answered = 0;
  const line = open(request, {
    data: () => {
      answered += 1;
      say({ id, kind: 'answered' });
    },
    failure: (message) => say({ id, kind: 'failed', message }),
  });
  line.send('?');
  // TCP does it by itself.
  const again = request.protocol === 'udp' ? setInterval(() => line.send('?'), 500) : undefined;
  return {
    report: () => ({ sent: 1, answered, failure: undefined }),
    hush: () => clearInterval(again),
    end() {
      clearInterval(again);
      line.end();
    },
  };
}

/** Each question is one byte, and so is its answer. */
function stream(request: ProbeTarget & { readonly intervalMs: number }): Going {
  return flow(request, (line, count) => {
    const timer = setInterval(() => {
      count();
      line.send('?');
    }, request.intervalMs);
    return () => clearInterval(timer);
  });
}

function download(request: ProbeTarget & { readonly intervalMs: number }): Going {
  return flow(request, (line, count) => {
    count();
    line.send(`${DOWNLOAD} ${request.intervalMs}`);
    return () => undefined;
  });
}

function flow(target: ProbeTarget, start: (line: Line, count: () => void) => () => void): Going {
  let [sent, answered] = [0, 0];
  let failure: string | undefined;
  const line = open(target, {
    data: (length) => {
      answered += length;
    },
    failure: (message) => {
      failure ??= message;
    },
  });
  const stop = start(line, () => {
    sent += 1;
  });
  return {
    report: () => ({ sent, answered, failure }),
    hush: stop,
    end() {
      stop();
      line.end();
    },
  };
}
