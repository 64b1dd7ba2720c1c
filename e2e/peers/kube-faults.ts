/** An HTTPS proxy in front of a real API server that misbehaves on request. There is no double of the API server itself. */
import { readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Agent, createServer, request as httpsRequest } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import type { KubeEndpoint } from './kubeconfig.ts';

/** A request as the proxy sees it. */
export interface SeenRequest {
  readonly method: string;
  /** Path with its query. */
  readonly path: string;
  readonly isWatch: boolean;
}

/** What becomes of a request. */
export type KubeFault =
  /** It is answered here, with a Status object as the API server writes one: 410, 429, 500, 503 and so on. */
  | { readonly kind: 'answer'; readonly status: number; readonly retryAfterSeconds?: number }
  /** A watch begins with an ERROR event that has this code, such as 410, and ends. */
  | { readonly kind: 'watch-error'; readonly status: number }
  /** The connection stays open and nothing passes after so many bytes of the answer's body: default 0. */
  | { readonly kind: 'stall'; readonly afterBytes?: number }
  /** The connection is reset after so many bytes of the answer's body: default 0. */
  | { readonly kind: 'cut'; readonly afterBytes?: number }
  /** The request is passed on so much later. */
  | { readonly kind: 'slow'; readonly delayMs: number };

/** The proxy. Disposing cuts all connections. */
export interface KubeFaultProxy extends AsyncDisposable {
  /** To be used in a kubeconfig in place of the cluster's own. */
  readonly endpoint: KubeEndpoint;
  /** Requests seen so far, oldest first. */
  readonly requests: readonly SeenRequest[];
  /** How many of them had a path (without its query) that the pattern matches. */
  count(path: RegExp, method?: string): number;
  /** Forgets what was seen. */
  forget(): void;
  /**
   * Decides from now on what becomes of each request; undefined lets it pass. Requests under way go on as they are:
   * see `stallOpen` and `cutOpen`.
   */
  setFault(choose: ((request: SeenRequest) => KubeFault | undefined) | undefined): void;
  /** Lets nothing pass any more of the answers under way that match, and closes nothing. Tells how many. */
  stallOpen(matches?: (request: SeenRequest) => boolean): number;
  /** Resets the connections of the answers under way that match. Tells how many. */
  cutOpen(matches?: (request: SeenRequest) => boolean): number;
}

interface Exchange {
  readonly seen: SeenRequest;
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  stalled: boolean;
}

const REASONS: Readonly<Record<number, string>> = {
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  409: 'Conflict',
  410: 'Expired',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'ServiceUnavailable',
  504: 'Timeout',
};

/**
 * Listens on a free port of loopback with a certificate of its own authority and passes requests on. Who asks is told
 * by the bearer token, which passes: users with client certificates cannot be told through it.
 */
