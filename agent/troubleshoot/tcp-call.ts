/** TCP connections out of a pod: a socket is of the network namespace that its process is in, so a process is started there. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { askTcp, type TcpOutcome } from '../withdrawal/probe.ts';

/** How long one connection may take, in milliseconds. */
const CALL_TIMEOUT_MS = 1_500;
/** The start of a process on a busy machine comes on top. */
const LIMIT_MS = 8_000;
const CALLER = fileURLToPath(new URL('./tcp-caller.js', import.meta.url));

const answerSchema = z.array(z.enum(['accepted', 'refused', 'silent']));

/** Outcomes as sentences have them. */
export const TCP_WORDS: Readonly<Record<TcpOutcome, string>> = {
  accepted: 'answers',
  refused: 'refuses the connection',
  silent: 'does not answer',
};

/** Why nothing was tried. */
export const NOBODY_CALLS =
  'no process can be started in its network namespace: is there `nsenter`, and the namespace?';

/** An address and port that is called. */
export interface CallTarget {
  readonly address: IpAddress;
  readonly port: number;
}

/** Calls targets side by side; outcomes are in their order. Never rejects. */
export type CallTcp = (
  targets: readonly CallTarget[],
  options: {
    /** Path of the network namespace to call from; undefined: the agent's own. */
    readonly netns: string | undefined;
    readonly signal: AbortSignal;
  },
) => Promise<readonly TcpOutcome[] | 'no-program'>;

/** Calls from the agent itself, or by `nsenter` from another namespace. The process is in the agent's cgroup, whose sockets are translated, too. */
export const callTcp: CallTcp = (targets, { netns, signal }) => {
  const timeoutMs = CALL_TIMEOUT_MS;
  if (netns === undefined) {
    return Promise.all(
      targets.map(({ address, port }) => askTcp(address, { port, timeoutMs, signal })),
    );
  }
  return new Promise((resolve) => {
    const argv = [`--net=${netns}`, process.execPath, CALLER];
    const child = execFile('nsenter', argv, { timeout: LIMIT_MS, signal }, (error, stdout) => {
      const answer = error === null ? answerSchema.safeParse(parseJson(stdout)) : undefined;
      if (answer?.success === true && answer.data.length === targets.length) resolve(answer.data);
      else if (signal.aborted) resolve(targets.map(() => 'silent'));
      else resolve('no-program');
    });
    // One that could not be started reads nothing.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(JSON.stringify({ targets, timeoutMs }));
  });
};

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
