/** Options of commands that ask agents, and asking several of them. */
import { type Command, InvalidArgumentError } from 'commander';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import { beginProgress } from './progress.ts';

/** What `addAgentOptions` adds. */
export interface AskingFlags extends AgentFlags {
  /** In seconds. */
  readonly timeout: number;
}

/** Adds `--socket-path`, `--lab` and `--timeout`. */
export function addAgentOptions(command: Command, { timeoutSeconds = 20 } = {}): Command {
  return command
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .option('--timeout <seconds>', 'how long an answer may take', parseSeconds, timeoutSeconds);
}

/** Parses seconds. Throws InvalidArgumentError. */
export function parseSeconds(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected 1 to 9999 seconds');
}

/**
 * Asks every agent that is meant, one after the other. Those that do not answer are told with `say` and are a problem, as
 * long as one does. Throws the first CliError where none does.
 */
export async function askEachAgent<Answer>(
  flags: AgentFlags,
  ask: (socketPath: string) => Promise<Answer>,
  { say, setProblem, isWatched }: Pick<CliContext, 'say' | 'setProblem' | 'isWatched'>,
): Promise<Answer[]> {
  const answers: Answer[] = [];
  const failures: CliError[] = [];
  using progress = beginProgress('asking agents', { say, isWatched });
  const sockets = await agentSockets(flags);
  for (const [index, socketPath] of sockets.entries()) {
    progress.tell(`asking agent ${index + 1} of ${sockets.length}`);
    try {
      answers.push(await ask(socketPath));
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      failures.push(error);
    }
  }
  progress[Symbol.dispose]();
  const [first] = failures;
  if (first === undefined) return answers;
  if (answers.length === 0) throw first;
  for (const { message } of failures) say(`clustermesh: ${message}\n`);
  setProblem();
  return answers;
}
