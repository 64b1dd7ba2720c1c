import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import type { TraceLevel } from '../monitor/monitor.ts';
import { ApiError } from './api-error.ts';
import type { AgentStatus } from './status.ts';

const TIMEOUT_MS = 10_000;

/** Answer of an agent's socket. */
export interface ApiAnswer {
  readonly status: number;
  readonly body: string;
}

/** Asks an agent over its socket. Throws ApiError `unreachable` when none is there, `timeout` when it does not answer. */
export function callAgent(
  socketPath: string,
  options: {
    path: string;
    method?: 'GET' | 'POST' | 'PUT';
    body?: string;
    /** How long to wait for it. Default: 10 s. */
    timeoutMs?: number;
  },
): Promise<ApiAnswer> {
  const { timeoutMs = TIMEOUT_MS } = options;
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      { socketPath, path: options.path, method: options.method ?? 'GET', timeout: timeoutMs },
      (response) => {
        const parts: Buffer[] = [];
        response.on('data', (part: Buffer) => parts.push(part));
        response.on('end', () =>
          resolve({
            status: response.statusCode ?? 0,
            body: Buffer.concat(parts).toString('utf8'),
          }),
        );
        response.on('error', reject);
      },
    );
    request.on('timeout', () => request.destroy(late(socketPath, timeoutMs)));
    request.on('error', (cause) => {
      reject(cause instanceof ApiError ? cause : unreachable(socketPath, cause));
    });
    request.end(options.body);
  });
}

/** The error for an agent that does not answer, or stops to. */
export function unreachable(socketPath: string, cause: unknown): ApiError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ApiError(
    'unreachable',
    `cannot reach the agent on ${socketPath}: ${reason}: is clustermesh-agent running on this node, and is this the right --socket-path?`,
    { cause },
  );
}

function late(socketPath: string, timeoutMs: number): ApiError {
  return new ApiError(
    'timeout',
    `the agent on ${socketPath} does not answer within ${timeoutMs} ms: it is busy or hangs, its log says with what`,
  );
}

/** Asks an agent which packets it traces, or, with a level, to change that; the level then. Throws ApiError. */
export async function askTraceLevel(socketPath: string, level?: TraceLevel): Promise<TraceLevel> {
  const { status, body } = await callAgent(socketPath, {
    path: '/v1/trace-level',
    ...(level === undefined ? {} : { method: 'PUT', body: JSON.stringify({ level }) }),
  });
  if (status === 200) return (JSON.parse(body) as { readonly level: TraceLevel }).level;
  throw new ApiError(
    'bad-answer',
    `agent on ${socketPath} answered ${status}: ${body.trim().slice(0, 200)}`,
  );
}

/** Status of a running agent. Throws ApiError. */
export async function fetchStatus(socketPath: string): Promise<AgentStatus> {
  const { status, body } = await callAgent(socketPath, { path: '/v1/status' });
  if (status !== 200) {
    throw new ApiError(
      'bad-answer',
      `agent on ${socketPath} answered ${status}: ${body.trim().slice(0, 200)}`,
    );
  }
  return JSON.parse(body) as AgentStatus;
}

/** Asks an agent to drain or undrain a cluster, and returns its answer. Throws ApiError. */
export async function askDrain(
  socketPath: string,
  request: { readonly action: 'drain' | 'undrain'; readonly cluster: string },
): Promise<{ readonly ok: boolean; readonly message: string }> {
  const { status, body } = await callAgent(socketPath, {
    path: `/v1/${request.action}`,
    method: 'POST',
    body: JSON.stringify({ cluster: request.cluster }),
  });
  const answer = JSON.parse(body) as { readonly message?: string; readonly error?: string };
  const ok = status === 200;
  return { ok, message: (ok ? answer.message : answer.error) ?? `the agent answered ${status}` };
}

/** Whether somebody accepts connections on a socket. A file left by a process that died does not. */
export function isAnswering(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}
