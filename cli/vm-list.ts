/** `clustermesh vm list`: the machines of a cluster. */
import { Command } from 'commander';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { formatValue, type OutputFormat, outputOption, renderRows } from './policy-output.ts';
import { askRegistry, type MachineAnswer } from './vm-client.ts';
import { labelsText, listText, spanText, type VmContext } from './vm-text.ts';

/** Builds the command. */
export function vmListCommand(context: VmContext): Command {
  return addClusterOptions(new Command('list'))
    .description('list machines; exit code 1 when something is wrong with one')
    .addOption(outputOption())
    .action(async (flags: ClusterFlags & { output: OutputFormat }) => {
      const { machines } = await askRegistry('ListMachines', {}, { flags, ...context });
      const sorted = [...machines].sort((a, b) => (a.name < b.name ? -1 : 1));
      context.print(formatValue(sorted, flags.output, renderMachines));
      if (sorted.some(({ problems }) => problems.length > 0)) context.setProblem();
    });
}

function renderMachines(machines: readonly MachineAnswer[]): string {
  const rows = machines.map((machine) => [
    machine.name,
    machine.state,
    spanText(machine.forMs),
    machine.namespace,
    listText(machine.addresses),
    labelsText(machine.labels),
    machine.agentVersion === '' ? '-' : machine.agentVersion,
  ]);
  const head = ['NAME', 'STATE', 'FOR', 'NAMESPACE', 'ADDRESSES', 'LABELS', 'VERSION'];
  const problems = machines.flatMap(({ name, problems: found }) =>
    found.map((problem) => `${name}: ${problem}\n`),
  );
  const table = renderRows(head, rows);
  return [table === '' ? 'no machines\n' : table, ...problems].join('');
}
