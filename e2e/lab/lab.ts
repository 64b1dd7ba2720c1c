/** A lab: clusters, nodes, pods and machines in network namespaces and cgroups of their own, with the real programs running in them. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { createAgent, type LabAgent } from './agent.ts';
import { createApiserver, type LabApiserver } from './apiserver.ts';
import { type ClusterCertificates, makeCertificates } from './certificates.ts';
import { type CommandOptions, type CommandResult, execute, run } from './command.ts';
import { type LabKubernetes, openLabKubernetes } from './kubernetes.ts';
import { clusterObjects } from './kubernetes-object.ts';
import { LabError } from './lab-error.ts';
import { claimLab, type LabState, writeLabState } from './lab-state.ts';
import { createMachines, type Machines } from './machines.ts';
import { makeNetwork } from './network.ts';
import { type ClusterPlan, findByName, type LabPlan, type NodePlan, planLab } from './plan.ts';
import { createPods, type LabPod, type Pods } from './pods.ts';
import { checkLab } from './preflight.ts';
import { settleAll } from './settle-all.ts';
import { sweepLabs, tearDownLab } from './teardown.ts';
import type { Topology } from './topology.ts';
import { type WaitOptions, waitFor } from './wait-for.ts';

/** A running lab. Names that are not there throw LabError `unknown-name`. Disposing takes everything down. */
export interface Lab extends Pods, Machines, AsyncDisposable {
  readonly name: string;
  readonly plan: LabPlan;
  readonly certificates: ReadonlyMap<string, ClusterCertificates>;
  node(name: string): NodePlan;
  cluster(name: string): ClusterPlan;
  agent(node: string): LabAgent;
  apiserver(cluster: string): LabApiserver;
  /** The API server of a cluster whose objects are in one. */
  kubernetes(cluster: string): LabKubernetes;
  /** ClusterIP that a service has in a cluster. */
  clusterIp(cluster: string, service: string, family?: 4 | 6): IpAddress;
  /** Runs a program in a node's namespace to its end. */
  execOnNode(
    node: string,
    argv: readonly string[],
    options?: CommandOptions,
  ): Promise<CommandResult>;
  /** `waitFor` that ends when the lab's signal aborts. */
  waitFor<T>(
    what: string,
    look: () => Promise<T | false | undefined> | T | false | undefined,
    options?: WaitOptions,
  ): Promise<T>;
}

/** Options of `openLab`. */
export interface LabOptions {
  /** 1 to 16 of a-z and 0-9, unique on this machine. Default: a random one. */
  readonly name?: string;
  readonly signal?: AbortSignal;
  readonly logger?: Logger;
  /** Lets it live on when this process ends, until `tearDownLab`. Default false. */
  readonly persistent?: boolean;
  /** Further flags of every agent. */
  readonly agentFlags?: readonly string[];
  /** What runs the agent of a node in place of the lab's own command line; undefined: that. Asked when all but daemons is there. */
  readonly agentCommand?: (
    cluster: ClusterPlan,
    node: NodePlan,
  ) => Promise<readonly string[] | undefined>;
  /** Further flags of every apiserver. */
  readonly apiserverFlags?: readonly string[];
  /** Further files of `clustermesh-apiserver/kubernetes/manifests` that a user applies for it. */
  readonly kubernetesFiles?: readonly string[];
  /** Is told what is being done, for people. */
  readonly onStep?: (step: string) => void;
}

/**
 * Builds a lab and resolves when every pod of the topology runs, servers listening. First cleans up after labs whose process
 * was killed. Takes down what it has built when it fails or `signal` aborts. Throws LabError.
 */
