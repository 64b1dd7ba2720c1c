/** A lab: clusters, nodes and pods in network namespaces and cgroups of their own, with the real programs running in them. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findCgroupRoot } from '../../agent/datapath/cgroup-root.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { createAgent, type LabAgent } from './agent.ts';
import { createApiserver, type LabApiserver } from './apiserver.ts';
import { type ClusterCertificates, makeCertificates } from './certificates.ts';
import { addPodInterface, checkPodInterface, deletePodInterface } from './cni.ts';
import { type CommandOptions, type CommandResult, execute, run } from './command.ts';
import { clusterObjects, podObject } from './kubernetes-object.ts';
import { LabError } from './lab-error.ts';
import { claimLab, type LabState, writeLabState } from './lab-state.ts';
import { makeNetwork, makePodNamespace } from './network.ts';
import {
  type ClusterPlan,
  type LabPlan,
  type NodePlan,
  type PodPlan,
  planLab,
  planPod,
} from './plan.ts';
import { checkLab, PLUGIN_FOLDER } from './preflight.ts';
import { type LabProcess, startProcess } from './process.ts';
import { killProcesses, removeCgroups, sweepLabs, tearDownLab } from './teardown.ts';
import { type PodInput, parsePod, type Topology } from './topology.ts';
import { type WaitOptions, waitFor } from './wait-for.ts';

/** A pod that runs. */
export interface LabPod extends PodPlan {
  readonly ips: readonly IpAddress[];
  /** Its address of a family. Throws LabError when it has none. */
  ip(family?: 4 | 6): IpAddress;
}

/** Ports of an echo server. */
export interface EchoPorts {
  readonly tcp?: readonly number[];
  readonly udp?: readonly number[];
}

