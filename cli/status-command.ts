/** `clustermesh status`: what the agents on this machine say. Each is asked by its own program, which knows how to show it. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { CliError, EXIT_CODES } from './cli-error.ts';

const AGENT = fileURLToPath(new URL('../agent/main.js', import.meta.url));
const DEFAULT_SOCKET = '/run/isthmus/agent.sock';
const TIMEOUT_MS = 20_000;
const MAX_OUTPUT = 64 * 1024 * 1024;

type Format = 'table' | 'json';

interface Flags {
  readonly socketPath?: readonly string[];
  readonly lab?: string;
  readonly output: Format;
}

/** Builds the command. `print` gets the answers, `setProblem` is called when one of them needs attention. */
export function statusCommand(print: (text: string) => void, setProblem: () => void): Command {
  return new Command('status')
    .description('show what the agents of this machine know, and what needs attention')
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .addOption(
      new Option('-o, --output <format>', 'how to print it; JSON is a list')
        .choices(['table', 'json'])
        .default('table'),
    )
    .action(async (flags: Flags) => {
      const sockets = await socketsOf(flags);
      const answers = await Promise.all(sockets.map((socket) => askAgent(socket, flags.output)));
      const texts = answers.flatMap((answer) => (answer.text === '' ? [] : [answer.text]));
      print(flags.output === 'json' ? `[\n${texts.join(',\n')}\n]\n` : texts.join('\n'));
      const silent = answers.filter(({ code }) => code === EXIT_CODES.unreachable);
      if (silent.length > 0) {
        throw new CliError('unreachable', silent.map(({ problem }) => problem).join('\n'));
      }
      const failed = answers.filter(({ text }) => text === '');
      if (failed.length > 0) {
        throw new CliError('problem', failed.map(({ problem }) => problem).join('\n'));
      }
      if (answers.some(({ code }) => code !== EXIT_CODES.fine)) setProblem();
    });
}

async function socketsOf(flags: Flags): Promise<readonly string[]> {
  if (flags.lab === undefined) return flags.socketPath ?? [DEFAULT_SOCKET];
  if (flags.socketPath !== undefined) {
    throw new CliError('usage', 'give --socket-path or --lab, not both');
  }
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  return (await findLab(flags.lab)).plan.nodes.map((node) => node.socketPath);
}

/** Runs `clustermesh-agent status`; its exit codes are ours. */
function askAgent(
  socket: string,
  format: Format,
): Promise<{ readonly code: number; readonly text: string; readonly problem: string }> {
  const args = [AGENT, 'status', `--socket-path=${socket}`, `--output=${format}`];
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      args,
      { timeout: TIMEOUT_MS, maxBuffer: MAX_OUTPUT },
      (error, stdout, stderr) => {
        const ended = error?.code;
        const code = error === null ? 0 : typeof ended === 'number' ? ended : EXIT_CODES.problem;
        const problem = stderr.trim().replace(/^clustermesh-agent: /, '') || (error?.message ?? '');
        resolve({ code, text: stdout, problem });
      },
    );
  });
}
