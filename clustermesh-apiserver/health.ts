/** Health over HTTP: `/healthz` while the process lives, `/readyz` when everything is published, `/status` with the reasons. */
import { createServer, type Server } from 'node:http';
import type { HostPort } from '../mesh/runtime/option-parsers.ts';

/** What the endpoints are asked for. */
export interface HealthSources {
  /** Why this process is not ready; empty when it is. */
  readonly notReady: () => readonly string[];
  /** Everything about its state, for people and tools. */
  readonly status: () => unknown;
}

/** Why the health endpoint cannot be had. */
export class HealthError extends Error {
  readonly code: 'port-taken';
  readonly retryable = false;

  constructor(message: string, options: { cause: unknown }) {
    super(message, options);
    this.name = 'HealthError';
    this.code = 'port-taken';
  }
}

/** Opens the endpoints; the port is the real one when 0 was asked for. Throws HealthError. */
export async function listenHealth(
  address: HostPort,
  sources: HealthSources,
): Promise<AsyncDisposable & { readonly address: HostPort }> {
  const server = createServer((request, response) => {
    const { code, body } = answer(request.url ?? '/', sources);
    response.writeHead(code, { 'content-type': 'application/json' });
    response.end(`${JSON.stringify(body, jsonValue)}\n`);
  });
  const port = await listen(server, address);
  return {
    address: { host: address.host, port },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function answer(url: string, sources: HealthSources): { code: number; body: unknown } {
  switch (url.split('?')[0]) {
    case '/healthz':
      return { code: 200, body: { healthy: true } };
    case '/readyz': {
      const notReady = sources.notReady();
      return {
        code: notReady.length === 0 ? 200 : 503,
        body: { ready: notReady.length === 0, notReady },
      };
    }
    case '/status':
      return { code: 200, body: { notReady: sources.notReady(), ...asObject(sources.status()) } };
    default:
      return { code: 404, body: { error: `no such path: expected /healthz, /readyz or /status` } };
  }
}

async function listen(server: Server, { host, port }: HostPort): Promise<number> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(port, host, resolve);
    });
  } catch (cause) {
    throw new HealthError(
      `cannot listen on ${host} port ${port} for health: ${cause instanceof Error ? cause.message : String(cause)}; give another by --health-address`,
      { cause },
    );
  }
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : port;
}

function asObject(value: unknown): object {
  return typeof value === 'object' && value !== null ? value : { value };
}

/** JSON knows no big integers; revisions are read by people. */
function jsonValue(_name: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}