export async function openKubeFaultProxy(
  target: KubeEndpoint,
  options: { readonly clock?: Clock } = {},
): Promise<KubeFaultProxy> {
  const { clock = systemClock } = options;
  const dir = await openTempDir('kube-faults');
  const { caFile, certFile, keyFile } = await (await createTestAuthority(dir)).issue('faults');
  const agent = new Agent({ keepAlive: true, ca: await readFile(target.caFile) });
  const closing = new AbortController();
  let choose: ((request: SeenRequest) => KubeFault | undefined) | undefined;
  let requests: SeenRequest[] = [];
  const open = new Set<Exchange>();
  // By the client's port: the connections under TLS, which alone can be reset.
  const sockets = new Map<number, Socket>();
  const reset = ({ incoming }: Exchange): void => {
    sockets.get(incoming.socket.remotePort ?? 0)?.resetAndDestroy();
  };

  const handle = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const seen = seenRequest(incoming);
    requests.push(seen);
    const fault = choose?.(seen);
    if (fault?.kind === 'answer') {
      incoming.resume();
      answerStatus(outgoing, fault);
      return;
    }
    if (fault?.kind === 'watch-error') {
      incoming.resume();
      const event = { type: 'ERROR', object: statusObject(fault.status) };
      outgoing.writeHead(200, { 'content-type': 'application/json' });
      outgoing.end(`${JSON.stringify(event)}\n`);
      return;
    }
    const exchange: Exchange = { seen, incoming, outgoing, stalled: false };
    open.add(exchange);
    outgoing.once('close', () => open.delete(exchange));
    if (fault?.kind === 'slow') await clock.sleep(fault.delayMs, closing.signal);
    const limit =
      fault?.kind === 'stall' || fault?.kind === 'cut'
        ? { kind: fault.kind, bytes: fault.afterBytes ?? 0 }
        : undefined;
    passOn(exchange, { target, agent, limit, reset });
  };
  const server = createServer(
    { cert: await readFile(certFile), key: await readFile(keyFile) },
    (incoming, outgoing) => {
      handle(incoming, outgoing).catch(() => outgoing.destroy());
    },
  );
  // Watches are silent for minutes.
  server.requestTimeout = 0;
  server.on('connection', (socket: Socket) => {
    const { remotePort } = socket;
    if (remotePort === undefined) return;
    sockets.set(remotePort, socket);
    socket.once('close', () => sockets.delete(remotePort));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const { port } = server.address() as AddressInfo;
  const matching = (matches: (request: SeenRequest) => boolean): Exchange[] =>
    [...open].filter(({ seen }) => matches(seen));
  const any = (): boolean => true;
  return {
    endpoint: { url: `https://127.0.0.1:${port}`, caFile },
    get requests() {
      return requests;
    },
    count: (path, method) =>
      requests.filter(
        (seen) =>
          path.test(seen.path.split('?')[0] ?? '') &&
          (method === undefined || seen.method === method),
      ).length,
    forget: () => {
      requests = [];
    },
    setFault: (chosen) => {
      choose = chosen;
    },
    stallOpen: (matches = any) => {
      const found = matching(matches);
      for (const exchange of found) exchange.stalled = true;
      return found.length;
    },
    cutOpen: (matches = any) => {
      const found = matching(matches);
      for (const { incoming } of found) incoming.socket.destroy();
      return found.length;
    },
    [Symbol.asyncDispose]: async () => {
      closing.abort();
      for (const socket of sockets.values()) socket.destroy();
      agent.destroy();
      await new Promise((resolve) => server.close(resolve));
      await dir[Symbol.asyncDispose]();
    },
  };
}

function seenRequest(incoming: IncomingMessage): SeenRequest {
  const path = incoming.url ?? '/';
  const watch = new URL(path, 'https://any').searchParams.get('watch');
  return { method: incoming.method ?? 'GET', path, isWatch: watch === 'true' || watch === '1' };
}

function passOn(
  exchange: Exchange,
  options: {
    readonly target: KubeEndpoint;
    readonly agent: Agent;
    readonly limit: { readonly kind: 'stall' | 'cut'; readonly bytes: number } | undefined;
    readonly reset: (exchange: Exchange) => void;
  },
): void {
  const { incoming, outgoing } = exchange;
  const { target, agent, limit, reset } = options;
  const { host: _, ...headers } = incoming.headers;
  const upstream = httpsRequest(`${target.url}${incoming.url ?? '/'}`, {
    agent,
    method: incoming.method ?? 'GET',
    headers,
  });
  const cut = (): void => {
    upstream.destroy();
    reset(exchange);
  };
  upstream.on('error', cut);
  upstream.once('response', (answer) => {
    if (exchange.stalled) return;
    outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
    outgoing.flushHeaders();
    let left = limit?.bytes ?? Number.POSITIVE_INFINITY;
    const endAtLimit = (): void => {
      if (left > 0) return;
      // What comes after is lost, as it is to a client whose cable is pulled.
      exchange.stalled = true;
      if (limit?.kind === 'cut') cut();
    };
    endAtLimit();
    answer.on('data', (chunk: Buffer) => {
      if (exchange.stalled || left === 0) return;
      const part = chunk.subarray(0, left);
      left -= part.length;
      const goesOn = outgoing.write(part, endAtLimit);
      if (goesOn) return;
      answer.pause();
      outgoing.once('drain', () => answer.resume());
    });
    answer.once('end', () => {
      if (!exchange.stalled && left > 0) outgoing.end();
    });
    answer.on('error', cut);
  });
  outgoing.once('close', () => upstream.destroy());
  incoming.pipe(upstream);
}

function answerStatus(
  outgoing: ServerResponse,
  { status, retryAfterSeconds }: { readonly status: number; readonly retryAfterSeconds?: number },
): void {
  const text = JSON.stringify(statusObject(status));
  outgoing.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    ...(retryAfterSeconds === undefined ? {} : { 'retry-after': String(retryAfterSeconds) }),
  });
  outgoing.end(text);
}

function statusObject(code: number): unknown {
  return {
    kind: 'Status',
    apiVersion: 'v1',
    metadata: {},
    status: 'Failure',
    message: `the proxy of the test answers ${code}`,
    reason: REASONS[code] ?? '',
    code,
  };
}
