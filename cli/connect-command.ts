/** `clustermesh connect` and `disconnect`: two clusters become peers of each other, or part. */
import { Command } from 'commander';
import { createBackoff } from '../mesh/runtime/backoff.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import type { CliContext } from './cli-context.ts';
import { CliError } from './cli-error.ts';
import {
  addClusterOptions,
  type ClusterAccess,
  type ClusterFlags,
  type DestinationFlags,
  destinationFlags,
  namesCluster,
  openClusterAccess,
} from './cluster-access.ts';
import {
  applyPeer,
  deletePeer,
  exportPeer,
  listPeers,
  type PeerChangeAnswer,
  rollbackPeer,
} from './peer-client.ts';
import { isReady } from './peer-command.ts';
import { renderChange } from './peer-text.ts';
import { formatValue, type OutputFormat, outputOption } from './policy-output.ts';
import { collectTexts, toSeconds } from './vm-text.ts';

/** What the commands need of the process. */
export type ConnectContext = Pick<CliContext, 'print' | 'say' | 'setProblem' | 'signal'>;

interface PairFlags extends ClusterFlags, DestinationFlags {
  readonly dryRun?: boolean;
  readonly output: OutputFormat;
}

interface ConnectFlags extends PairFlags {
  readonly ignore: readonly string[];
  readonly wait: boolean;
  readonly timeout: number;
}

/** A change at one of the two sides, for JSON and YAML. */
type SideChange = PeerChangeAnswer & { readonly at: string };

/** Builds `connect`. */
export function connectCommand(context: ConnectContext): Command {
  return pairCommand(new Command('connect'))
    .option(
      '--ignore <id...>',
      'findings not to mind, as for "clustermesh peer apply"',
      collectTexts,
      [],
    )
    .option('--no-wait', 'do not wait until both have read each other')
    .option('--timeout <duration>', 'how long to wait for that', toSeconds, 120)
    .addHelpText(
      'after',
      '\nExamples:\n  clustermesh connect kind-a kind-b --dry-run\n  clustermesh connect --registry 10.0.0.1:2381 --certificates a-admin \\\n    --destination-registry 10.1.0.1:2381 --destination-certificates b-admin',
    )
    .action((a: string | undefined, b: string | undefined, flags: ConnectFlags) =>
      connect(withContexts(flags, a, b), context),
    );
}

/** Builds `disconnect`. */
export function disconnectCommand(context: ConnectContext): Command {
  return pairCommand(new Command('disconnect'))
    .option(
      '--peer <name>',
      'name of the other cluster, where it cannot be asked: only our side parts then',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  clustermesh disconnect kind-a kind-b\n  clustermesh disconnect kind-a --peer b',
    )
    .action(
      (
        a: string | undefined,
        b: string | undefined,
        flags: PairFlags & { readonly peer?: string },
      ) => disconnect(withContexts(flags, a, b), context),
    );
}

function pairCommand(command: Command): Command {
  const paired = addClusterOptions(addClusterOptions(command), { role: 'destination' });
  return paired
    .argument('[context]', 'the same as --context')
    .argument('[destination-context]', 'the same as --destination-context')
    .option('--dry-run', 'show the plan with all differences, change nothing')
    .addOption(outputOption());
}

