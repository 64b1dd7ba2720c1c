/**
 * Writes `docs/reference/` and the sections of problems in `docs/troubleshooting.md` from the tables of the code. With
 * `--check` it writes nothing and fails when a page is not what it would write.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import {
  CLEANUP_OPTIONS,
  CNI_INSTALL_OPTIONS,
  CNI_UNINSTALL_OPTIONS,
  DRAIN_OPTIONS,
  FEATURES_OPTIONS,
  MONITOR_OPTIONS,
  RUN_OPTIONS,
  STATUS_OPTIONS,
  TRACE_LEVEL_OPTIONS,
} from '../agent/options.ts';
import { KVSTOREMESH_OPTIONS } from '../clustermesh-apiserver/kvstoremesh/options.ts';
import { APISERVER_OPTIONS } from '../clustermesh-apiserver/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { cliPage } from './reference-cli.ts';
import { messagesPage, problemSections } from './reference-messages.ts';
import { metricsPage } from './reference-metrics.ts';
import { optionsPage } from './reference-options.ts';

const MADE = 'Made from the code by `node dist/scripts/reference.js`; a test compares.';
const TROUBLESHOOTING = 'docs/troubleshooting.md';
/** What is between these lines of a page is made. */
const BEGIN = '<!-- made from mesh/diagnosis: begin -->\n';
const END = '<!-- made from mesh/diagnosis: end -->\n';

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  const isCheck = args.includes('--check');
  const stale: string[] = [];
  for (const [path, text] of await pages()) {
    const before = await readFile(projectPath(path), 'utf8').catch(() => undefined);
    if (before === text) continue;
    stale.push(path);
    if (isCheck) continue;
    await mkdir(dirname(projectPath(path)), { recursive: true });
    await writeFile(projectPath(path), text);
  }
  if (stale.length === 0) return 0;
  console.log(
    isCheck
      ? `not what the code says: ${stale.join(', ')}: run node dist/scripts/reference.js`
      : `written: ${stale.join(', ')}`,
  );
  return isCheck ? 1 : 0;
}

async function pages(): Promise<readonly (readonly [string, string])[]> {
  return [
    ['docs/reference/cli.md', await cliPage(MADE)],
    ['docs/reference/agent.md', agentPage()],
    ['docs/reference/apiserver.md', apiserverPage()],
    ['docs/reference/metrics.md', await metricsPage(MADE)],
    ['docs/reference/messages.md', messagesPage(MADE)],
    [TROUBLESHOOTING, await withProblems()],
  ];
}

async function withProblems(): Promise<string> {
  const text = await readFile(projectPath(TROUBLESHOOTING), 'utf8');
  const [before, rest] = text.split(BEGIN);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined) {
    throw new Error(`${TROUBLESHOOTING} has lost the lines that say where problems stand`);
  }
  return `${before}${BEGIN}\n${problemSections()}\n${END}${after}`;
}

function agentPage(): string {
  return optionsPage('The `clustermesh-agent` program', MADE, [
    {
      command: 'clustermesh-agent run',
      about: "Reads every cluster of the mesh and programs this node's eBPF maps.",
      table: RUN_OPTIONS,
    },
    {
      command: 'clustermesh-agent status',
      about: 'Shows what the agent of this node knows, and what needs attention.',
      table: STATUS_OPTIONS,
    },
    {
      command: 'clustermesh-agent monitor',
      about: 'Shows what is dropped, and why.',
      table: MONITOR_OPTIONS,
    },
    {
      command: 'clustermesh-agent trace-level [LEVEL]',
      about: 'Shows or changes which packets that went on the monitor shows.',
      table: TRACE_LEVEL_OPTIONS,
    },
    {
      command: 'clustermesh-agent drain CLUSTER, undrain CLUSTER',
      about: 'Takes a peer out of use on this node, and back.',
      table: DRAIN_OPTIONS,
    },
    {
      command: 'clustermesh-agent features',
      about: 'Shows what the kernel has of what is needed.',
      table: FEATURES_OPTIONS,
    },
    {
      command: 'clustermesh-agent cleanup',
      about: 'Removes every trace from this node.',
      table: CLEANUP_OPTIONS,
    },
    {
      command: 'clustermesh-agent cni install',
      about: 'Puts the CNI plugin behind those of the node.',
      table: CNI_INSTALL_OPTIONS,
    },
    {
      command: 'clustermesh-agent cni uninstall',
      about: 'Takes it out.',
      table: CNI_UNINSTALL_OPTIONS,
    },
  ]);
}

function apiserverPage(): string {
  return optionsPage('The `clustermesh-apiserver` program', MADE, [
    {
      command: 'clustermesh-apiserver',
      about: 'Publishes a cluster into its etcd, lets readers in, takes sessions of agents.',
      table: APISERVER_OPTIONS,
    },
    {
      command: 'clustermesh-apiserver kvstoremesh',
      about: "Mirrors peers into the own cluster's etcd.",
      table: KVSTOREMESH_OPTIONS,
    },
  ]);
}
