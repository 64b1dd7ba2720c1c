/**
 * Mixed traffic from one pod until SIGTERM: new connections at a rate, long streams, and datagrams. `main.js TARGETS`, which
 * is MixedTargets as JSON. Writes a line when every stream runs, and MixedReport as a line of JSON at its end.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { connect, type Socket } from 'node:net';

/** Where to, by a name of the caller's. */
export interface MixedTargets {
  /** New connections a second, over all of `connections`. */
  readonly rate: number;
  readonly connections: readonly Target[];
  /** Servers of `/slow`, which send 160 KiB in ten pieces each second. */
  readonly streams: readonly Target[];
  readonly datagrams: readonly Target[];
}

export interface Target {
  readonly name: string;
  readonly address: string;
  readonly port: number;
}

/** What became of it, by target. */
export interface MixedReport {
  readonly connections: Readonly<Record<string, ConnectionCount>>;
  readonly streams: Readonly<Record<string, StreamCount>>;
  readonly datagrams: Readonly<Record<string, { sent: number; answered: number }>>;
}

export interface ConnectionCount {
  begun: number;
  answered: number;
  /** Who answered, and how often. */
  readonly byPod: Record<string, number>;
  /** Error, when it happened (milliseconds of the wall clock), and how long it took. */
  readonly failures: { error: string; at: number; tookMs: number }[];
}

export interface StreamCount {
  bytes: number;
  /** Longest silence. */
  longestGapMs: number;
  failure: string | undefined;
}

const CONNECT_TIMEOUT_MS = 15_000;
const TICK_MS = 20;
const DATAGRAMS_A_SECOND = 20;
/** Longer than any run. */
const STREAM_SECONDS = 3600;

const targets: MixedTargets = JSON.parse(process.argv[2] ?? '');
const report = {
  connections: byName(targets.connections, (): ConnectionCount => {
    return { begun: 0, answered: 0, byPod: {}, failures: [] };
  }),
  streams: byName(targets.streams, (): StreamCount => {
    return { bytes: 0, longestGapMs: 0, failure: undefined };
  }),
  datagrams: byName(targets.datagrams, () => ({ sent: 0, answered: 0 })),
} satisfies MixedReport;
let isEnding = false;
let open = 0;

function byName<Value>(all: readonly Target[], make: () => Value): Record<string, Value> {
  return Object.fromEntries(all.map(({ name }) => [name, make()]));
}

function callOnce(target: Target): void {
  const count = report.connections[target.name];
  if (count === undefined) return;
  const started = Date.now();
  count.begun += 1;
  open += 1;
  let said = '';
  const socket = connect({ host: target.address, port: target.port, autoSelectFamily: false });
  socket.setTimeout(CONNECT_TIMEOUT_MS, () => socket.destroy(new Error('timeout')));
  socket.on('connect', () => socket.write('GET / HTTP/1.0\r\nHost: pod\r\n\r\n'));
  socket.on('data', (data) => {
    said += data.toString();
  });
  let error: string | undefined;
  socket.on('error', (failure) => {
    error = 'code' in failure ? String(failure.code) : failure.message;
  });
  socket.on('close', () => {
    open -= 1;
    const pod = /\r\n\r\n(\S+) /.exec(said)?.[1];
    if (error === undefined && pod !== undefined) {
      count.answered += 1;
      count.byPod[pod] = (count.byPod[pod] ?? 0) + 1;
      return;
    }
    const tookMs = Date.now() - started;
    count.failures.push({ error: error ?? 'closed early', at: started, tookMs });
  });
}

function openStream(target: Target): Promise<void> {
  const count = report.streams[target.name];
  if (count === undefined) return Promise.resolve();
  const socket: Socket = connect({
    host: target.address,
    port: target.port,
    autoSelectFamily: false,
  });
  socket.on('connect', () => {
    socket.write(`GET /slow?seconds=${STREAM_SECONDS} HTTP/1.0\r\nHost: pod\r\n\r\n`);
  });
  return new Promise((resolve, reject) => {
    let last: number | undefined;
    socket.on('data', (data) => {
      const now = Date.now();
      if (last !== undefined) count.longestGapMs = Math.max(count.longestGapMs, now - last);
      last = now;
      count.bytes += data.length;
      resolve();
    });
    socket.on('error', (error) => {
      count.failure ??= error.message;
      reject(error);
    });
    socket.on('close', () => {
      if (!isEnding) count.failure ??= 'closed';
    });
    process.once('SIGTERM', () => {
      if (last !== undefined) count.longestGapMs = Math.max(count.longestGapMs, Date.now() - last);
      socket.destroy();
    });
  });
}

function openDatagrams(target: Target): UdpSocket {
  const socket = createSocket(target.address.includes(':') ? 'udp6' : 'udp4');
  const count = report.datagrams[target.name];
  socket.on('message', () => {
    if (count !== undefined) count.answered += 1;
  });
  socket.on('error', () => undefined);
  const timer = setInterval(() => {
    if (isEnding || count === undefined) return;
    count.sent += 1;
    socket.send('ping', target.port, target.address, () => undefined);
  }, 1000 / DATAGRAMS_A_SECOND);
  process.once('SIGTERM', () => clearInterval(timer));
  return socket;
}

await Promise.all(targets.streams.map(openStream));
process.stdout.write('streams run\n');
const sockets = targets.datagrams.map(openDatagrams);
const begin = Date.now();
let begun = 0;
const timer = setInterval(() => {
  const due = Math.floor(((Date.now() - begin) / 1000) * targets.rate);
  // After a pause of the machine's, not all at once.
  for (let count = 0; begun < due && count < targets.rate / 10; count += 1) {
    const target = targets.connections[begun % targets.connections.length];
    begun += 1;
    if (target !== undefined) callOnce(target);
  }
  if (due - begun > targets.rate) begun = due;
}, TICK_MS);

process.once('SIGTERM', () => {
  isEnding = true;
  clearInterval(timer);
  const deadline = Date.now() + CONNECT_TIMEOUT_MS + 1000;
  const finish = setInterval(() => {
    if (open > 0 && Date.now() < deadline) return;
    clearInterval(finish);
    for (const socket of sockets) socket.close();
    process.stdout.write(`${JSON.stringify(report)}\n`, () => process.exit(0));
  }, 100);
});
