/** `clustermesh drain` and `undrain`: takes a peer out of use on the nodes whose agents run on this machine, and back. */
import { Command } from 'commander';
import { failureOf, runAgentProgram } from './agent-program.ts';
import { type AgentFlags, agentSockets, DEFAULT_SOCKET } from './agent-sockets.ts';
import { EXIT_CODES } from './cli-error.ts';
import { requireLabs } from './lab-presence.ts';

/** Builds one of the two commands. `print` gets the answers. */
export function drainCommand(action: 'drain' | 'undrain', print: (text: string) => void): Command {
  return new Command(action)
    .argument('<peer>', 'name of the peer, as in `clustermesh status`')
    .option('--socket-path <path...>', `sockets of the agents (default: ${DEFAULT_SOCKET})`)
    .option('--lab <name>', "all agents of a lab, instead of the machine's own")
    .action(async (peer: string, flags: AgentFlags) => {
      const sockets = await socketsOf(peer, flags);
      const answers = await Promise.all(
        sockets.map((socket) => runAgentProgram([action, peer, `--socket-path=${socket}`])),
      );
      for (const { text } of answers) print(text);
      const failed = answers.filter(({ code }) => code !== EXIT_CODES.fine);
      if (failed.length > 0) throw failureOf(failed);
    });
}

/** In a lab the agents of the peer itself are left out: to them it is the own cluster. */
async function socketsOf(peer: string, flags: AgentFlags): Promise<readonly string[]> {
  if (flags.lab === undefined || flags.socketPath !== undefined) return agentSockets(flags);
  requireLabs();
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  const { plan } = await findLab(flags.lab);
  return plan.clusters
    .filter(({ name }) => name !== peer)
    .flatMap(({ nodes }) => nodes.map((node) => node.socketPath));
}
