import { createConnection, createServer, type Socket } from 'node:net';

/** What the proxy does to the bytes that pass. It may be changed at any time and holds for open connections, too. */
export interface ProxyFaults {
  /** Milliseconds that bytes take in each direction: half of the round trip added. Default 0. */
  readonly delayMs?: number;
  /** Bytes a second and direction, for all connections each. Default: unlimited. */
  readonly bytesPerSecond?: number;
  /** Nothing passes, and nothing is closed: a cable pulled. Default false. */
  readonly stalled?: boolean;
  /** New connections are reset at once. Default false. */
  readonly refuse?: boolean;
}

/** A TCP proxy on loopback that misbehaves on request. Disposing cuts all connections. */
export interface FaultyProxy extends AsyncDisposable {
  readonly port: number;
  /** Connections that pass through now. */
  readonly connections: number;
  /** Bytes that have come back from the target so far. */
  readonly receivedBytes: number;
  /** Where connections go from now on, as when a name leads to another replica. Those that are open stay: see `cut`. */
  setTarget(port: number): void;
  /** Replaces all faults. */
  setFaults(faults: ProxyFaults): void;
  /** Resets every open connection. */
  cut(): void;
  /** Ends the direction towards the client in order, and leaves the other open. */
  halfClose(): void;
}

interface Pair {
  readonly client: Socket;
  readonly upstream: Socket;
}

/** Listens on a free port and passes connections on to a port of 127.0.0.1. */
export async function openFaultyProxy(options: {
  targetPort: number;
  faults?: ProxyFaults;
}): Promise<FaultyProxy> {
  let faults = options.faults ?? {};
  let { targetPort } = options;
  let receivedBytes = 0;
  const pairs = new Set<Pair>();
  const timers = new Set<NodeJS.Timeout>();
  const pumps = new Set<() => void>();

  const server = createServer({ allowHalfOpen: true }, (client) => {
    if (faults.refuse) {
      client.resetAndDestroy();
      return;
    }
    const upstream = createConnection({
      port: targetPort,
      host: '127.0.0.1',
      allowHalfOpen: true,
    });
    const pair: Pair = { client, upstream };
    pairs.add(pair);
    const drop = (): void => {
      pairs.delete(pair);
      pair.client.destroy();
      pair.upstream.destroy();
    };
    for (const socket of [pair.client, pair.upstream]) {
      socket.setNoDelay(true);
      // An error is followed by close, and that ends both sides.
      socket.on('error', () => undefined);
      socket.on('close', drop);
    }
    pass(pair.client, pair.upstream, () => undefined);
    pass(pair.upstream, pair.client, (bytes) => {
      receivedBytes += bytes;
    });
  });

  /** Hands bytes on, each at the time when they are due; what is due while stalled waits for the end of that. */
  const pass = (from: Socket, to: Socket, count: (bytes: number) => void): void => {
    const queue: { at: number; chunk: Buffer | undefined }[] = [];
    let busyUntil = 0;
    let waiting = false;
    const pump = (): void => {
      waiting = false;
      while (!faults.stalled && queue[0] !== undefined) {
        const wait = queue[0].at - performance.now();
        if (wait > 0.5) {
          later(pump, wait);
          waiting = true;
          return;
        }
        const { chunk } = queue.shift() ?? {};
        if (chunk === undefined) to.end();
        else {
          count(chunk.length);
          to.write(chunk);
        }
      }
    };
    const add = (chunk: Buffer | undefined): void => {
      const rate = faults.bytesPerSecond;
      const now = performance.now();
      const takes = rate === undefined || chunk === undefined ? 0 : (chunk.length / rate) * 1000;
      busyUntil = Math.max(busyUntil, now) + takes;
      queue.push({ at: busyUntil + (faults.delayMs ?? 0), chunk });
      if (!waiting) pump();
    };
    pumps.add(pump);
    from.on('data', add);
    from.on('end', () => add(undefined));
    from.on('close', () => pumps.delete(pump));
  };
  const later = (run: () => void, milliseconds: number): void => {
    const timer = setTimeout(() => {
      timers.delete(timer);
      run();
    }, milliseconds);
    timers.add(timer);
  };
  const cut = (): void => {
    for (const { client, upstream } of pairs) {
      client.resetAndDestroy();
      upstream.destroy();
    }
  };

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  return {
    port: typeof address === 'object' && address !== null ? address.port : 0,
    get connections() {
      return pairs.size;
    },
    get receivedBytes() {
      return receivedBytes;
    },
    setTarget: (port) => {
      targetPort = port;
    },
    setFaults: (next) => {
      faults = next;
      for (const pump of pumps) pump();
    },
    cut,
    halfClose: () => {
      for (const { client } of pairs) client.end();
    },
    [Symbol.asyncDispose]: async () => {
      if (!server.listening) return;
      const closed = new Promise((resolve) => server.close(resolve));
      cut();
      for (const timer of timers) clearTimeout(timer);
      await closed;
    },
  };
}
