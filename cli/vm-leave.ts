/** `clustermesh vm leave`: takes this machine out of its cluster, and removes everything that joining has made. */
import { Command } from 'commander';
import { CliError } from './cli-error.ts';

const DEFAULT_STATE_DIR = '/var/lib/isthmus';

/** What the command needs of the process. */
export interface VmLeaveContext {
  /** Gets the result. */
  readonly print: (text: string) => void;
  /** Gets the steps. */
  readonly say: (text: string) => void;
  readonly signal: AbortSignal;
}

/** Builds the command. */
export function vmLeaveCommand(context: VmLeaveContext): Command {
  return new Command('leave')
    .description(
      'take this machine out of its cluster: stops its agent, removes programs, keys and certificates; harmless to repeat',
    )
    .argument(
      '[agent-flags...]',
      'behind "--": flags of the agent, where joining has not noted them',
    )
    .option('--state-dir <dir>', 'folder that joining has written', DEFAULT_STATE_DIR)
    .action((agentFlags: readonly string[], flags: { readonly stateDir: string }) =>
      leaveMachine(flags.stateDir, agentFlags, context),
    );
}

async function leaveMachine(
  stateDir: string,
  agentFlags: readonly string[],
  { print, say, signal }: VmLeaveContext,
): Promise<void> {
  if (process.geteuid?.() !== 0) {
    throw new CliError('problem', 'this is not root: run the command as root (sudo)');
  }
  const { hasSystemd, removeService } = await import('../agent/machine/service.ts');
  const { removeResolver } = await import('../agent/machine/resolved.ts');
  const { leaveCluster } = await import('../agent/machine/leave.ts');
  if (hasSystemd()) {
    if (await removeService({ signal })) say('the service was stopped and removed\n');
    await removeResolver({ signal });
  }
  const { record, untold, left } = await leaveCluster({
    stateDir,
    agentFlags,
    onStep: (text) => say(`${text}\n`),
    signal,
  });
  for (const path of left) say(`${path} is not ours, and was left\n`);
  if (record === undefined) {
    print(`nothing to leave: ${stateDir} holds no machine\n`);
    return;
  }
  print(`left: this machine was ${record.name} of cluster ${record.clusterName}\n`);
  if (untold !== undefined) {
    print(
      `the cluster could not be told (${untold}): it forgets the machine's addresses after its grace time (--vm-session-grace)\n`,
    );
  }
  print(`its name stays taken there until: clustermesh vm remove ${record.name}\n`);
}
