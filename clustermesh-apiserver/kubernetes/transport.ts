/** HTTP to an API server, by Node's own client: one answer at a time, read as it comes. */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Access } from './credentials.ts';
import { errorOfAnswer, KubernetesError } from './kubernetes-error.ts';

/** A request as it goes out. */
export interface Outgoing {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
  /** Ends the request and its answer. */
  readonly signal: AbortSignal;
}

/** Between two signs of life of a connection that TCP itself looks for. */
const TCP_KEEPALIVE_MS = 15_000;
/** More than this of an error page helps nobody. */
const MAX_ERROR_BYTES = 65_536;

/**
 * Sends a request and resolves with the answer as soon as its head has come; its body is still to be read. An answer of 400
 * or above is thrown. A read that met a connection which the server was about to close is sent once more.
 */
export async function send(access: Access, outgoing: Outgoing): Promise<IncomingMessage> {
  const what = describe(outgoing);
  let answer: IncomingMessage;
  try {
    answer = await attempt(access, outgoing);
  } catch (error) {
    if (!(error instanceof StaleConnection) || outgoing.method !== 'GET')
      throw asUnavailable(what, error);
    answer = await attempt(access, outgoing).catch((again: unknown) => {
      throw asUnavailable(what, again);
    });
  }
  const { statusCode: status = 0 } = answer;
  if (status < 400) return answer;
  throw errorOfAnswer(what, {
    status,
    body: await readErrorBody(answer),
    retryAfter: answer.headers['retry-after'],
  });
}

/** Reads a whole body. */
export async function readText(answer: IncomingMessage, what: string): Promise<string> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of answer) chunks.push(chunk);
  } catch (error) {
    throw asUnavailable(what, error);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** Parses JSON that came with an answer of success. */
export function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new KubernetesError('unavailable', `${what}: the answer is not JSON`, { cause });
  }
}

/** `GET /api/v1/pods`, for messages: without the query, which says nothing to people. */
export function describe({
  method,
  path,
}: {
  readonly method: string;
  readonly path: string;
}): string {
  return `${method} ${path.split('?')[0]}`;
}

/** Any failure below HTTP. */
export function asUnavailable(what: string, error: unknown): KubernetesError {
  if (error instanceof KubernetesError) return error;
  const cause = error instanceof StaleConnection ? error.cause : error;
  return new KubernetesError('unavailable', `${what}: ${reasonOf(cause)}`, { cause });
}

/** A signal that aborts with either of two; `stop` lets go of both, so that long-lived ones gather no listeners. */
export function linkSignals(
  first: AbortSignal,
  second: AbortSignal,
): { readonly signal: AbortSignal; stop(): void } {
  const linked = new AbortController();
  const abort = (event: Event): void => {
    if (event.target instanceof AbortSignal) linked.abort(event.target.reason);
  };
  for (const signal of [first, second]) {
    if (signal.aborted) linked.abort(signal.reason);
    else signal.addEventListener('abort', abort, { once: true });
  }
  return {
    signal: linked.signal,
    stop() {
      for (const signal of [first, second]) signal.removeEventListener('abort', abort);
    },
  };
}

/** A signal that also aborts after a time; `stop` lets go of both. */
export function withDeadline(
  signal: AbortSignal,
  options: { readonly ms: number; readonly clock: Clock; readonly what: string },
): {
  readonly signal: AbortSignal;
  readonly expired: () => KubernetesError | undefined;
  stop(): void;
} {
  const { ms, clock, what } = options;
  const ending = new AbortController();
  const timing = new AbortController();
  let expiry: KubernetesError | undefined;
  const end = (): void => ending.abort(signal.reason);
  if (signal.aborted) end();
  else signal.addEventListener('abort', end, { once: true });
  clock.sleep(ms, timing.signal).then(
    () => {
      expiry = new KubernetesError('timeout', `${what}: no answer for ${ms / 1000} s`);
      ending.abort(expiry);
    },
    // Stopped before its time.
    () => undefined,
  );
  return {
    signal: ending.signal,
    expired: () => expiry,
    stop() {
      timing.abort(STOPPED);
      signal.removeEventListener('abort', end);
    },
  };
}

/** One for all: an abort without a reason makes an error with a stack each time. */
const STOPPED = new Error('the deadline is no longer of interest');

/** The server closed an idle connection while we began to use it again. */
class StaleConnection extends Error {}

function attempt(access: Access, outgoing: Outgoing): Promise<IncomingMessage> {
  const { method, body, signal } = outgoing;
  const url = new URL(access.server);
  const path = `${url.pathname.replace(/\/$/, '')}${outgoing.path}`;
  const headers: Record<string, string | number> = { ...access.headers, ...outgoing.headers };
  if (body !== undefined) headers['content-length'] = Buffer.byteLength(body);
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason);
    const open = url.protocol === 'http:' ? httpRequest : httpsRequest;
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    const request = open({
      host,
      port: url.port,
      method,
      path,
      headers,
      agent: access.agent,
      signal,
    });
    request.once('response', (answer) => {
      // Whoever reads it is told by the reading; without a listener an error after that would end the process.
      answer.on('error', () => undefined);
      resolve(answer);
    });
    request.on('error', (error) => {
      reject(request.reusedSocket ? new StaleConnection(error.message, { cause: error }) : error);
    });
    request.once('socket', (socket) => socket.setKeepAlive(true, TCP_KEEPALIVE_MS));
    request.end(body);
  });
}

async function readErrorBody(answer: IncomingMessage): Promise<unknown> {
  let text = '';
  try {
    for await (const chunk of answer) {
      text += String(chunk);
      if (text.length > MAX_ERROR_BYTES) break;
    }
    return JSON.parse(text);
  } catch {
    // Proxies answer in HTML, and cut connections: the status says enough.
    return text;
  }
}

function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  return error instanceof Error ? error.message : String(error);
}
