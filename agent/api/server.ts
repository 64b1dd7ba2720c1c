import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { dirname } from 'node:path';
import type { Check } from '../../mesh/diagnosis/check.ts';
import { encodeDiagnoses } from '../../mesh/diagnosis/diagnosis.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { TRACE_LEVELS } from '../../mesh/wire/maps.ts';
import type { Datapath } from '../datapath/desired.ts';
import { parseCniRequest } from '../endpoints/cni-request.ts';
import { CniError } from '../endpoints/endpoint-error.ts';
import type { EndpointManager } from '../endpoints/manager.ts';
import { answerFirewall } from '../host-firewall/firewall-requests.ts';
import type { HostFirewall } from '../host-firewall/host-firewall.ts';
import type { TraceLevel } from '../monitor/monitor.ts';
import { MonitorError } from '../monitor/monitor-error.ts';
import { TraceError } from '../policy/trace-error.ts';
import {
  parseTroubleshoot,
  type TroubleshootSources,
  troubleshootPeers,
} from '../troubleshoot/troubleshoot.ts';
import type { ServeDrain } from '../withdrawal/drain-request.ts';
import { ApiError } from './api-error.ts';
import { isAnswering } from './client.ts';
import { answerInspection, isInspectPath } from './inspect-requests.ts';
import type { InspectSources } from './inspect-rows.ts';
import { type MonitorStreamSources, serveMonitor } from './monitor-stream.ts';
import { answerPolicies, isPolicyPath, type PolicySources } from './policy-requests.ts';
import type { AgentStatus } from './status.ts';

const MAX_BODY_BYTES = 4 * 1024 * 1024;
/** Methods of what changes something; of all else, GET. */
const METHODS: Readonly<Record<string, readonly string[]>> = {
  '/v1/cni': ['POST'],
  '/v1/drain': ['POST'],
  '/v1/undrain': ['POST'],
  '/v1/trace-level': ['GET', 'PUT'],
  '/v1/firewall': ['GET', 'POST'],
};
const MAP_NAMES = ['ipcache', 'endpoints', 'policy', 'services'] as const;

/** What the socket answers from. */
export interface ApiSources {
  readonly status: () => AgentStatus;
  /** Why the node is not ready, a sentence each; empty when it is. */
  readonly missing: () => readonly string[];
  readonly datapath: Datapath;
  readonly endpoints: Pick<EndpointManager, 'serve'>;
  /** Takes peers out of use and back; absent: not offered. */
  readonly drain?: ServeDrain;
  /** Events of this node; absent: not offered. */
  readonly stream?: MonitorStreamSources;
  /** Host policy of a machine; absent: this host has none. */
  readonly firewall?: HostFirewall | undefined;
  /** What policies come to; absent: not offered. */
  readonly policies?: PolicySources;
  /** What is known of the mesh; absent: not offered. */
  readonly inspection?: InspectSources;
  /** Looks whether this node does its part; absent: there is nothing to say. */
  readonly check?: () => Promise<readonly Check[]>;
  /** Finds out what keeps this node from peers; absent: not offered. */
  readonly troubleshoot?: TroubleshootSources;
}

/** An answer: status, JSON value or finished text. */
interface Answer {
  readonly status: number;
  readonly body: string;
}

/**
 * Listens on a unix socket that its owner alone may use. Throws ApiError when another agent answers there. Disposing
 * ends open requests and removes the socket.
 */
