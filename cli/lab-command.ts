/** `clustermesh lab`: whole meshes on one machine, from a topology file. */
import { readFile } from 'node:fs/promises';
import Table from 'cli-table3';
import { Command } from 'commander';
import type { FoundLab } from '../e2e/lab/find-lab.ts';
import { CliError } from './cli-error.ts';
import { beginProgress } from './progress.ts';

/** What the command needs of the process it runs in. */
export interface LabCommandOptions {
  readonly print: (text: string) => void;
  /** Progress, apart from the result. */
  readonly say: (text: string) => void;
  readonly setExitCode: (code: number) => void;
  readonly signal: AbortSignal;
  /** Whether a person's terminal reads progress. */
  readonly isWatched: boolean;
}

/** Builds the command. */
export function labCommand(options: LabCommandOptions): Command {
  const command = new Command('lab');
  command
    .command('up')
    .description('make a lab that stays until "lab down"')
    .argument('<topology>', 'YAML file; e2e/topologies/two-clusters.yaml is an example')
    .option('--name <name>', '1 to 16 of a-z and 0-9', 'lab')
    .action((file: string, flags: { name: string }) => up(file, flags.name, options));
  command
    .command('list')
    .description('show the labs of this machine and their pods')
    .action(() => list(options));
  command
    .command('exec')
    .description(
      'run a command in a pod or on a machine: clustermesh lab exec client -- curl http://10.101.0.10',
    )
    .option('--name <name>', 'lab (default: the only one)')
    .argument('<pod>')
    .argument('<command...>')
    .action(async (pod: string, argv: string[], flags: { name?: string }) => {
      const { findLab, runInLab } = await import('../e2e/lab/find-lab.ts');
      options.setExitCode(await runInLab(await findLab(flags.name), pod, argv));
    });
  command
    .command('down')
    .description('take a lab down, whatever state it is in')
    .option('--name <name>', 'lab (default: the only one)')
    .option('--all', 'every lab of this machine')
    .action((flags: { name?: string; all?: true }) => down(flags, options));
  return command;
}

async function up(
  file: string,
  name: string,
  { print, say, signal, isWatched }: LabCommandOptions,
): Promise<void> {
  const { openSettledLab } = await import('../e2e/lab/settled-lab.ts');
  const { parseTopologyText } = await import('../e2e/lab/topology.ts');
  const text = await readFile(file, 'utf8').catch((cause: Error) => {
    throw new CliError('usage', `cannot read ${file}: ${cause.message}`, { cause });
  });
  // Without `using`: where it stands, TypeScript leaves the endings of imports as they are.
  const progress = beginProgress('looking at the machine', { say, isWatched });
  const lab = await openSettledLab(parseTopologyText(text, file), {
    name,
    signal,
    persistent: true,
    // Whoever tries things out asks afterwards what was dropped.
    agentFlags: ['--monitor-history=1000'],
    onStep(step) {
      // On a terminal the line of what is being done stands below the steps.
      say(isWatched ? `\r\u001b[K${step}\n` : `${step}\n`);
      progress.tell(step);
    },
  }).finally(() => progress[Symbol.dispose]());
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  print(describeLab(await findLab(lab.name)));
  print(
    [
      'try:',
      `  clustermesh lab exec --name ${name} POD -- curl -s http://CLUSTER-IP`,
      `  clustermesh status --lab ${name}`,
      `  clustermesh lab down --name ${name}`,
      '',
    ].join('\n'),
  );
}

async function list({ print }: LabCommandOptions): Promise<void> {
  const { findLabs } = await import('../e2e/lab/find-lab.ts');
  const labs = await findLabs();
  print(labs.length === 0 ? 'no labs\n' : labs.map(describeLab).join('\n'));
}

async function down(
  flags: { name?: string; all?: true },
  { say }: LabCommandOptions,
): Promise<void> {
  const { findLab } = await import('../e2e/lab/find-lab.ts');
  const { labNames } = await import('../e2e/lab/lab-state.ts');
  const { tearDownLab } = await import('../e2e/lab/teardown.ts');
  const existing = await labNames();
  if (flags.name !== undefined && !existing.includes(flags.name)) {
    throw new CliError(
      'problem',
      `cannot find lab ${flags.name}: labs on this machine: ${existing.join(', ') || 'none'}`,
    );
  }
  const names = flags.all ? existing : [flags.name ?? (await findLab(undefined)).plan.name];
  for (const name of names) {
    await tearDownLab(name);
    say(`${name} is down\n`);
  }
}

/** A lab as text: its pods, and the addresses of its services. */
function describeLab(lab: FoundLab): string {
  const pods = new Table({
    head: ['POD', 'CLUSTER', 'NODE', 'ADDRESSES', 'LABELS'],
    style: { head: [], border: [] },
  });
  for (const pod of lab.plan.pods) {
    const labels = Object.entries(pod.labels).map(([key, value]) => `${key}=${value}`);
    pods.push([
      pod.name,
      pod.cluster,
      pod.node,
      (lab.pods[pod.name] ?? ['-']).join('\n'),
      labels.join(' '),
    ]);
  }
  for (const machine of lab.plan.machines) {
    const labels = Object.entries(machine.labels).map(([key, value]) => `${key}=${value}`);
    const { name, cluster, addresses } = machine;
    pods.push([name, cluster, '(a machine)', addresses.join('\n'), labels.join(' ')]);
  }
  const services = new Table({
    head: ['SERVICE', 'CLUSTER', 'CLUSTER-IP', 'PORTS'],
    style: { head: [], border: [] },
  });
  for (const cluster of lab.plan.clusters) {
    for (const service of cluster.services) {
      services.push([
        `${service.namespace}/${service.name}`,
        cluster.name,
        service.clusterIps.join('\n'),
        service.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(' '),
      ]);
    }
  }
  return `lab ${lab.plan.name} (${lab.state}, since ${lab.createdAt})\n${pods}\n${services}\n`;
}
