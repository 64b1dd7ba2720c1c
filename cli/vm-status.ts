/** `clustermesh vm status`: one machine. */
import { Command } from 'commander';
import { addClusterOptions, type ClusterFlags } from './cluster-access.ts';
import { formatValue, type OutputFormat, outputOption } from './policy-output.ts';
import { askRegistry, type MachineAnswer } from './vm-client.ts';
import { labelsText, listText, spanText, type VmContext } from './vm-text.ts';

/** Builds the command. */
export function vmStatusCommand(context: VmContext): Command {
  return addClusterOptions(new Command('status'))
    .description('show a machine; exit code 1 when it is not connected, or something is wrong')
    .argument('<name>', 'as in `clustermesh vm list`')
    .addOption(outputOption())
    .action(async (name: string, flags: ClusterFlags & { output: OutputFormat }) => {
      const { machine } = await askRegistry('GetMachine', { name }, { flags, ...context });
      context.print(formatValue(machine, flags.output, renderMachine));
      if (!isWell(machine)) context.setProblem();
    });
}

function isWell({ state, problems, failingChecks }: MachineAnswer): boolean {
  const isThere = state === 'connected' || state === 'elsewhere';
  return isThere && problems.length === 0 && failingChecks.length === 0;
}

/** A machine as a block of text. */
export function renderMachine(machine: MachineAnswer): string {
  const rows: readonly (readonly [string, string])[] = [
    ['state', `${machine.state} for ${spanText(machine.forMs)}`],
    ['namespace', machine.namespace],
    ['labels', labelsText(machine.labels)],
    ['addresses', listText(machine.addresses)],
    [
      'allowed addresses',
      machine.addressRanges.length === 0 ? 'any' : listText(machine.addressRanges),
    ],
    ['enrolled', `${machine.enrolledAt ?? 'never'}, token ${machine.tokenId}`],
    ['agent', machine.agentVersion === '' ? '-' : machine.agentVersion],
    ...machine.endpoints.map(({ name, addresses, labels }): readonly [string, string] => [
      'endpoint',
      `${name}: ${listText(addresses)}, ${labelsText(labels)}`,
    ]),
    ...machine.failingChecks.map(({ check, reason }): readonly [string, string] => [
      'check fails',
      `${check}: ${reason}`,
    ]),
    ...machine.problems.map((problem): readonly [string, string] => ['problem', problem]),
  ];
  const width = Math.max(...rows.map(([key]) => key.length)) + 2;
  return [machine.name, ...rows.map(([key, value]) => `  ${key.padEnd(width)}${value}`), ''].join(
    '\n',
  );
}
