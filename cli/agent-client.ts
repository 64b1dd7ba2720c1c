/** Asking agents over their sockets, as any other client does. */
import { request as httpRequest } from 'node:http';
import { CliError } from './cli-error.ts';

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
  const answer = parseAnswer(text);
  if (status === 200) return answer;
  const said =
    typeof answer === 'object' && answer !== null && 'error' in answer
      ? String(answer.error)
      : `answered ${status}: ${text.trim().slice(0, 200)}`;
  throw new CliError(status === 400 ? 'usage' : 'problem', `agent on ${socketPath}: ${said}`);
}

function call(
  socketPath: string,
  { path, method = 'GET', body, timeoutMs, signal }: AgentQuestion,
): Promise<{ readonly status: number; readonly text: string }> {
  const late = new CliError(
    'timeout',
    `the agent on ${socketPath} does not answer within ${timeoutMs / 1000} s: give it more --timeout, or see in its log what keeps it busy`,
  );
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
