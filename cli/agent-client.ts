/** Asking agents over their sockets, like every other client. */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { CliError } from './cli-error.ts';
import { readLines } from './lines.ts';

/** A row of `/v1/inspect` has the labels of an identity at most. */
const MAX_LINE_BYTES = 16 * 1024 * 1024;

/** One question. */
export interface AgentQuestion {
  /** With its query. */
  readonly path: string;
  /** Default: GET. */
  readonly method?: 'GET' | 'POST' | 'PUT';
  /** Sent as JSON. Default: nothing. */
  readonly body?: unknown;
  /** How long the answer may take, in milliseconds. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * Asks one agent and returns its JSON. Throws CliError: `unreachable` when none is there, `timeout`, `usage` for a question
 * that it does not understand, `problem` for everything else that it answers.
 */
export async function askAgent(socketPath: string, question: AgentQuestion): Promise<unknown> {
  const { status, text } = await call(socketPath, question);
  if (status === 200) return parseAnswer(text);
  throw refusal(socketPath, { status, text });
}

/**
 * Asks one agent what it answers in lines of JSON, and returns them as they come. `timeoutMs` is the longest silence. Throws
 * as `askAgent` does.
 */
export async function* askAgentLines(
  socketPath: string,
  { path, timeoutMs, signal }: Pick<AgentQuestion, 'path' | 'timeoutMs' | 'signal'>,
): AsyncGenerator<unknown, void, undefined> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    const request = httpRequest({ socketPath, path, signal, timeout: timeoutMs }, resolve);
    request.on('timeout', () => request.destroy(lateError(socketPath, timeoutMs)));
    request.on('error', (cause) => {
      reject(cause instanceof CliError ? cause : unreachable(socketPath, cause));
    });
    request.end();
  });
  if (response.statusCode !== 200) {
    const text = (await response.toArray()).join('');
    throw refusal(socketPath, { status: response.statusCode ?? 0, text });
  }
  for await (const { bytes } of readLines(response, MAX_LINE_BYTES)) {
    const answer = parseAnswer(bytes?.toString('utf8') ?? '');
    if (answer === undefined) throw new CliError('problem', `agent on ${socketPath}: cut off`);
    yield answer;
  }
}

function call(
  socketPath: string,
  { path, method = 'GET', body, timeoutMs, signal }: AgentQuestion,
): Promise<{ readonly status: number; readonly text: string }> {
  const late = lateError(socketPath, timeoutMs);
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, path, method, signal }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('error', fail);
      response.on('end', () => {
        clearTimeout(timer);
        resolve({
          status: response.statusCode ?? 0,
          text: Buffer.concat(parts).toString('utf8'),
        });
      });
    });
    const timer = setTimeout(() => request.destroy(late), timeoutMs);
    const fail = (cause: Error): void => {
      clearTimeout(timer);
      reject(cause instanceof CliError ? cause : unreachable(socketPath, cause));
    };
    request.on('error', fail);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function lateError(socketPath: string, timeoutMs: number): CliError {
  return new CliError(
    'timeout',
    `the agent on ${socketPath} does not answer within ${timeoutMs / 1000} s: give it more --timeout, or see in its log what keeps it busy`,
  );
}

function refusal(
  socketPath: string,
  { status, text }: { readonly status: number; readonly text: string },
): CliError {
  const answer = parseAnswer(text);
  const said =
    typeof answer === 'object' && answer !== null && 'error' in answer
      ? String(answer.error)
      : `answered ${status}: ${text.trim().slice(0, 200)}`;
  return new CliError(status === 400 ? 'usage' : 'problem', `agent on ${socketPath}: ${said}`);
}

function unreachable(socketPath: string, cause: Error): CliError {
  return new CliError(
    'unreachable',
    `cannot reach the agent on ${socketPath}: ${cause.message}: is clustermesh-agent running on this node, and is this the right --socket-path?`,
    { cause },
  );
}

function parseAnswer(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Told as it is.
    return undefined;
  }
}
