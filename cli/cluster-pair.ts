/** What `clustermesh connect` and `disconnect` have in common: options of two clusters, and what changed at each of them. */
import type { Command } from 'commander';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import {
  addClusterOptions,
  type ClusterAccess,
  type ClusterFlags,
  type DestinationFlags,
} from './cluster-access.ts';
import type { PeerChangeAnswer } from './peer-client.ts';
import { renderChange } from './peer-text.ts';
import { formatValue, type OutputFormat, outputOption } from './policy-output.ts';

/** What the commands need of the process. */
export type PairContext = Pick<CliContext, 'print' | 'say' | 'setProblem' | 'signal' | 'isWatched'>;

/** Options of both. */
export interface PairFlags extends ClusterFlags, DestinationFlags {
  readonly dryRun?: boolean;
  readonly output: OutputFormat;
}

/** A change at one of the two sides, for JSON and YAML. */
export type SideChange = PeerChangeAnswer & { readonly at: string };

/** Adds the options. */
export function pairCommand(command: Command): Command {
  const paired = addClusterOptions(addClusterOptions(command), { role: 'destination' });
  return paired
    .argument('[context]', 'the same as --context')
    .argument('[destination-context]', 'the same as --destination-context')
    .option('--dry-run', 'show the plan with all differences, change nothing')
    .addOption(outputOption());
}

/** The options with what is said by arguments. */
export function withContexts<F extends PairFlags>(
  flags: F,
  a: string | undefined,
  b: string | undefined,
): F {
  return {
    ...flags,
    ...(a === undefined ? {} : { context: a }),
    ...(b === undefined ? {} : { destinationContext: b }),
    // One file usually has both contexts.
    destinationKubeconfig: flags.destinationKubeconfig ?? flags.kubeconfig,
  };
}

/** A change with the place where it was made. */
export function at(access: ClusterAccess, change: PeerChangeAnswer): SideChange {
  return { at: access.clusterName ?? access.where, ...change };
}

/** Prints what came of a command. */
export function printChanges(
  changes: readonly SideChange[],
  options: {
    readonly output: OutputFormat;
    readonly dryRun: boolean;
    readonly context: Pick<PairContext, 'print'>;
  },
): void {
  const { output, dryRun, context } = options;
  const asText = (all: readonly SideChange[]): string =>
    all.map((change) => renderChange(change, { dryRun, where: change.at })).join('');
  context.print(formatValue(changes, output, asText));
}

/** Whether nobody answers. */
export function isUnreachable(error: unknown): error is CliError {
  return error instanceof CliError && error.code === 'unreachable';
}
