/** `clustermesh vm remove`: takes a machine out of the cluster, whether it answers or not. */
import { Command } from 'commander';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { askRegistry } from './vm-client.ts';
import type { VmContext } from './vm-text.ts';

/** Builds the command. */
export function vmRemoveCommand(context: VmContext): Command {
  return addClusterOptions(new Command('remove'))
    .description(
      'remove a machine: its session is cut, its addresses go, its certificates are believed no more; its name is free',
    )
    .argument('<name>', 'as in `clustermesh vm list`')
    .action(async (name: string, flags: ClusterFlags) => {
      const { machine } = await askRegistry('RemoveMachine', { name }, { flags, ...context });
      context.print(`machine ${name} is removed\n`);
      const { tokens } = await askRegistry('ListTokens', {}, { flags, ...context });
      const token = tokens.find(({ id }) => id === machine.tokenId);
      if (token?.state !== 'usable') return;
      context.say(
        `The token that it joined with can be used ${token.usesLeft} more times: if the machine may be in wrong hands, run \`clustermesh vm token revoke ${token.id}\`.\n`,
      );
    });
}
