/** Health and metrics over plain HTTP, for probes, scrapers and people. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Metrics } from './metrics.ts';
import type { HostPort } from './option-parsers.ts';

/** What the endpoint answers from; asked anew for each request. What is absent is answered with 404. */
export interface HealthSources {
  /** Why the process does not do its part yet, a sentence each with what to do; empty when it does. */
  readonly missing?: () => readonly string[];
  /** State for people, as JSON. */
  readonly status?: () => unknown;
  readonly metrics?: Pick<Metrics, 'text' | 'contentType'>;
  /** Further pages of JSON by path, such as `/cluster`. */
  readonly pages?: Readonly<Record<string, () => unknown>>;
}

/** A listening endpoint. */
export interface HealthServer extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
}

/** The endpoint cannot listen: the port is taken, or the address is none of this machine's. */
export class HealthServerError extends Error {
  readonly code: 'port-taken' | 'address';
  readonly retryable: boolean;

  constructor(code: HealthServerError['code'], message: string, options: { cause: unknown }) {
    super(message, options);
    this.name = 'HealthServerError';
    this.code = code;
    this.retryable = code === 'port-taken';
  }
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly type: string;
}

const TEXT = 'text/plain; charset=utf-8';

/**
 * Listens: `/healthz` (the process answers), `/readyz` (200, or 503 with a line for each reason), `/status` and
 * `/metrics`. `flag` is the option to name when the address cannot be used. Throws HealthServerError.
 */
export async function listenHealthServer(
  address: HostPort,
  options: { readonly flag: string; readonly sources: HealthSources },
): Promise<HealthServer> {
  const { flag, sources } = options;
  const server = createServer((request, response) => void respond(request, response, sources));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(explainFailure(cause, address, flag)),
    );
    server.listen({ host: address.host, port: address.port }, resolve);
  });
  const bound = server.address();
  let closed: Promise<void> | undefined;
  return {
    address: {
      host: address.host,
      port: typeof bound === 'object' && bound !== null ? bound.port : address.port,
    },
    [Symbol.asyncDispose]() {
      closed ??= new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closed;
    },
  };
}

/** One clear line for an address that cannot be listened on. */
function explainFailure(
  cause: NodeJS.ErrnoException,
  address: HostPort,
  flag: string,
): HealthServerError {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const where = `${host}:${address.port}`;
  if (cause.code === 'EADDRINUSE') {
    return new HealthServerError(
      'port-taken',
      `cannot listen on ${where}: the port is taken; free it or choose another with ${flag}`,
      { cause },
    );
  }
  return new HealthServerError(
    'address',
    `cannot listen on ${where}: ${cause.message}; choose another with ${flag}`,
    { cause },
  );
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  sources: HealthSources,
): Promise<void> {
  let answer: Answer;
  try {
    answer = await answerOf(request, sources);
  } catch (error) {
    // Told to whoever asked, who is the only one to know what was wanted.
    answer = text(500, `${error instanceof Error ? error.message : String(error)}\n`);
  }
  response.writeHead(answer.status, {
    'content-type': answer.type,
    'content-length': Buffer.byteLength(answer.body),
    'cache-control': 'no-store',
  });
  response.end(request.method === 'HEAD' ? undefined : answer.body);
}

async function answerOf(request: IncomingMessage, sources: HealthSources): Promise<Answer> {
  const { missing, status, metrics, pages = {} } = sources;
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return text(405, 'only GET is answered\n');
  }
  const path = (request.url ?? '/').split('?')[0];
  if (path === '/healthz') return text(200, 'ok\n');
  if (path === '/readyz' && missing !== undefined) return readiness(missing());
  if (path === '/status' && status !== undefined) return json(status());
  const page = path !== undefined && Object.hasOwn(pages, path) ? pages[path] : undefined;
  if (page !== undefined) return json(page());
  if (path === '/metrics' && metrics !== undefined) {
    return { status: 200, body: await metrics.text(), type: metrics.contentType };
  }
  const known = [
    '/healthz',
    ...(missing === undefined ? [] : ['/readyz']),
    ...(status === undefined ? [] : ['/status']),
    ...(metrics === undefined ? [] : ['/metrics']),
    ...Object.keys(pages),
  ];
  return text(404, `expected one of ${known.join(', ')}\n`);
}

function readiness(missing: readonly string[]): Answer {
  if (missing.length === 0) return text(200, 'ok\n');
  return text(503, `not ready:\n${missing.map((reason) => `- ${reason}\n`).join('')}`);
}

function json(value: unknown): Answer {
  // JSON knows no big integers; revisions are some.
  const withBigIntegers = (_key: string, item: unknown): unknown =>
    typeof item === 'bigint' ? item.toString() : item;
  const body = `${JSON.stringify(value, withBigIntegers, 2)}\n`;
  return { status: 200, body, type: 'application/json' };
}

function text(status: number, body: string): Answer {
  return { status, body, type: TEXT };
}
