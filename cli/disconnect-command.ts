/** `clustermesh disconnect`: two clusters part, also where one of them is dead. */
import { Command } from 'commander';
import { CliError } from './cli-error.ts';
import {
  type ClusterAccess,
  type ClusterFlags,
  destinationFlags,
  namesCluster,
  openClusterAccess,
} from './cluster-access.ts';
import {
  at,
  isUnreachable,
  type PairContext,
  type PairFlags,
  pairCommand,
  printChanges,
  type SideChange,
  withContexts,
} from './cluster-pair.ts';
import { deletePeer, exportPeer } from './peer-client.ts';
import { beginProgress } from './progress.ts';

interface DisconnectFlags extends PairFlags {
  readonly peer?: string;
}

/** The other cluster; undefined `access`: it cannot be reached. */
interface Other {
  readonly access: ClusterAccess | undefined;
  readonly name: string | undefined;
  readonly problem: string | undefined;
}

/** Builds the command. */
export function disconnectCommand(context: PairContext): Command {
  return pairCommand(new Command('disconnect'))
    .option(
      '--peer <name>',
      'name of the other cluster, where it cannot be asked: only our side parts then',
    )
    .addHelpText(
      'after',
      '\nExamples:\n  clustermesh disconnect kind-a kind-b\n  clustermesh disconnect kind-a --peer b',
    )
    .action((a: string | undefined, b: string | undefined, flags: DisconnectFlags) =>
      disconnect(withContexts(flags, a, b), context),
    );
}

async function disconnect(flags: DisconnectFlags, context: PairContext): Promise<void> {
  const { signal } = context;
  const { dryRun = false, output } = flags;
  const destination = destinationFlags(flags);
  using progress = beginProgress('asking both clusters who they are', context);
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
  const changes: SideChange[] = [];
  const failures: CliError[] = [];
  /** What one side cannot do keeps the other from nothing. */
  const part = async (access: ClusterAccess, name: string): Promise<CliError | undefined> => {
    progress.tell(`changing ${access.where}`);
    try {
      changes.push(at(access, await deletePeer(access, name, { dryRun, signal })));
      return undefined;
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      return error;
    }
  };
  const later: string[] = [];
  const failureA = await part(a, nameB);
  if (failureA !== undefined) {
    failures.push(failureA);
    later.push(laterText(a.where, nameB, failureA.message));
  }
  if (b === undefined) later.push(laterText(nameB, nameA, other?.problem));
  else {
    const failureB = await part(b, nameA);
    if (failureB !== undefined) later.push(laterText(b.where, nameA, failureB.message));
    // Dead it may be: that is what the command is for.
    if (failureB !== undefined && !isUnreachable(failureB)) failures.push(failureB);
  }
  progress[Symbol.dispose]();
  const [failure] = failures;
  if (failure !== undefined && changes.length === 0) throw failure;
  for (const line of later) context.say(`${line}\n`);
  printChanges(changes, { output, dryRun, context });
  if (failure !== undefined) context.setProblem();
}

function laterText(where: string, name: string, why: string | undefined): string {
  const because = why === undefined ? '' : ` (${why})`;
  return `${where} was not changed: when it is back, run there "clustermesh peer delete ${name}"${because}`;
}

/** The other cluster; one that cannot be reached is no reason not to part. */
async function openOther(
  destination: ClusterFlags,
  { signal, needsName }: { readonly signal: AbortSignal; readonly needsName: boolean },
): Promise<Other> {
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
