#!/usr/bin/env node
import { release } from 'node:os';
import { setFlagsFromString } from 'node:v8';
import { checkClusterId } from '../mesh/runtime/cluster-options.ts';
import { firstFailure } from '../mesh/runtime/first-failure.ts';
import { OptionsError, parseOptions } from '../mesh/runtime/options.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import { projectPath } from '../mesh/runtime/project-path.ts';
import { ipFamily } from '../mesh/wire/ip.ts';
import { TRACE_LEVELS } from '../mesh/wire/maps.ts';
import { askDrain, askTraceLevel, fetchStatus, isAnswering } from './api/client.ts';
import { runMonitor } from './api/monitor-command.ts';
import { problemsOf, renderStatus } from './api/render.ts';
import { installCni, uninstallCni } from './cni/installation.ts';
import { pluginSettings } from './cni/plugin-settings.ts';
import { enrollmentEnvironment } from './enrollment/enrollment-environment.ts';
import { machineEnvironment } from './machine/agent-command.ts';
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
} from './options.ts';

/**
 * How much garbage may gather before all of the heap is cleaned, in percent of what was in use the last time. V8 itself
 * lets a heap grow to four times as much, which the agent of a large mesh would never need again after its start.
 */
const HEAP_GROWS_BY_PERCENT = 50;

const EXIT_PROBLEM = 1;
const EXIT_USAGE = 2;
const EXIT_UNREACHABLE = 3;
const EXIT_TIMEOUT = 124;

const DESCRIPTION = `Reads every cluster of the mesh and programs this node's eBPF maps.

Commands: run (the default), status, monitor (shows what is dropped, and why), trace-level [LEVEL] (shows or changes which packets that went on the monitor shows), drain CLUSTER and undrain CLUSTER (takes a peer out of use on this node, and back), features (shows what the kernel has of what is needed), cleanup (removes every trace from this node), cni install and cni uninstall (puts the CNI plugin behind those of the node, and takes it out), --version`;

/** Runs a command. Returns the exit code. */
async function main(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [command = 'run'] = argv;
  switch (command) {
    case 'status':
      return showStatus(argv.slice(1), env);
    case 'features':
      return showFeatures(argv.slice(1), env);
    case 'cleanup':
    // Its name before.
    case 'uninstall':
      return cleanup(argv.slice(1), env);
    case 'cni':
      return cni(argv.slice(1), env);
    case 'monitor':
      return monitor(argv.slice(1), env);
    case 'trace-level':
      return traceLevel(argv.slice(1), env);
    case 'drain':
    case 'undrain':
      return drain(command, { argv: argv.slice(1), env });
    case 'run':
      return run(argv.slice(1), env);
    case '--version':
      process.stdout.write(`clustermesh-agent ${packageVersion()}\n`);
      return 0;
    default:
      if (command.startsWith('-')) return run(argv, env);
      throw new OptionsError(
        'usage',
        `unknown command ${command}: expected run, status, monitor, trace-level, drain, undrain, features, cleanup or cni`,
      );
  }
}

async function run(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const told = enrollmentEnvironment(argv, env);
  const values = parseOptions(RUN_OPTIONS, argv, machineEnvironment(argv, told), {
    name: 'clustermesh-agent',
    description: DESCRIPTION,
  });
  checkClusterId(values);
  if (values.nodeIps.length === 0)
    throw new OptionsError('usage', '--node-ip is required: give it, or set ISTHMUS_NODE_IP');
  const families = new Set(values.nodeIps.map(ipFamily));
  // A node is reached at one address; a machine is an endpoint at all that it was given.
  if (!values.machine && families.size < values.nodeIps.length) {
    throw new OptionsError(
      'usage',
      `--node-ip: ${values.nodeIps.join(', ')}: expected at most one address of each family`,
    );
  }
  if (values.kubeProxyReplacement && values.services === 'global') {
    throw new OptionsError(
      'usage',
      '--services global leaves Services to kube-proxy, --kube-proxy-replacement true takes them all: give one of them',
    );
  }
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  setFlagsFromString(`--heap-growing-percent=${HEAP_GROWS_BY_PERCENT}`);
  // Loaded late: a status, or a line about a wrong option, needs neither gRPC nor libbpf.
  const { startAgent } = await import('./start.ts');
  try {
    await startAgent(values, {
      version: packageVersion(),
      onLogLevelAsked: (step) => void process.on('SIGUSR2', step),
      signal: ending.signal,
    });
  } catch (error) {
    // Asked to end while it was starting: what then fails is of no interest.
    if (!ending.signal.aborted) throw error;
  }
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

async function monitor(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(MONITOR_OPTIONS, argv, env, {
    name: 'clustermesh-agent monitor',
    description:
      'Shows what the eBPF programs of this node drop, and why, as it happens; and what else they tell. Of one option any value fits, of several each must. Exit code 3: no agent answers, or it leaves.',
  });
  const ending = new AbortController();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => ending.abort());
  await runMonitor(values, {
    output: process.stdout,
    say: (line) => process.stderr.write(`clustermesh-agent: ${line}\n`),
    colours: process.stdout.isTTY === true && (env.NO_COLOR ?? '') === '',
    signal: ending.signal,
  });
  return 0;
}

