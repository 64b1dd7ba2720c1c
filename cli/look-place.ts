/** Where a command looks from: an apiserver, or agents. */
import type { Command } from 'commander';
import type { AgentFlags } from './agent-sockets.ts';
import { CliError } from './cli-error.ts';
import { type ClusterFlags, namesCluster } from './cluster-access.ts';

/** Where. */
export type LookPlace = 'cluster' | 'agents';

/**
 * A cluster where one is named, else agents. Who names agents on the command line means them, whatever cluster the environment
 * names. Throws CliError `usage` when the command line names both.
 */
export function lookPlace(flags: ClusterFlags & AgentFlags, command: Command): LookPlace {
  const isAgents = flags.socketPath !== undefined || flags.lab !== undefined;
  const isTyped = ['registry', 'context'].some(
    (name) => command.getOptionValueSource(name) === 'cli',
  );
  if (isAgents && isTyped) {
    throw new CliError(
      'usage',
      'say once where to look from: a cluster (--registry or --context), or agents (--socket-path or --lab)',
    );
  }
  return !isAgents && namesCluster(flags) ? 'cluster' : 'agents';
}
