/** All commands. What one of them stands on is loaded when it is called, so that help and the light ones start at once. */
import type { Command } from 'commander';
import type { BackupContext } from './backup-command.ts';
import type { CliContext } from './cli-context.ts';
import { EXIT_CODES } from './cli-error.ts';
import { hasLabs } from './lab-presence.ts';

/** A command below `clustermesh`. */
export interface CommandEntry {
  readonly name: string;
  /** Its line in `clustermesh --help`, and the first of its own help. */
  readonly description: string;
  /** Loads what it stands on and builds it. */
  readonly load: (context: CliContext) => Promise<Command>;
}

const LAB: CommandEntry = {
  name: 'lab',
  description:
    'try a mesh on this machine: clusters, nodes and pods in network namespaces (needs root)',
  load: async (context) => (await import('./lab-command.ts')).labCommand(context),
};

/** In the order in which help lists them. */
export const COMMANDS: readonly CommandEntry[] = [
  {
    name: 'status',
    description:
      'show the whole mesh from one of its clusters, or what the agents of this machine know, and what needs attention',
    load: async (context) => (await import('./status-command.ts')).statusCommand(context),
  },
  {
    name: 'troubleshoot',
    description:
      'find out what keeps a peer from working, step by step, and say it in one sentence; from an apiserver, agents or this machine',
    load: async (context) =>
      (await import('./troubleshoot-command.ts')).troubleshootCommand(context),
  },
  {
    name: 'check',
    description: 'find out whether this host can carry the mesh, and whether its agent does',
    load: async (context) => (await import('./check-command.ts')).checkCommand(context),
  },
  {
    name: 'sysdump',
    description: 'write one archive with everything an engineer needs, and no secrets',
    load: async (context) => (await import('./sysdump-command.ts')).sysdumpCommand(context),
  },
  ...(hasLabs() ? [LAB] : []),
  {
    name: 'get',
    description:
      'list what a node knows of the whole mesh: nodes, identities, endpoints, services, backends, peers',
    load: async (context) => (await import('./get-command.ts')).getCommand(context),
  },
  {
    name: 'describe',
    description: 'all about one thing: why each backend of a Service is used or not',
    load: async (context) => (await import('./describe-command.ts')).describeCommand(context),
  },
  {
    name: 'map',
    description: "what the kernel holds: rows of the node's maps, decoded",
    load: async (context) => (await import('./map-command.ts')).mapCommand(context),
  },
  {
    name: 'connect',
    description: 'make two clusters peers of each other, after a look whether that can work',
    load: async (context) => (await import('./connect-command.ts')).connectCommand(context),
  },
  {
    name: 'disconnect',
    description: 'end that, also when the other cluster is dead',
    load: async (context) => (await import('./disconnect-command.ts')).disconnectCommand(context),
  },
  {
    name: 'peer',
    description: 'the peers of a cluster: export, apply, list, delete, rollback',
    load: async (context) => (await import('./peer-command.ts')).peerCommand(context),
  },
  {
    name: 'monitor',
    description:
      'show what the nodes of this machine drop, and why, as it happens; traces and calls of services, too. Of one option any value fits, of several each must',
    load: async ({ output, signal }) =>
      (await import('./monitor-command.ts')).monitorCommand({ writer: output, signal }),
  },
  {
    name: 'backup',
    description:
      'save what has no other source: tokens, machines and identities of a standalone cluster, sealed with a passphrase',
    load: async (context) =>
      (await import('./backup-command.ts')).backupCommand(backupContext(context)),
  },
  {
    name: 'restore',
    description:
      'bring back what a backup holds; what is there wins, revocations of both count, tokens that could be used are void',
    load: async (context) =>
      (await import('./backup-command.ts')).restoreCommand(backupContext(context)),
  },
  {
    name: 'drain',
    description:
      'planned failover: use the backends of a peer only where a service has no others, on the nodes of this machine, until undrained',
    load: async ({ print }) => (await import('./drain-command.ts')).drainCommand('drain', print),
  },
  {
    name: 'undrain',
    description: 'use the backends of a drained peer again',
    load: async ({ print }) => (await import('./drain-command.ts')).drainCommand('undrain', print),
  },
  {
    name: 'policy',
    description:
      'policies of a cluster: what is in force, why a packet passes or not, what a change would do',
    load: async ({ print, say, setExitCode, signal }) =>
      (await import('./policy-command.ts')).policyCommand({
        print,
        say,
        setExitCode: (code) => setExitCode(EXIT_CODES[code]),
        signal,
      }),
  },
  {
    name: 'pki',
    description: 'make certificates as Cilium names them, show, check, renew and replace them',
    load: async ({ print, setProblem }) =>
      (await import('./pki-command.ts')).pkiCommand((line) => print(`${line}\n`), setProblem),
  },
  {
    name: 'kv',
    description: 'look at what is in an etcd of the mesh',
    load: async (context) => (await import('./kv-command.ts')).kvCommand(context),
  },
  {
    name: 'vm',
    description:
      'machines outside Kubernetes (VMs, bare metal): tokens, joining and leaving, list, labels, removal',
    load: async (context) => (await import('./vm-command.ts')).vmCommand(context),
  },
  {
    name: 'completion',
    description: 'have bash, zsh or fish complete commands, options and names',
    load: async (context) => (await import('./completion-command.ts')).completionCommand(context),
  },
  {
    name: 'version',
    description: 'versions of this command, and of what runs in a cluster or on this machine',
    load: async (context) => (await import('./version-command.ts')).versionCommand(context),
  },
];

function backupContext({ input, print, setProblem, signal }: CliContext): BackupContext {
  return { input, print: (line) => print(`${line}\n`), setProblem, signal };
}