async function traceLevel(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [wanted, ...rest] = argv;
  const isQuestion = wanted === undefined || wanted.startsWith('-');
  const values = parseOptions(TRACE_LEVEL_OPTIONS, isQuestion ? argv : rest, env, {
    name: 'clustermesh-agent trace-level [LEVEL]',
    description: `Shows which packets that went on are told to listeners, or changes that until the agent ends: ${TRACE_LEVELS.join(', ')}.`,
  });
  const level = isQuestion ? undefined : TRACE_LEVELS.find((known) => known === wanted);
  if (!isQuestion && level === undefined) {
    throw new OptionsError(
      'usage',
      `trace-level ${wanted}: expected one of ${TRACE_LEVELS.join(', ')}`,
    );
  }
  process.stdout.write(`${await askTraceLevel(values.socketPath, level)}\n`);
  return 0;
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

/** Shows what the kernel has of what the datapath asks for. */
async function showFeatures(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(FEATURES_OPTIONS, argv, env, {
    name: 'clustermesh-agent features',
    description:
      'Shows which features of the kernel the datapath needs or uses, and whether this one has them. Exit code 1: something needed is missing.',
  });
  const { probeFeatures, renderFeatures } = await import('./datapath/features.ts');
  const features = probeFeatures();
  const kernel = release();
  process.stdout.write(
    values.output === 'json'
      ? `${JSON.stringify({ kernel, features }, null, 2)}\n`
      : renderFeatures(features, kernel),
  );
  return features.every(({ isNeeded, isFound }) => isFound || !isNeeded) ? 0 : EXIT_PROBLEM;
}

/** Removes every trace of the agent from this node. */
async function cleanup(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const values = parseOptions(CLEANUP_OPTIONS, argv, env, {
    name: 'clustermesh-agent cleanup',
    description:
      "Removes every trace of the agent from this node: programs, maps, the tunnel device with its routes, the state directory, and clustermesh-cni with its place in the CNI configuration. Traffic between clusters ends; that within the node's own network goes on. Exit code 1: an agent still runs.",
  });
  const { cleanNode } = await import('./cleanup.ts');
  const left = await cleanNode(values);
  for (const path of left) {
    process.stderr.write(`clustermesh-agent: ${path} is not the agent's, and was left\n`);
  }
  return 0;
}

/** Puts the CNI plugin into the node's configuration, or takes it out. */
async function cni(argv: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const [action, ...rest] = argv;
  if (action === 'install') {
    const values = parseOptions(CNI_INSTALL_OPTIONS, rest, env, {
      name: 'clustermesh-agent cni install',
      description:
        "Copies clustermesh-cni to the node's CNI plugins and chains it behind those of its configuration. Harmless to repeat. An agent that runs with --cni-conf-dir does the same, and keeps it so.",
    });
    return printChanged(
      installCni({
        confDir: values.cniConfDir,
        binDir: values.cniBinDir,
        pluginFile: projectPath('dist/bin/clustermesh-cni'),
        settings: pluginSettings(values),
      }),
    );
  }
  if (action !== 'uninstall') {
    throw new OptionsError(
      'usage',
      `cni ${action ?? ''}: expected cni install or cni uninstall`.replace('  ', ' '),
    );
  }
  const values = parseOptions(CNI_UNINSTALL_OPTIONS, rest, env, {
    name: 'clustermesh-agent cni uninstall',
    description:
      "Takes clustermesh-cni out of the node's CNI configuration and removes its program.",
  });
  const changed = uninstallCni({ confDir: values.cniConfDir, binDir: values.cniBinDir });
  if (await isAnswering(values.socketPath)) {
    process.stderr.write(
      `clustermesh-agent: an agent answers on ${values.socketPath}: one that runs with --cni-conf-dir puts the plugin back, stop it or start it without\n`,
    );
  }
  return printChanged(changed);
}

function printChanged(files: readonly string[]): number {
  process.stdout.write(
    files.length === 0 ? 'nothing to change\n' : files.map((file) => `${file} changed\n`).join(''),
  );
  return 0;
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
      code === 'unreachable'
        ? EXIT_UNREACHABLE
        : code === 'timeout'
          ? EXIT_TIMEOUT
          : code === 'bad-option' || code === 'bad-question'
            ? EXIT_USAGE
            : EXIT_PROBLEM,
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