export async function listenApi(
  path: string,
  options: ApiSources & { readonly logger: Logger },
): Promise<AsyncDisposable> {
  await refuseSecondAgent(path);
  const server = createServer((request, response) => {
    void respond(request, response, options);
  });
  // Bound under another name first, so that nobody finds the socket before it is closed to strangers.
  const draft = `${path}.${process.pid}`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    rmSync(draft, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(draft, () => resolve());
    });
    chmodSync(draft, 0o600);
    renameSync(draft, path);
  } catch (cause) {
    server.close();
    rmSync(draft, { force: true });
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ApiError(
      'socket-failed',
      `cannot listen on ${path}: ${reason}: set --socket-path to a path that the agent may make`,
      { cause },
    );
  }
  let closed: Promise<void> | undefined;
  return {
    [Symbol.asyncDispose]() {
      closed ??= new Promise((resolve) => {
        rmSync(path, { force: true });
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closed;
    },
  };
}

/** Throws ApiError `socket-taken` when somebody answers on a socket. */
export async function refuseSecondAgent(path: string): Promise<void> {
  if (!(await isAnswering(path))) return;
  throw new ApiError(
    'socket-taken',
    `another agent answers on ${path}: stop it first, or set --socket-path`,
  );
}

async function respond(
  request: IncomingMessage,
  response: ServerResponse,
  options: ApiSources & { readonly logger: Logger },
): Promise<void> {
  let answer: Answer;
  try {
    const { stream, inspection } = options;
    if (stream !== undefined && isMonitor(request)) {
      await serveMonitor(request, response, stream);
      return;
    }
    const url = new URL(request.url ?? '/', 'http://agent');
    if (inspection !== undefined && isInspectPath(url.pathname)) {
      await answerInspection({ method: request.method ?? '', url }, response, inspection);
      return;
    }
    answer = await handle(request, options);
  } catch (error) {
    if (response.headersSent) {
      options.logger.error({ err: error, url: request.url }, 'an answer was cut off');
      response.destroy();
      return;
    }
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof MonitorError || error instanceof TraceError) {
      answer = json(400, { error: message });
    } else {
      options.logger.error({ err: error, url: request.url }, 'request failed');
      answer = json(500, { error: message });
    }
  }
  const type = answer.body === '' ? 'text/plain' : 'application/json';
  response.writeHead(answer.status, {
    'content-type': type,
    'content-length': Buffer.byteLength(answer.body),
  });
  response.end(answer.body);
}

function isMonitor({ method, url }: IncomingMessage): boolean {
  return method === 'GET' && new URL(url ?? '/', 'http://agent').pathname === '/v1/monitor';
}

async function handle(
  request: IncomingMessage,
  sources: ApiSources & { readonly logger: Logger },
): Promise<Answer> {
  const { pathname } = new URL(request.url ?? '/', 'http://agent');
  const { method = '' } = request;
  if (sources.policies !== undefined && isPolicyPath(pathname)) {
    const url = new URL(request.url ?? '/', 'http://agent');
    const body = (): Promise<string> => readBody(request);
    const answer = await answerPolicies({ method, url, body }, sources.policies);
    return json(answer.status, answer.body);
  }
  const wanted = METHODS[pathname] ?? ['GET'];
  if (!wanted.includes(method)) {
    return json(405, { error: `cannot ${method} ${pathname}: expected ${wanted.join(' or ')}` });
  }
  switch (pathname) {
    case '/v1/status':
      return json(200, sources.status());
    case '/v1/metrics':
      return json(200, metrics(sources));
    case '/v1/check':
      return json(200, await (sources.check?.() ?? []));
    case '/v1/troubleshoot':
      return serveTroubleshoot(request, sources.troubleshoot);
    case '/healthz':
      return readiness(sources.missing());
    case '/v1/cni':
      return serveCni(await readBody(request), sources);
    case '/v1/drain':
    case '/v1/undrain': {
      const action = pathname === '/v1/drain' ? 'drain' : 'undrain';
      const answer = sources.drain?.(action, await readBody(request));
      return json(answer?.status ?? 404, answer?.body ?? { error: `nothing at ${pathname}` });
    }
    case '/v1/firewall': {
      const body = (): Promise<string> => readBody(request);
      const answer = await answerFirewall({ method, body }, sources.firewall);
      return json(answer.status, answer.body);
    }
    case '/v1/trace-level':
      return serveTraceLevel(request, sources.stream);
    default:
      return pathname.startsWith('/v1/maps/')
        ? dumpMap(pathname.slice('/v1/maps/'.length), sources.datapath)
        : json(404, { error: `nothing at ${pathname}` });
  }
}

