/** `clustermesh vm label`: changes the labels of a machine, as `kubectl label` does. */
import { Command } from 'commander';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { formatValue, type OutputFormat, outputOption } from './policy-output.ts';
import { askRegistry } from './vm-client.ts';
import { renderMachine } from './vm-status.ts';
import type { VmContext } from './vm-text.ts';

/** Builds the command. */
export function vmLabelCommand(context: VmContext): Command {
  return addClusterOptions(new Command('label'))
    .description('give a machine labels (key=value) or take them away (key-)')
    .argument('<name>', 'as in `clustermesh vm list`')
    .argument('<changes...>', 'such as app=db tier-')
    .addOption(outputOption())
    .action(
      async (name: string, changes: string[], flags: ClusterFlags & { output: OutputFormat }) => {
        const request = { name, ...parseLabelChanges(changes) };
        const { machine } = await askRegistry('LabelMachine', request, { flags, ...context });
        context.print(formatValue(machine, flags.output, renderMachine));
      },
    );
}

/** Reads `key=value` and `key-`. Throws CliError `usage`. */
export function parseLabelChanges(changes: readonly string[]): {
  readonly set: Readonly<Record<string, string>>;
  readonly remove: readonly string[];
} {
  const set: Record<string, string> = {};
  const remove: string[] = [];
  for (const change of changes) {
    const [, given, value, taken] = /^(?:([^=]+)=([^=]*)|([^=]+)-)$/.exec(change) ?? [];
    if (given !== undefined && value !== undefined) set[given] = value;
    else if (taken !== undefined) remove.push(taken);
    else
      throw new CliError('usage', `cannot read ${change}: expected key=value, or key- to remove`);
  }
  const both = remove.find((key) => key in set);
  if (both !== undefined) throw new CliError('usage', `${both} is both given and taken away`);
  return { set, remove };
}
