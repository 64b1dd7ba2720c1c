#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { checkClusterId } from '../mesh/runtime/cluster-options.ts';
import { firstFailure } from '../mesh/runtime/first-failure.ts';
import { OptionsError, parseOptions } from '../mesh/runtime/options.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { ipFamily } from '../mesh/wire/ip.ts';
import { askDrain, fetchStatus, isAnswering } from './api/client.ts';
import { problemsOf, renderStatus } from './api/render.ts';
import { DRAIN_OPTIONS, RUN_OPTIONS, STATUS_OPTIONS, UNINSTALL_OPTIONS } from './options.ts';

/**
 * How much garbage may gather before all of the heap is cleaned, in percent of what was in use the last time. V8 itself
 * lets a heap grow to four times as much, which the agent of a large mesh would never need again after its start.
 */
const HEAP_GROWS_BY_PERCENT = 50;

const EXIT_PROBLEM = 1;
const EXIT_USAGE = 2;
const EXIT_UNREACHABLE = 3;

const DESCRIPTION = `Reads every cluster of the mesh and programs this node's eBPF maps.

Commands: run (the default), status, drain CLUSTER and undrain CLUSTER (takes a peer out of use on this node, and back), uninstall (removes programs, maps and the tunnel device from this node)`;

/** Runs a command. Returns the exit code. */
async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [command = 'run'] = argv;
  switch (command) {
    case 'status':
      return showStatus(argv.slice(1), env);
    case 'uninstall':
      return uninstall(argv.slice(1), env);
    case 'drain':
    case 'undrain':
      return drain(command, { argv: argv.slice(1), env });
    case 'run':
      return run(argv.slice(1), env);
    default:
      if (command.startsWith('-')) return run(argv, env);
      throw new OptionsError(
        'usage',
        `unknown command ${command}: expected run, status, drain, undrain or uninstall`,
      );
  }
}

async function run(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(RUN_OPTIONS, argv, env, {
    name: 'clustermesh-agent',
    description: DESCRIPTION,
  });
  checkClusterId(values);
  if (values.nodeIps.length === 0)
    throw new OptionsError('usage', '--node-ip is required: give it, or set ISTHMUS_NODE_IP');
  if (new Set(values.nodeIps.map(ipFamily)).size < values.nodeIps.length) {
    throw new OptionsError(
      'usage',
      `--node-ip: ${values.nodeIps.join(', ')}: expected at most one address of each family`,
    );
  }
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWS_BY_PERCENT}`);
  // Loaded late: a status, or a line about a wrong option, needs neither gRPC nor libbpf.
  const { startAgent } = await import('./start.ts');
  await startAgent(values, { version: packageVersion(), signal: ending.signal });
  return 0;
}

async function showStatus(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(STATUS_OPTIONS, argv, env, {
    name: 'clustermesh-agent status',
    description:
      'Shows what the agent of this node knows. Exit code 1: something needs attention; 3: no agent answers.',
  });
  const status = await fetchStatus(values.socketPath);
  process.stdout.write(
    values.output === 'json' ? `${JSON.stringify(status, null, 2)}\n` : renderStatus(status),
  );
  return status.ready && problemsOf(status).length === 0 ? 0 : EXIT_PROBLEM;
}

/** Takes a peer out of use on this node, or back. */
async function drain(
  action: 'drain' | 'undrain',
  { argv, env }: { readonly argv: readonly string[]; readonly env: NodeJS.ProcessEnv },
): Promise<number> {
  const [cluster, ...rest] = argv;
  const isHelp = cluster === undefined || cluster.startsWith('-');
  const values = parseOptions(DRAIN_OPTIONS, isHelp ? argv : rest, env, {
    name: `clustermesh-agent ${action} CLUSTER`,
    description:
      action === 'drain'
        ? 'Lets services of this node use the backends of a peer only where there are no others, until it is undrained. Kept over restarts. Exit code 1: it cannot be done; 3: no agent answers.'
        : 'Takes back a drain. Exit code 1: it cannot be done; 3: no agent answers.',
  });
  if (isHelp) {
    throw new OptionsError('usage', `${action} needs the name of a peer: ${action} CLUSTER`);
  }
  const { ok, message } = await askDrain(values.socketPath, { action, cluster });
  if (ok) process.stdout.write(`${message}\n`);
  else process.stderr.write(`clustermesh-agent: ${message}\n`);
  return ok ? 0 : EXIT_PROBLEM;
}

async function uninstall(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(UNINSTALL_OPTIONS, argv, env, {
    name: 'clustermesh-agent uninstall',
    description:
      'Detaches all programs and removes maps and the tunnel device. Traffic between clusters ends.',
  });
  if (await isAnswering(values.socketPath)) {
    process.stderr.write(
      `clustermesh-agent: an agent answers on ${values.socketPath}: stop it first\n`,
    );
    return EXIT_PROBLEM;
  }
  const { uninstallDatapath } = await import('./datapath/datapath.ts');
  await uninstallDatapath({ bpfRoot: values.bpfRoot, tunnelDevice: values.tunnelDevice });
  return 0;
}

function packageVersion(): string {
  const parsed: unknown = JSON.parse(readFileSync(projectPath('package.json'), 'utf8'));
  const version =
    typeof parsed === 'object' && parsed !== null && 'version' in parsed
      ? parsed.version
      : undefined;
  return String(version);
}

/** What went wrong, as a line for people, and the exit code. */
function explain(error: unknown): { readonly lines: string; readonly exitCode: number } {
  const text = error instanceof Error ? error.message : String(error);
  if (error instanceof OptionsError) return { lines: text, exitCode: error.exitCode };
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  // Without a code of ours it is a fault of the program: whoever mends it needs to know where.
  const lines =
    typeof code === 'string' ? text : error instanceof Error ? (error.stack ?? text) : text;
  return {
    lines,
    exitCode:
      code === 'unreachable' ? EXIT_UNREACHABLE : code === 'bad-option' ? EXIT_USAGE : EXIT_PROBLEM,
  };
}

try {
  process.exitCode = await main(process.argv.slice(2), process.env);
} catch (error) {
  const { lines, exitCode } = explain(firstFailure(error));
  if (exitCode === 0) process.stdout.write(`${lines.trimEnd()}\n`);
  else for (const line of lines.split('\n')) process.stderr.write(`clustermesh-agent: ${line}\n`);
  process.exitCode = exitCode;
}
