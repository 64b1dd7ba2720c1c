/** Which agents a command asks. */
import { CliError } from './cli-error.ts';
import { requireLabs } from './lab-presence.ts';

/** Where an agent listens when nothing else is said. */
export const DEFAULT_SOCKET = '/run/isthmus/agent.sock';

/** Options that say it. */
export interface AgentFlags {
  readonly socketPath?: readonly string[];
  readonly lab?: string;
}

/** Sockets of the agents that are meant. Throws CliError `usage`, and LabError for a lab that is not there. */
export async function agentSockets(flags: AgentFlags): Promise<readonly string[]> {
  if (flags.lab === undefined) return flags.socketPath ?? [DEFAULT_SOCKET];
  if (flags.socketPath !== undefined) {
    throw new CliError('usage', 'give --socket-path or --lab, not both');
  }
  requireLabs();
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  const { nodes, machines } = (await findLab(flags.lab)).plan;
  return [
    ...nodes.map((node) => node.socketPath),
    ...machines.filter(({ joined }) => joined).map((machine) => machine.socketPath),
  ];
}
