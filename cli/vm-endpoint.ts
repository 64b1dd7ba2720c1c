/** `clustermesh vm endpoint`: containers and the like behind a machine, each an endpoint with labels of its own. */
import { Command } from 'commander';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { askRegistry, type MachineAnswer } from './vm-client.ts';
import { renderMachine } from './vm-status.ts';
import { collectLabels, collectTexts, labelsText, listText, type VmContext } from './vm-text.ts';

interface SetFlags extends ClusterFlags {
  readonly address: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly output: OutputFormat;
}

/** Builds the command. */
export function vmEndpointCommand(context: VmContext): Command {
  return new Command('endpoint')
    .description('put containers behind a machine into the mesh, by their addresses')
    .addCommand(setCommand(context))
    .addCommand(listCommand(context))
    .addCommand(removeCommand(context));
}

function setCommand(context: VmContext): Command {
  return machineCommand('set')
    .description('have an address behind a machine be an endpoint; one of this name is replaced')
    .argument('<endpoint>', 'its name on the machine: a-z, 0-9 and "-"')
    .option('--address <ip>', 'of the container (may be repeated)', collectTexts, [])
    .option('--labels <key=value,...>', 'what it is labelled with', collectLabels, {})
    .action(async (name: string, endpoint: string, flags: SetFlags) => {
      const { address: addresses, labels, output } = flags;
      if (addresses.length === 0) throw new CliError('usage', 'give its address: --address IP');
      const request = { name, endpoint: { name: endpoint, addresses, labels } };
      const { machine } = await askRegistry('SetMachineEndpoint', request, { flags, ...context });
      context.print(formatValue(machine, output, renderMachine));
    });
}

function listCommand(context: VmContext): Command {
  return machineCommand('list')
    .description('list the endpoints behind a machine')
    .action(async (name: string, flags: ClusterFlags & { output: OutputFormat }) => {
      const { machine } = await askRegistry('GetMachine', { name }, { flags, ...context });
      context.print(formatValue(machine.endpoints, flags.output, renderEndpoints));
    });
}

function removeCommand(context: VmContext): Command {
  return machineCommand('remove')
    .description('take an endpoint out of the mesh; its container goes on outside of it')
    .argument('<endpoint>', 'as in `clustermesh vm endpoint list`')
    .action(
      async (name: string, endpoint: string, flags: ClusterFlags & { output: OutputFormat }) => {
        const request = { name, endpoint };
        const { machine } = await askRegistry('RemoveMachineEndpoint', request, {
          flags,
          ...context,
        });
        context.print(formatValue(machine, flags.output, renderMachine));
      },
    );
}

function machineCommand(name: string): Command {
  return addClusterOptions(new Command(name))
    .argument('<machine>', 'as in `clustermesh vm list`')
    .addOption(outputOption());
}

function renderEndpoints(endpoints: MachineAnswer['endpoints']): string {
  const rows = endpoints.map(({ name, addresses, labels }) => [
    name,
    listText(addresses),
    labelsText(labels),
  ]);
  const table = renderRows(['NAME', 'ADDRESSES', 'LABELS'], rows);
  return table === '' ? 'no endpoints\n' : table;
}
