/** The machines of a lab: hosts outside Kubernetes that join a cluster by the real command line. */
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { agentCommand } from '../../agent/machine/agent-command.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { type LabAgent, placeAgent } from './agent.ts';
import { ENROLLMENT_PORT, REGISTRY_PORT } from './apiserver.ts';
import { pkiFolder } from './certificates.ts';
import { type CommandOptions, type CommandResult, execute } from './command.ts';
import { type EchoPorts, echoPorts, startEcho } from './echo-process.ts';
import { LabError } from './lab-error.ts';
import type { MachinePlan } from './machine-plan.ts';
import { renumberHost } from './network.ts';
import { type ClusterPlan, findByName, type LabPlan } from './plan.ts';
import { OBJECT_FOLDER } from './preflight.ts';
import { type LabProcess, startProcess } from './process.ts';

/** A machine, joined or not. */
export interface LabMachine {
  readonly name: string;
  readonly plan: MachinePlan;
  /** Its underlay addresses at present. */
  readonly addresses: readonly IpAddress[];
  /** Its address of a family. Throws LabError `unknown-name` when it has none. */
  ip(family?: 4 | 6): IpAddress;
  /** Its agent. Throws LabError `unknown-name` before it has joined. */
  readonly agent: LabAgent;
  /** Runs a program on it to its end. */
  exec(argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Starts a program on it. It ends with the lab at the latest. */
  spawn(argv: readonly string[]): LabProcess;
  /** Starts the echo server on it; resolves when it listens. */
  startServer(ports: EchoPorts): Promise<LabProcess>;
  /** Ends the echo servers on it. */
  stopServers(): Promise<void>;
  /** Makes a token for it, with the labels and the namespace of the topology; resolves to the token alone. */
  createToken(flags?: readonly string[]): Promise<string>;
  /** Runs `clustermesh vm join` with a token, whatever comes of it; the agent is not started. */
  tryJoin(token: string, options?: JoinOptions): Promise<CommandResult>;
  /** Joins with a token (default: one of its own) and starts the agent. Resolves when the agent answers. Throws LabError. */
  join(options?: JoinOptions & { readonly token?: string }): Promise<JoinTimes>;
  /** Runs `clustermesh vm leave`. */
  leave(): Promise<CommandResult>;
  /** Puts its agent together as joining left it, with a program in front of it; `join` does so by itself. Does not start it. */
  takeAgent(front?: readonly string[]): LabAgent;
  /** Makes it the image of another one, with what joining left there. Its agent is not started. */
  becomeCopyOf(other: LabMachine): Promise<void>;
  /** Gives it other underlay addresses. */
  moveTo(addresses: readonly IpAddress[]): Promise<void>;
}

/** How a machine joins. */
export interface JoinOptions {
  /** Folder in place of the plan's. */
  readonly stateDir?: string;
  /** Further flags of `vm join`. */
  readonly flags?: readonly string[];
  /** Program, with its arguments, that is given the command to run. Default: none. */
  readonly front?: readonly string[];
}

/** How long joining took, in milliseconds from the start of the command. */
export interface JoinTimes {
  /** Until `vm join` ended. */
  readonly joinedMs: number;
  /** Until the agent answered. */
  readonly agentMs: number;
  /** What `vm join` printed. */
  readonly output: string;
}

/** What can be done with a lab's machines. */
export interface Machines {
  /** Finds a machine. Throws LabError `unknown-name`. */
  machine(name: string): LabMachine;
  /** Runs `clustermesh vm …` as the administrator of a cluster. */
  administer(cluster: string, args: readonly string[]): Promise<CommandResult>;
}

const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
/** A machine under load takes its time: nobody waits for less than this. */
const COMMAND_TIMEOUT_MS = 120_000;
/** Starts a token's text. */
const TOKEN = /imt1\.[\w.-]+/;

/** Manages the machines of a lab, and lets those of its plan join when told to. */
export function createMachines(options: {
  readonly plan: LabPlan;
  readonly persistent: boolean;
  readonly signal: AbortSignal;
}): Machines & { joinPlanned(): Promise<void> } {
  const { plan, signal } = options;
  const administer: Machines['administer'] = (name, args) => {
    const cluster = findByName('cluster', name, plan.clusters);
    const { addresses, namespace: netns, cgroup } = cluster.first;
    const registry = `${addresses[0]}:${REGISTRY_PORT}`;
    const certificates = join(pkiFolder(cluster), SECRET_NAMES.admin);
    const who = ['--registry', registry, '--certificates', certificates];
    const place = { netns, cgroup: join(cgroup, 'system') };
    return execute([process.execPath, CLI, 'vm', ...args, ...who], {
      ...place,
      signal,
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
  };
  const machines = plan.machines.map((machine) => {
    const cluster = findByName('cluster', machine.cluster, plan.clusters);
    return createMachine(machine, { ...options, cluster, administer });
  });
  return {
    machine: (name) => findByName('machine', name, machines),
    administer,
    async joinPlanned() {
      for (const machine of machines) {
        const { role, ports, joined } = machine.plan;
        if (role === 'server') await machine.startServer(echoPorts(ports));
        if (joined) await machine.join();
      }
    },
  };
}

function createMachine(
  plan: MachinePlan,
  options: {
    readonly cluster: ClusterPlan;
    readonly administer: Machines['administer'];
    readonly persistent: boolean;
    readonly signal: AbortSignal;
  },
): LabMachine {
  const { cluster, administer, persistent, signal } = options;
  const { name, netns } = plan;
  const place = { netns, cgroup: join(plan.cgroup, 'system') };
  let addresses = plan.addresses;
  let agent: LabAgent | undefined;
  const servers: LabProcess[] = [];

  const exec: LabMachine['exec'] = (argv, execOptions = {}) =>
    execute(argv, { signal, ...execOptions, ...place });
  const takeAgent: LabMachine['takeAgent'] = (front = [process.execPath]) => {
    const [, ...command] = agentCommand(plan.stateDir, agentFlags(plan));
    agent = placeAgent(
      {
        name,
        argv: [...front, ...command],
        netns,
        cgroup: join(plan.cgroup, 'agent'),
        log: join(plan.folder, 'agent.log'),
        socketPath: plan.socketPath,
      },
      { persistent, signal },
    );
    return agent;
  };
  const createToken: LabMachine['createToken'] = async (flags = []) => {
    const labels = Object.entries(plan.labels).map(([key, value]) => `${key}=${value}`);
    const asked = [
      ...['--name', name, '--namespace', plan.namespace],
      ...(labels.length === 0 ? [] : ['--labels', labels.join(',')]),
      ...flags,
    ];
    const result = await administer(cluster.name, ['token', 'create', ...asked]);
    const token = TOKEN.exec(result.stdout)?.[0];
    if (result.code === 0 && token !== undefined) return token;
    throw new LabError(
      'command',
      `vm token create for ${name} ended with ${result.code}: ${result.stderr.trim()}`,
    );
  };
  const tryJoin: LabMachine['tryJoin'] = (token, joinOptions = {}) => {
    const { stateDir = plan.stateDir, flags = [], front = [process.execPath] } = joinOptions;
    const [v4, v6] = cluster.first.addresses;
    const where = plan.family === 'ipv6' ? `[${v6}]` : v4;
    const argv = ['vm', 'join', `${where}:${ENROLLMENT_PORT}`, '--token-file', '-', '--no-service'];
    const who = ['--name', name, '--state-dir', stateDir, ...flags, '--', ...agentFlags(plan)];
    return exec([...front, CLI, ...argv, ...who], {
      input: `${token}\n`,
      timeoutMs: COMMAND_TIMEOUT_MS,
    });
  };
  return {
    name,
    plan,
    get addresses() {
      return addresses;
    },
    ip(family = 4) {
      const found = addresses.find((address) => ipFamily(address) === family);
      if (found !== undefined) return found;
      throw new LabError('unknown-name', `machine ${name} has no IPv${family} address`);
    },
    get agent() {
      if (agent !== undefined) return agent;
      throw new LabError('unknown-name', `machine ${name} has no agent: it has not joined`);
    },
    exec,
    spawn: (argv) => {
      const log = join(plan.folder, `${Date.now()}-${argv[0]}.log`);
      return startProcess(argv, { ...place, log, persistent });
    },
    async startServer(ports) {
      const where = { name, ...place, folder: plan.folder };
      const server = await startEcho(where, ports, { persistent, signal });
      servers.push(server);
      return server;
    },
    async stopServers() {
      for (const server of servers.splice(0)) await server.stop();
    },
    createToken,
    tryJoin,
    takeAgent,
    async join(joinOptions = {}) {
      const token = joinOptions.token ?? (await createToken());
      const began = systemClock.monotonic();
      const result = await tryJoin(token, joinOptions);
      const joinedMs = systemClock.monotonic() - began;
      if (result.code !== 0) {
        const said = `${result.stderr.trim()} ${result.stdout.trim()}`.trim();
        throw new LabError('command', `vm join of ${name} ended with ${result.code}: ${said}`);
      }
      const joined = takeAgent();
      await joined.start();
      return { joinedMs, agentMs: systemClock.monotonic() - began, output: result.stdout };
    },
    leave: () => exec([process.execPath, CLI, 'vm', 'leave', '--state-dir', plan.stateDir]),
    async becomeCopyOf(other) {
      await rm(plan.stateDir, { recursive: true, force: true });
      await cp(other.plan.stateDir, plan.stateDir, { recursive: true, verbatimSymlinks: true });
      // A copied disk has its files where they were; here two machines share one file system.
      for (const entry of await readdir(plan.stateDir, { withFileTypes: true, recursive: true })) {
        if (!entry.isFile()) continue;
        const path = join(entry.parentPath, entry.name);
        const text = await readFile(path, 'utf8');
        const moved = text
          .replaceAll(other.plan.folder, plan.folder)
          .replaceAll(other.plan.bpfRoot, plan.bpfRoot)
          .replaceAll(other.plan.cgroup, plan.cgroup);
        if (moved !== text) await writeFile(path, moved);
      }
      takeAgent();
    },
    async moveTo(moved) {
      await renumberHost(netns, moved, signal);
      addresses = moved;
    },
  };
}

/** Flags that keep the agents of several machines apart on one kernel, which has one boot id for all of them. */
function agentFlags(plan: MachinePlan): string[] {
  return [
    `--bpf-root=${plan.bpfRoot}`,
    `--cgroup-root=${plan.cgroup}`,
    `--socket-path=${plan.socketPath}`,
    `--object-dir=${OBJECT_FOLDER}`,
    `--instance-id=lab-${plan.name}`,
  ];
}
