/** `clustermesh drain` and `undrain`: takes a peer out of use on the nodes whose agents run on this machine, and back. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { CliError, EXIT_CODES } from './cli-error.ts';

const AGENT = fileURLToPath(new URL('../agent/main.js', import.meta.url));
const DEFAULT_SOCKET = '/run/isthmus/agent.sock';
const TIMEOUT_MS = 20_000;

interface Flags {
  readonly socketPath?: readonly string[];
  readonly lab?: string;
}

const DESCRIPTIONS = {
  drain:
    'planned failover: use the backends of a peer only where a service has no others, on the nodes of this machine, until undrained',
  undrain: 'use the backends of a drained peer again',
} as const;

/** Builds one of the two commands. `print` gets the answers. */
export function drainCommand(action: 'drain' | 'undrain', print: (text: string) => void): Command {
  return new Command(action)
    .description(DESCRIPTIONS[action])
    .argument('<peer>', 'name of the peer, as in `clustermesh status`')
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .action(async (peer: string, flags: Flags) => {
      const sockets = await socketsOf(peer, flags);
      const answers = await Promise.all(
        sockets.map((socket) => askAgent(socket, { action, peer })),
      );
      for (const { text } of answers) print(text);
      const failed = answers.filter(({ code }) => code !== EXIT_CODES.fine);
      if (failed.length === 0) return;
      const isSilent = failed.some(({ code }) => code === EXIT_CODES.unreachable);
      throw new CliError(
        isSilent ? 'unreachable' : 'problem',
        failed.map(({ problem }) => problem).join('\n'),
      );
    });
}

/** In a lab the agents of the peer itself are left out: to them it is the own cluster. */
async function socketsOf(peer: string, flags: Flags): Promise<readonly string[]> {
  if (flags.lab === undefined) return flags.socketPath ?? [DEFAULT_SOCKET];
  if (flags.socketPath !== undefined) {
    throw new CliError('usage', 'give --socket-path or --lab, not both');
  }
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  const { plan } = await findLab(flags.lab);
  return plan.clusters
    .filter(({ name }) => name !== peer)
    .flatMap(({ nodes }) => nodes.map((node) => node.socketPath));
}

/** Runs the agent's own command; its exit codes are ours. */
function askAgent(
  socket: string,
  { action, peer }: { readonly action: string; readonly peer: string },
): Promise<{ readonly code: number; readonly text: string; readonly problem: string }> {
  const args = [AGENT, action, peer, `--socket-path=${socket}`];
  return new Promise((resolve) => {
    execFile(process.execPath, args, { timeout: TIMEOUT_MS }, (error, stdout, stderr) => {
      const ended = error?.code;
      const code = error === null ? 0 : typeof ended === 'number' ? ended : EXIT_CODES.problem;
      const problem = stderr.trim().replace(/^clustermesh-agent: /, '') || (error?.message ?? '');
      resolve({ code, text: stdout, problem });
    });
  });
}
