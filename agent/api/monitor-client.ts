/** Following an agent's events over its socket. */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import type { MonitorEvent } from '../monitor/event.ts';
import { ApiError } from './api-error.ts';
import { unreachable } from './client.ts';

/** An event as it came, and what it says. */
export interface ReceivedEvent {
  readonly line: string;
  readonly event: MonitorEvent;
}

/**
 * Events of an agent, until it ends the answer or `signal` aborts, which ends without an error. Throws ApiError
 * `unreachable` when no agent answers or it leaves, `bad-question` when it does not understand the query.
 */
export async function* followEvents(
  socketPath: string,
  query: URLSearchParams,
  signal: AbortSignal,
): AsyncGenerator<ReceivedEvent> {
  try {
    const response = await open(socketPath, `/v1/monitor?${query}`, signal);
    if (response.statusCode !== 200) throw await refusal(response);
    for await (const line of createInterface({
      input: response,
      crlfDelay: Number.POSITIVE_INFINITY,
    })) {
      yield { line, event: JSON.parse(line) as MonitorEvent };
    }
    if (!response.complete) throw new Error('the connection was cut');
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof ApiError ? error : unreachable(socketPath, error);
  }
}

function open(socketPath: string, path: string, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, path, signal }, resolve);
    request.once('error', reject);
    request.end();
  });
}

async function refusal(response: IncomingMessage): Promise<ApiError> {
  const parts: Buffer[] = [];
  for await (const part of response) parts.push(Buffer.from(part));
  const text = Buffer.concat(parts).toString('utf8').trim();
  const { error } = JSON.parse(text) as { readonly error?: string };
  const message = error ?? `the agent answered ${response.statusCode}`;
  return new ApiError(response.statusCode === 400 ? 'bad-question' : 'bad-answer', message);
}
