/** `clustermesh completion`: scripts by which a shell completes commands, options and names. */
import { Argument, Command } from 'commander';
import type { CliContext } from './cli-context.ts';
import { findNames } from './completion-names.ts';
import { completionScript, SHELLS } from './completion-scripts.ts';
import { completionTree, NAME_KINDS, type NameKind } from './completion-tree.ts';
import { wholeProgram } from './program.ts';

/** Builds the command. */
export function completionCommand(context: CliContext): Command {
  const { print, signal } = context;
  const command = new Command('completion');
  for (const shell of SHELLS) {
    command
      .command(shell)
      .description(`print the script for ${shell}`)
      .action(async () => {
        print(completionScript(shell, completionTree(await wholeProgram(context))));
      });
  }
  command
    .command('names', { hidden: true })
    .description('print names for the scripts')
    .addArgument(new Argument('<kind>').choices([...NAME_KINDS]))
    .option('--socket-path <path>', 'socket of the agent')
    .action(async (kind: NameKind, flags: { readonly socketPath?: string }) => {
      const names = await findNames(kind, { ...flags, signal });
      print(names.map((name) => `${name}\n`).join(''));
    });
  return command;
}