async function serveTroubleshoot(
  request: IncomingMessage,
  sources: TroubleshootSources | undefined,
): Promise<Answer> {
  if (sources === undefined) return json(404, { error: 'nothing at /v1/troubleshoot' });
  const { searchParams } = new URL(request.url ?? '/', 'http://agent');
  const gone = new AbortController();
  // Whoever has left needs no answer, and what is asked of the network ends.
  request.socket.once('close', () => gone.abort());
  const found = await troubleshootPeers(parseTroubleshoot(searchParams), sources, gone.signal);
  return { status: 200, body: encodeDiagnoses(found) };
}

async function serveTraceLevel(
  request: IncomingMessage,
  stream: MonitorStreamSources | undefined,
): Promise<Answer> {
  if (stream === undefined) return json(404, { error: 'nothing at /v1/trace-level' });
  const { monitor } = stream;
  if (request.method === 'PUT') monitor.setTraceLevel(parseTraceLevel(await readBody(request)));
  return json(200, { level: monitor.traceLevel });
}

/** Throws MonitorError `bad-filter`. */
function parseTraceLevel(body: string): TraceLevel {
  const text = /^\s*\{\s*"level"\s*:\s*"([a-z]*)"\s*\}\s*$/.exec(body)?.[1];
  const level = TRACE_LEVELS.find((known) => known === text);
  if (level !== undefined) return level;
  throw new MonitorError(
    'bad-filter',
    `cannot set the trace level: expected {"level": "..."} with one of ${TRACE_LEVELS.join(', ')}`,
  );
}

function readiness(missing: readonly string[]): Answer {
  if (missing.length === 0) return json(200, { ready: true });
  return json(503, { ready: false, error: missing.join('; ') });
}

function metrics({ datapath }: ApiSources): unknown {
  return {
    counters: datapath.counters().map(({ reason, direction, packets, bytes }) => ({
      reason,
      direction,
      packets: Number(packets),
      bytes: Number(bytes),
    })),
  };
}

function dumpMap(wanted: string, datapath: Datapath): Answer {
  const name = MAP_NAMES.find((known) => known === wanted);
  if (name === undefined) {
    return json(404, { error: `no map ${wanted}: expected one of ${MAP_NAMES.join(', ')}` });
  }
  return json(200, { name, rows: datapath[name].rows() });
}

async function serveCni(
  body: string,
  { endpoints, logger }: Pick<ApiSources, 'endpoints'> & { logger: Logger },
): Promise<Answer> {
  try {
    const request = parseCniRequest(body);
    return { status: 200, body: await endpoints.serve(request) };
  } catch (error) {
    const failure =
      error instanceof CniError
        ? error
        : new CniError(101, error instanceof Error ? error.message : String(error), {
            cause: error,
          });
    logger.warn({ err: failure }, 'CNI request failed');
    return json(failure.code === 101 ? 500 : 400, {
      cniVersion: cniVersionOf(body),
      code: failure.code,
      msg: failure.message,
      details: failure.details,
    });
  }
}

/** Version to answer in, from a request that may be broken in any way. */
function cniVersionOf(body: string): string {
  return /"cniVersion"\s*:\s*"([0-9.]{1,16})"/.exec(body)?.[1] ?? '1.0.0';
}

async function readBody(request: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request) {
    const bytes = Buffer.from(part);
    size += bytes.length;
    if (size > MAX_BODY_BYTES)
      throw new ApiError('too-large', `request of more than ${MAX_BODY_BYTES} bytes`);
    parts.push(bytes);
  }
  return Buffer.concat(parts).toString('utf8');
}

function json(status: number, value: unknown): Answer {
  // JSON knows no big integers; revisions are some.
  const text = JSON.stringify(value, (_key, item: unknown) =>
    typeof item === 'bigint' ? item.toString() : item,
  );
  return { status, body: `${text}\n` };
}