/** A running lab. Names that are not there throw LabError `unknown-name`. Disposing takes everything down. */
export interface Lab extends AsyncDisposable {
  readonly name: string;
  readonly plan: LabPlan;
  readonly certificates: ReadonlyMap<string, ClusterCertificates>;
  pods(): readonly LabPod[];
  pod(name: string): LabPod;
  node(name: string): NodePlan;
  cluster(name: string): ClusterPlan;
  agent(node: string): LabAgent;
  apiserver(cluster: string): LabApiserver;
  /** ClusterIP that a service has in a cluster. */
  clusterIp(cluster: string, service: string, family?: 4 | 6): IpAddress;
  /** Runs a program in a pod to its end. */
  exec(pod: string, argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Starts a program in a pod. It ends with the lab at the latest. */
  spawn(pod: string, argv: readonly string[]): LabProcess;
  /** Runs a program in a node's namespace to its end. */
  execOnNode(
    node: string,
    argv: readonly string[],
    options?: CommandOptions,
  ): Promise<CommandResult>;
  /** Starts the echo server in a pod; resolves when it listens. */
  startServer(pod: string, ports: EchoPorts): Promise<LabProcess>;
  addPod(pod: PodInput): Promise<LabPod>;
  /** What the kubelet does when readiness changes: the pod goes on, its manifest says so. */
  setReady(pod: string, ready: boolean): Promise<void>;
  /** Gives a running pod other labels. */
  relabel(pod: string, labels: Readonly<Record<string, string>>): Promise<void>;
  /** Takes a pod out of its cluster's objects, as the beginning of its end; it goes on running until `removePod`. */
  withdrawPod(pod: string): Promise<void>;
  /** Ends a pod as a node does: manifest, processes, CNI DEL, namespace. */
  removePod(pod: string): Promise<void>;
  /** CNI CHECK of a pod. */
  checkPod(pod: string): Promise<void>;
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
  /** Is told what is being done, for people. */
  readonly onStep?: (step: string) => void;
}

const ECHO_MAIN = fileURLToPath(new URL('./echo/main.js', import.meta.url));

/**
 * Builds a lab and resolves when every pod of the topology runs, servers listening. First cleans up after labs whose process
 * was killed. Takes down what it has built when it fails or `signal` aborts. Throws LabError.
 */
export async function openLab(topology: Topology, options: LabOptions = {}): Promise<Lab> {
  const { signal, logger, persistent = false } = options;
  const name = options.name ?? `t${Math.random().toString(36).slice(2, 8)}`;
  checkLab();
  for (const wreck of await sweepLabs()) logger?.info({ lab: wreck }, 'took down an abandoned lab');
  signal?.throwIfAborted();
  const plan = planLab(topology, { name, cgroupRoot: findCgroupRoot() });
  const state = await claimLab({ name, persistent, topology, pods: {} });
  try {
    return await buildLab(plan, state, { ...options, persistent });
  } catch (error) {
    await tearDownLab(name);
    throw error;
  }
}

async function buildLab(
  plan: LabPlan,
  firstState: LabState,
  options: LabOptions & { persistent: boolean },
): Promise<Lab> {
  const { signal, persistent, onStep = () => undefined } = options;
  onStep('network namespaces, cgroups and certificates');
  const [, , certificates] = await Promise.all([
    makeNetwork(plan, signal),
    makeFolders(plan),
    makeCertificates(plan),
  ]);
  const apiservers = new Map(
    plan.clusters.map((cluster) => [
      cluster.name,
      createApiserver(cluster, { persistent, signal }),
    ]),
  );
  const agents = new Map(
    plan.clusters.flatMap((cluster) =>
      cluster.nodes.map((node) => [node.name, createAgent(cluster, node, { persistent, signal })]),
    ),
  );
  const pods = new Map<string, LabPod>();
  let state = firstState;
  const servers = new Map<string, LabProcess>();

  const find = <T>(map: ReadonlyMap<string, T>, what: string, wanted: string): T => {
    const found = map.get(wanted);
    if (found === undefined) throw unknownName(what, wanted, [...map.keys()]);
    return found;
  };
  const nodes = new Map(plan.nodes.map((node) => [node.name, node]));
  const clusters = new Map(plan.clusters.map((cluster) => [cluster.name, cluster]));
  const manifestsOf = (cluster: string) => find(apiservers, 'cluster', cluster).manifests;
  const cni = { pluginFolder: PLUGIN_FOLDER, signal };
  const save = async (): Promise<void> => {
    state = {
      ...state,
      pods: Object.fromEntries([...pods].map(([key, pod]) => [key, [...pod.ips]])),
    };
    await writeLabState(state);
  };

  const startServer = async (podName: string, ports: EchoPorts): Promise<LabProcess> => {
    const pod = find(pods, 'pod', podName);
    const args = [
      ...(ports.tcp ?? []).map((port) => `tcp:${port}`),
      ...(ports.udp ?? []).map((port) => `udp:${port}`),
    ];
    const log = join(
      plan.folder,
      'pods',
      pod.name,
      `echo-${args.join('-').replaceAll(':', '')}.log`,
    );
    const started = startProcess([process.execPath, ECHO_MAIN, pod.name, ...args], {
      ...pod,
      log,
      persistent,
    });
    await waitFor(
      `the echo server in ${pod.name} to listen`,
      () => {
        if (started.output().includes('ready')) return true;
        if (!started.isRunning()) throw new LabError('command', `it ended: ${started.output()}`);
        return false;
      },
      { signal },
    );
    servers.set(podName, started);
    return started;
  };

  const addPod = async (planned: PodPlan): Promise<LabPod> => {
    const node = find(nodes, 'node', planned.node);
    await mkdir(planned.cgroup);
    await makePodNamespace(planned.netns, signal);
    const { ips } = await addPodInterface(planned, node, cni).catch(async (error: unknown) => {
      await run(['ip', 'netns', 'delete', planned.netns]);
      await removeCgroups(planned.cgroup);
      throw error;
    });
    const pod = withIps(planned, ips);
    pods.set(pod.name, pod);
    if (pod.role === 'server') {
      await startServer(pod.name, {
        tcp: pod.ports.filter(({ protocol }) => protocol === 'TCP').map(({ port }) => port),
        udp: pod.ports.filter(({ protocol }) => protocol === 'UDP').map(({ port }) => port),
      });
    }
    await manifestsOf(pod.cluster).write(podObject(pod, { ips, node, ready: true }));
    return pod;
  };

  const withdrawPod = async (podName: string): Promise<void> => {
    const pod = find(pods, 'pod', podName);
    const node = find(nodes, 'node', pod.node);
    await manifestsOf(pod.cluster).remove(podObject(pod, { ips: pod.ips, node, ready: false }));
  };

  const removePod = async (podName: string): Promise<void> => {
    const pod = find(pods, 'pod', podName);
    const node = find(nodes, 'node', pod.node);
    await withdrawPod(podName);
    await killProcesses(pod.cgroup, pod.name);
    await deletePodInterface(pod, node, cni);
    await run(['ip', 'netns', 'delete', pod.netns], { signal });
    await removeCgroups(pod.cgroup);
    pods.delete(podName);
    servers.delete(podName);
    await save();
  };

  onStep('etcd and apiserver of each cluster, agent of each node');
  for (const cluster of plan.clusters) {
    const objects = [
      ...clusterObjects(cluster, plan.pods),
      ...plan.topology.manifests
        .filter((manifest) => manifest.cluster === cluster.name)
        .map(({ object }) => object),
    ];
    for (const object of objects) await manifestsOf(cluster.name).write(object);
  }
  await Promise.all([...apiservers.values(), ...agents.values()].map((daemon) => daemon.start()));
  onStep('pods, by the CNI plugins');
  // A node makes its pods one after the other, the nodes work side by side.
  await Promise.all(
    plan.nodes.map(async (node) => {
      for (const pod of plan.pods.filter((candidate) => candidate.node === node.name))
        await addPod(pod);
    }),
  );
  await save();

  let closing: Promise<void> | undefined;
  return {
    name: plan.name,
    plan,
    certificates,
    pods: () => [...pods.values()],
    pod: (wanted) => find(pods, 'pod', wanted),
    node: (wanted) => find(nodes, 'node', wanted),
    cluster: (wanted) => find(clusters, 'cluster', wanted),
    agent: (wanted) => find(agents, 'node', wanted),
    apiserver: (wanted) => find(apiservers, 'cluster', wanted),
    clusterIp: (cluster, service, family = 4) =>
      clusterIpOf(find(clusters, 'cluster', cluster), service, family),
    exec: (podName, argv, execOptions = {}) => {
      const { netns, cgroup } = find(pods, 'pod', podName);
      return execute(argv, { signal, ...execOptions, netns, cgroup });
    },
    execOnNode: (nodeName, argv, execOptions = {}) => {
      const node = find(nodes, 'node', nodeName);
      return execute(argv, {
        signal,
        ...execOptions,
        netns: node.namespace,
        cgroup: join(node.cgroup, 'system'),
      });
    },
    spawn: (podName, argv) => {
      const pod = find(pods, 'pod', podName);
      const log = join(plan.folder, 'pods', pod.name, `${Date.now()}-${argv[0]}.log`);
      return startProcess(argv, { ...pod, log, persistent });
    },
    startServer,
    async addPod(input) {
      const planned = planPod(parsePod(input), { name: plan.name, nodes: plan.nodes });
      if (pods.has(planned.name))
        throw new LabError('busy', `cannot add pod ${planned.name}: it runs`);
      const pod = await addPod(planned);
      await save();
      return pod;
    },
    async setReady(podName, ready) {
      const pod = find(pods, 'pod', podName);
      const node = find(nodes, 'node', pod.node);
      await manifestsOf(pod.cluster).write(podObject(pod, { ips: pod.ips, node, ready }));
    },
    async relabel(podName, labels) {
      const pod = { ...find(pods, 'pod', podName), labels: { ...labels } };
      const node = find(nodes, 'node', pod.node);
      pods.set(podName, pod);
      await manifestsOf(pod.cluster).write(podObject(pod, { ips: pod.ips, node, ready: true }));
    },
    withdrawPod,
    removePod,
    async checkPod(podName) {
      const pod = find(pods, 'pod', podName);
      await checkPodInterface(pod, find(nodes, 'node', pod.node), cni);
    },
    waitFor: (what, look, waitOptions = {}) => waitFor(what, look, { signal, ...waitOptions }),
    [Symbol.asyncDispose]: () => {
      closing ??= tearDownLab(plan.name);
      return closing;
    },
  };
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
  for (const cluster of plan.clusters)
    await mkdir(cluster.manifests, { recursive: true, mode: 0o700 });
}

function withIps(pod: PodPlan, ips: readonly IpAddress[]): LabPod {
  return {
    ...pod,
    ips,
    ip(family = 4) {
      const found = ips.find((ip) => ipFamily(ip) === family);
      if (found !== undefined) return found;
      throw new LabError(
        'unknown-name',
        `pod ${pod.name} has no IPv${family} address: it has ${ips.join(', ')}`,
      );
    },
  };
}

function clusterIpOf(cluster: ClusterPlan, service: string, family: 4 | 6): IpAddress {
  const found = cluster.services.find((candidate) => candidate.name === service);
  if (found === undefined) {
    throw unknownName(
      `service in ${cluster.name}`,
      service,
      cluster.services.map((one) => one.name),
    );
  }
  const ip = found.clusterIps.find((candidate) => ipFamily(candidate) === family);
  if (ip === undefined) {
    throw new LabError(
      'unknown-name',
      `service ${service} of ${cluster.name} has no IPv${family} address`,
    );
  }
  return ip;
}

function unknownName(what: string, wanted: string, known: readonly string[]): LabError {
  return new LabError(
    'unknown-name',
    `cannot find ${what} ${wanted}: there are ${known.join(', ') || 'none'}`,
  );
}
