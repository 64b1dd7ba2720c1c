/** Health over plain HTTP, for probes and people. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';
import { ApiserverError } from './apiserver-error.ts';

/** What the endpoint answers from; asked anew for each request. */
export interface HealthSources {
  /** What is still missing before the cluster can be read; empty when it is ready. */
  readonly missing: () => readonly string[];
  /** State for people, as JSON. */
  readonly status: () => unknown;
}

/** A listening health endpoint. */
export interface Health extends AsyncDisposable {
  /** Where it listens: the port is the real one when 0 was asked for. */
  readonly address: HostPort;
}

/** Listens. Throws ApiserverError `port-taken` or `address`. */
export async function listenHealth(address: HostPort, sources: HealthSources): Promise<Health> {
  const server = createServer((request, response) => respond(request, response, sources));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause: NodeJS.ErrnoException) =>
      reject(listenError(cause, { ...address, flag: '--health-address' })),
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
export function listenError(
  cause: NodeJS.ErrnoException,
  address: HostPort & { readonly flag: string },
): ApiserverError {
  const host = address.host.includes(':') ? `[${address.host}]` : address.host;
  const where = `${host}:${address.port}`;
  if (cause.code === 'EADDRINUSE') {
    return new ApiserverError(
      'port-taken',
      `cannot listen on ${where}: the port is taken; free it or choose another with ${address.flag}`,
      { retryable: true, cause },
    );
  }
  return new ApiserverError(
    'address',
    `cannot listen on ${where}: ${cause.message}; choose another with ${address.flag}`,
    { cause },
  );
}

function respond(request: IncomingMessage, response: ServerResponse, sources: HealthSources): void {
  const path = (request.url ?? '/').split('?')[0];
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    answer(response, 405, 'only GET is answered\n');
    return;
  }
  switch (path) {
    case '/healthz':
      answer(response, 200, 'ok\n');
      return;
    case '/readyz': {
      const missing = sources.missing();
      if (missing.length === 0) answer(response, 200, 'ok\n');
      else answer(response, 503, `not ready: ${missing.join(', ')}\n`);
      return;
    }
    case '/status':
      answer(response, 200, `${JSON.stringify(sources.status(), null, 2)}\n`, 'application/json');
      return;
    default:
      answer(response, 404, 'expected /readyz, /healthz or /status\n');
  }
}

function answer(
  response: ServerResponse,
  status: number,
  body: string,
  type = 'text/plain; charset=utf-8',
): void {
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' });
  response.end(body);
}
