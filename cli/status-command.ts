/** `clustermesh status`: what the agents on this machine say. */
import { Command, Option } from 'commander';
import { ApiError } from '../agent/api/api-error.ts';
import { fetchStatus } from '../agent/api/client.ts';
import { problemsOf, renderStatus } from '../agent/api/render.ts';
import type { AgentStatus } from '../agent/api/status.ts';
import { CliError } from './cli-error.ts';

const DEFAULT_SOCKET = '/run/isthmus/agent.sock';

/** Builds the command. `print` gets the answers, `setProblem` is called when one of them needs attention. */
export function statusCommand(print: (text: string) => void, setProblem: () => void): Command {
  return new Command('status')
    .description('show what the agents of this machine know, and what needs attention')
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .addOption(
      new Option('-o, --output <format>', 'how to print it')
        .choices(['table', 'json'])
        .default('table'),
    )
    .action(async (flags: { socketPath?: string[]; lab?: string; output: 'table' | 'json' }) => {
      const sockets = await socketsOf(flags);
      const statuses: AgentStatus[] = [];
      const silent: string[] = [];
      for (const socket of sockets) {
        try {
          statuses.push(await fetchStatus(socket));
        } catch (error) {
          if (!(error instanceof ApiError) || error.code !== 'unreachable') throw error;
          silent.push(error.message);
        }
      }
      if (flags.output === 'json') print(`${JSON.stringify(statuses, null, 2)}\n`);
      else print(statuses.map(renderStatus).join('\n'));
      if (silent.length > 0) throw new CliError('unreachable', silent.join('\n'));
      if (statuses.some((status) => !status.ready || problemsOf(status).length > 0)) setProblem();
    });
}

async function socketsOf(flags: {
  socketPath?: string[];
  lab?: string;
}): Promise<readonly string[]> {
  if (flags.lab === undefined) return flags.socketPath ?? [DEFAULT_SOCKET];
  if (flags.socketPath !== undefined) {
    throw new CliError('usage', 'give --socket-path or --lab, not both');
  }
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  return (await findLab(flags.lab)).plan.nodes.map((node) => node.socketPath);
}