function withContexts<F extends PairFlags>(
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

async function connect(flags: ConnectFlags, context: ConnectContext): Promise<void> {
  const { signal } = context;
  const { dryRun = false, ignore, output } = flags;
  const destination = destinationFlags(flags);
  if (!namesCluster(destination)) {
    throw new CliError(
      'usage',
      'say which other cluster: --destination-context, or --destination-registry with --destination-certificates',
    );
  }
  using a = await openClusterAccess(flags, { signal });
  using b = await openClusterAccess(destination, { signal });
  const [exportA, exportB] = await Promise.all([exportPeer(a, signal), exportPeer(b, signal)]);
  for (const [access, { notes }] of [[a, exportA] as const, [b, exportB] as const]) {
    for (const note of notes) context.say(`note: ${access.where}: ${note}\n`);
  }
  // Both are looked at before the first is changed.
  const plans = await Promise.all([
    applyPeer(a, exportB.manifest, { dryRun: true, ignore, signal }),
    applyPeer(b, exportA.manifest, { dryRun: true, ignore, signal }),
  ]);
  const [planA, planB] = plans;
  const isRefused = plans.some(({ outcome }) => outcome === 'refused');
  if (dryRun || isRefused) {
    const planned = [at(a, planA), at(b, planB)];
    print(planned, { output, dryRun: true, context });
    if (isRefused) context.setProblem();
    return;
  }
  const changes: SideChange[] = [];
  changes.push(at(a, await applyPeer(a, exportB.manifest, { dryRun, ignore, signal })));
  const second = await applyPeer(b, exportA.manifest, { dryRun, ignore, signal });
  changes.push(at(b, second));
  const [first] = changes;
  if (second.outcome === 'refused' && first !== undefined && first.revision > 0) {
    // What was fine a moment ago is not now: nothing shall be left half done.
    const { name, revision } = first;
    const undone = await rollbackPeer(a, { name, revision }, { dryRun, signal });
    changes.push(at(a, undone));
  }
  print(changes, { output, dryRun, context });
  if (changes.some(({ outcome }) => outcome === 'refused')) {
    context.setProblem();
    return;
  }
  if (!flags.wait) return;
  await Promise.all([
    waitUntilReady(a, planA.name, { seconds: flags.timeout, signal }),
    waitUntilReady(b, planB.name, { seconds: flags.timeout, signal }),
  ]);
  context.say('both clusters have read each other\n');
}

async function disconnect(
  flags: PairFlags & { readonly peer?: string },
  context: ConnectContext,
): Promise<void> {
  const { signal } = context;
  const { dryRun = false, output } = flags;
  const destination = destinationFlags(flags);
  using a = await openClusterAccess(flags, { signal });
  const nameA = await nameOf(a, signal);
  const other = namesCluster(destination)
    ? await openOther(destination, { signal, needsName: flags.peer === undefined })
    : undefined;
  using b = other?.access;
  const nameB = flags.peer ?? other?.name;
  if (nameB === undefined) {
    throw new CliError(
      'usage',
      'say which other cluster: --destination-context, --destination-registry, or --peer NAME when it cannot be asked',
    );
  }
  const changes = [at(a, await deletePeer(a, nameB, { dryRun, signal }))];
  if (b !== undefined) {
    try {
      changes.push(at(b, await deletePeer(b, nameA, { dryRun, signal })));
    } catch (error) {
      if (!isUnreachable(error)) throw error;
      context.say(`${laterText(b.where, nameA)} (${error.message})\n`);
    }
  } else {
    const why = other?.problem === undefined ? '' : ` (${other.problem})`;
    context.say(`${laterText(nameB, nameA)}${why}\n`);
  }
  print(changes, { output, dryRun, context });
}

function laterText(where: string, ownName: string): string {
  return `${where} was not asked: when it is back, run there "clustermesh peer delete ${ownName}"`;
}

/** The other cluster; one that cannot be reached is no reason not to part. */
async function openOther(
  destination: ClusterFlags,
  { signal, needsName }: { readonly signal: AbortSignal; readonly needsName: boolean },
): Promise<{
  readonly access: ClusterAccess | undefined;
  readonly name: string | undefined;
  readonly problem: string | undefined;
}> {
  let access: ClusterAccess;
  try {
    access = await openClusterAccess(destination, { signal });
  } catch (error) {
    if (!isUnreachable(error)) throw error;
    if (needsName) {
      throw new CliError('usage', `${error.message}; give its name as --peer NAME`, {
        cause: error,
      });
    }
    return { access: undefined, name: undefined, problem: error.message };
  }
  return { access, name: await nameOf(access, signal), problem: undefined };
}

/** An administrator's certificate has the name of the cluster: it need not be asked. */
async function nameOf(access: ClusterAccess, signal: AbortSignal): Promise<string> {
  if (access.clusterName !== undefined) return access.clusterName;
  const { manifest } = await exportPeer(access, signal);
  const name = /^ {2}name: (\S+)$/m.exec(manifest)?.[1];
  if (name !== undefined) return name;
  throw new CliError('problem', `cannot tell the name of the cluster at ${access.where}`);
}

function isUnreachable(error: unknown): error is CliError {
  return error instanceof CliError && error.code === 'unreachable';
}

function at(access: ClusterAccess, change: PeerChangeAnswer): SideChange {
  return { at: access.clusterName ?? access.where, ...change };
}

function print(
  changes: readonly SideChange[],
  options: {
    readonly output: OutputFormat;
    readonly dryRun: boolean;
    readonly context: ConnectContext;
  },
): void {
  const { output, dryRun, context } = options;
  const asText = (all: readonly SideChange[]): string =>
    all.map((change) => renderChange(change, { dryRun, where: change.at })).join('');
  context.print(formatValue(changes, output, asText));
}

async function waitUntilReady(
  access: ClusterAccess,
  name: string,
  { seconds, signal }: { readonly seconds: number; readonly signal: AbortSignal },
): Promise<void> {
  const deadline = systemClock.monotonic() + seconds * 1000;
  const backoff = createBackoff({ minMs: 200, maxMs: 2000 });
  for (;;) {
    const peer = (await listPeers(access, signal)).find((one) => one.name === name);
    if (peer !== undefined && isReady(peer)) return;
    if (systemClock.monotonic() > deadline) {
      const why = peer?.conditions.find(({ type }) => type === 'Ready')?.message ?? 'it is gone';
      throw new CliError(
        'timeout',
        `${access.where} has not read ${name} within ${seconds} s: ${why}; next: clustermesh troubleshoot ${name}`,
      );
    }
    await systemClock.sleep(backoff.next(), signal);
  }
}