export async function openLab(topology: Topology, options: LabOptions = {}): Promise<Lab> {
  const { signal, logger } = options;
  const name = options.name ?? `t${Math.random().toString(36).slice(2, 8)}`;
  checkLab();
  for (const wreck of await sweepLabs()) logger?.info({ lab: wreck }, 'took down an abandoned lab');
  signal?.throwIfAborted();
  const plan = planLab(topology, { name, cgroupRoot: findCgroupRoot() });
  if (options.persistent === true && plan.clusters.some(hasApiServer)) {
    const message = `cannot leave lab ${name} running: Kubernetes API servers end with their maker; use objects: files`;
    throw new LabError('topology', message);
  }
  // Until it is whole it is swept away like any other when its maker dies.
  const state = await claimLab({ name, persistent: false, topology, pods: {} });
  const kubernetes: LabKubernetes[] = [];
  const dispose = async (): Promise<void> => {
    await tearDownLab(name);
    await Promise.all(kubernetes.splice(0).map((one) => one[Symbol.asyncDispose]()));
  };
  try {
    return await buildLab(plan, { claimed: state, kubernetes, dispose, ...options });
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** What a lab is built with; API servers are added as they are started, `dispose` ends them and everything else. */
interface BuildOptions extends LabOptions {
  readonly claimed: LabState;
  readonly kubernetes: LabKubernetes[];
  readonly dispose: () => Promise<void>;
}

async function buildLab(plan: LabPlan, options: BuildOptions): Promise<Lab> {
  const { claimed, kubernetes } = options;
  const { persistent = false, onStep = () => undefined } = options;
  // One part that fails ends the others, so that they do not build on while the lab is being taken down.
  const failing = new AbortController();
  const fail = (reason: unknown): void => failing.abort(reason);
  const signal = AbortSignal.any([failing.signal, ...(options.signal ? [options.signal] : [])]);

  onStep('network namespaces, cgroups and certificates');
  const [, , certificates] = await settleAll(
    [
      makeNetwork(plan, signal),
      makeFolders(plan),
      makeCertificates(plan),
      startKubernetes(plan, { ...options, signal, fail }),
    ],
    fail,
  );
  await settleAll(
    kubernetes.map((one) => one.reachFromNode()),
    fail,
  );
  const apiservers = plan.clusters.map((cluster) =>
    createApiserver(cluster, {
      persistent,
      flags: options.apiserverFlags,
      kubernetes: kubernetes.find(({ name }) => name === cluster.name),
      signal,
    }),
  );
  const apiserver = (cluster: string): LabApiserver => findByName('cluster', cluster, apiservers);
  let state = claimed;
  const save = async (running: readonly LabPod[]): Promise<void> => {
    state = {
      ...state,
      pods: Object.fromEntries(running.map(({ name, ips }) => [name, [...ips]])),
    };
    await writeLabState(state);
  };
  const { makePlanned, ...pods } = createPods({
    plan,
    manifestsOf: (cluster) => apiserver(cluster).manifests,
    persistent,
    signal,
    onChange: save,
  });

  onStep('etcd and apiserver of each cluster, agent of each node');
  await settleAll(
    plan.clusters.map((cluster) => writeObjects(plan, cluster, apiserver(cluster.name))),
    fail,
  );
  await settleAll(
    kubernetes.map((one) => one.writeTokens()),
    fail,
  );
  const agents = await makeAgents(plan, { ...options, persistent, signal });
  await settleAll(
    [...apiservers, ...agents].map((daemon) => daemon.start()),
    fail,
  );
  onStep('pods, by the CNI plugins');
  // A node makes its pods one after the other, the nodes work side by side.
  await settleAll(plan.nodes.map(makePlanned), fail);
  const { joinPlanned, ...machines } = createMachines({ plan, persistent, signal });
  if (plan.machines.length > 0) {
    onStep('machines, by their tokens');
    await joinPlanned();
  }
  state = { ...state, persistent };
  await save(pods.pods());

  const node = (wanted: string): NodePlan => findByName('node', wanted, plan.nodes);
  const cluster = (wanted: string): ClusterPlan => findByName('cluster', wanted, plan.clusters);
  let closing: Promise<void> | undefined;
  return {
    ...pods,
    ...machines,
    name: plan.name,
    plan,
    certificates,
    node,
    cluster,
    agent: (wanted) => findByName('node', wanted, agents),
    apiserver,
    kubernetes: (wanted) => findByName('Kubernetes API server', wanted, kubernetes),
    clusterIp: (wanted, service, family = 4) => clusterIpOf(cluster(wanted), service, family),
    execOnNode: (wanted, argv, execOptions = {}) => {
      const { namespace: netns, cgroup } = node(wanted);
      return execute(argv, { signal, ...execOptions, netns, cgroup: join(cgroup, 'system') });
    },
    waitFor: (what, look, waitOptions = {}) => waitFor(what, look, { signal, ...waitOptions }),
    [Symbol.asyncDispose]: () => {
      closing ??= options.dispose();
      return closing;
    },
  };
}

async function makeAgents(
  plan: LabPlan,
  options: LabOptions & { readonly persistent: boolean; readonly signal: AbortSignal },
): Promise<LabAgent[]> {
  const { persistent, agentFlags: flags, agentCommand, signal } = options;
  const agents: LabAgent[] = [];
  for (const cluster of plan.clusters) {
    for (const node of cluster.nodes) {
      const command = await agentCommand?.(cluster, node);
      agents.push(createAgent(cluster, node, { persistent, flags, command, signal }));
    }
  }
  return agents;
}

async function makeFolders(plan: LabPlan): Promise<void> {
  await mkdir(plan.bpffs, { recursive: true });
  await run(['mount', '-t', 'bpf', 'bpf', plan.bpffs]);
  for (const node of plan.nodes) {
    await mkdir(node.bpfRoot);
    await mkdir(node.folder, { recursive: true, mode: 0o700 });
    // Programs of the node itself; pods get a cgroup each beside them.
    for (const part of ['system', 'agent', 'apiserver']) {
      await mkdir(join(node.cgroup, part), { recursive: true });
    }
  }
  for (const machine of plan.machines) {
    await mkdir(machine.bpfRoot);
    await mkdir(machine.folder, { recursive: true, mode: 0o700 });
    for (const part of ['system', 'agent']) {
      await mkdir(join(machine.cgroup, part), { recursive: true });
    }
  }
}

async function writeObjects(
  plan: LabPlan,
  cluster: ClusterPlan,
  { manifests }: LabApiserver,
): Promise<void> {
  const own = plan.topology.manifests.filter((manifest) => manifest.cluster === cluster.name);
  await manifests.writeAll([
    ...clusterObjects(cluster, plan.pods),
    ...own.map((manifest) => manifest.object),
  ]);
}

function hasApiServer({ objects }: ClusterPlan): boolean {
  return objects === 'kubernetes';
}

/** Starts the API servers of all clusters that have one, and adds them to `kubernetes`; nodes cannot reach them yet. */
async function startKubernetes(
  plan: LabPlan,
  options: BuildOptions & {
    readonly signal: AbortSignal;
    readonly fail: (reason: unknown) => void;
  },
): Promise<void> {
  const { kubernetes, signal, fail, onStep, kubernetesFiles = [] } = options;
  const clusters = plan.clusters.filter(hasApiServer);
  if (clusters.length === 0) return;
  onStep?.('Kubernetes API server of each cluster');
  await settleAll(
    clusters.map(async (cluster) => {
      const started = await openLabKubernetes(cluster, { files: kubernetesFiles, signal });
      kubernetes.push(started);
    }),
    fail,
  );
}

function clusterIpOf(cluster: ClusterPlan, service: string, family: 4 | 6): IpAddress {
  const found = findByName(`service of ${cluster.name}`, service, cluster.services);
  const ip = found.clusterIps.find((candidate) => ipFamily(candidate) === family);
  if (ip !== undefined) return ip;
  throw new LabError(
    'unknown-name',
    `service ${service} of ${cluster.name} has no IPv${family} address`,
  );
}
