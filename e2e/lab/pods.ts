/** The pods of a lab: made, changed and ended as a node's kubelet and container runtime do it. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { addPodInterface, checkPodInterface, deletePodInterface } from './cni.ts';
import { type CommandOptions, type CommandResult, execute, run } from './command.ts';
import { type EchoPorts, echoPorts, startEcho } from './echo-process.ts';
import { podObject } from './kubernetes-object.ts';
import { LabError } from './lab-error.ts';
import type { Manifests } from './manifests.ts';
import { makePodNamespace } from './network.ts';
import { findByName, type LabPlan, type NodePlan, type PodPlan, planPod } from './plan.ts';
import { PLUGIN_FOLDER } from './preflight.ts';
import { type LabProcess, startProcess } from './process.ts';
import { killProcesses, removeCgroups } from './teardown.ts';
import { type PodInput, parsePod } from './topology.ts';

/** A pod that runs. */
export interface LabPod extends PodPlan {
  readonly ips: readonly IpAddress[];
  /** Its address of a family. Throws LabError when it has none. */
  ip(family?: 4 | 6): IpAddress;
}

/** What can be done with a lab's pods. Names that are not there throw LabError `unknown-name`. */
export interface Pods {
  pods(): readonly LabPod[];
  pod(name: string): LabPod;
  /** Runs a program in a pod to its end. */
  exec(pod: string, argv: readonly string[], options?: CommandOptions): Promise<CommandResult>;
  /** Starts a program in a pod. It ends with the lab at the latest. */
  spawn(pod: string, argv: readonly string[]): LabProcess;
  /** Starts the echo server in a pod; resolves when it listens. */
  startServer(pod: string, ports: EchoPorts): Promise<LabProcess>;
  /** Adds a pod to a running lab. */
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
}

/** What pods are made with. */
export interface PodsOptions {
  readonly plan: LabPlan;
  readonly manifestsOf: (cluster: string) => Manifests;
  readonly persistent: boolean;
  readonly signal: AbortSignal;
  /** Called after a pod came or went, with all that run. */
  readonly onChange: (pods: readonly LabPod[]) => Promise<void>;
}

/** Manages the pods of a lab, and makes those of its plan when told to. */
export function createPods(
  options: PodsOptions,
): Pods & { makePlanned(node: NodePlan): Promise<void> } {
  const { plan, manifestsOf, persistent, signal, onChange } = options;
  const running = new Map<string, LabPod>();
  const cni = { pluginFolder: PLUGIN_FOLDER, signal };
  const all = (): LabPod[] => [...running.values()];
  const find = (name: string): LabPod => findByName('pod', name, all());
  const nodeOf = (pod: PodPlan): NodePlan => findByName('node', pod.node, plan.nodes);
  const publish = async (pod: LabPod, ready: boolean): Promise<void> => {
    await manifestsOf(pod.cluster).write(
      podObject(pod, { ips: pod.ips, node: nodeOf(pod), ready }),
    );
  };

  const startServer = (name: string, ports: EchoPorts): Promise<LabProcess> => {
    const { netns, cgroup } = find(name);
    const place = { name, netns, cgroup, folder: join(plan.folder, 'pods', name) };
    return startEcho(place, ports, { persistent, signal });
  };

  const make = async (planned: PodPlan): Promise<LabPod> => {
    await mkdir(planned.cgroup);
    await makePodNamespace(planned.netns, signal);
    const { ips } = await addPodInterface(planned, nodeOf(planned), cni).catch(
      async (error: unknown) => {
        await run(['ip', 'netns', 'delete', planned.netns]);
        await removeCgroups(planned.cgroup);
        throw error;
      },
    );
    const pod = withIps(planned, ips);
    running.set(pod.name, pod);
    if (pod.role === 'server') await startServer(pod.name, echoPorts(pod.ports));
    await publish(pod, true);
    return pod;
  };

  const withdrawPod = async (name: string): Promise<void> => {
    const pod = find(name);
    const object = podObject(pod, { ips: pod.ips, node: nodeOf(pod), ready: false });
    await manifestsOf(pod.cluster).remove(object);
  };

  return {
    pods: all,
    pod: find,
    async makePlanned(node) {
      for (const pod of plan.pods.filter((candidate) => candidate.node === node.name))
        await make(pod);
    },
    exec: (name, argv, execOptions = {}) => {
      const { netns, cgroup } = find(name);
      return execute(argv, { signal, ...execOptions, netns, cgroup });
    },
    spawn: (name, argv) => {
      const pod = find(name);
      const log = join(plan.folder, 'pods', name, `${Date.now()}-${argv[0]}.log`);
      return startProcess(argv, { ...pod, log, persistent });
    },
    startServer,
    async addPod(input) {
      const planned = planPod(parsePod(input), { name: plan.name, nodes: plan.nodes });
      if (running.has(planned.name)) {
        throw new LabError('busy', `cannot add pod ${planned.name}: it runs`);
      }
      const pod = await make(planned);
      await onChange(all());
      return pod;
    },
    async setReady(name, ready) {
      const pod = find(name);
      await manifestsOf(pod.cluster).writeStatus(
        podObject(pod, { ips: pod.ips, node: nodeOf(pod), ready }),
      );
    },
    async relabel(name, labels) {
      const pod = { ...find(name), labels: { ...labels } };
      running.set(name, pod);
      await publish(pod, true);
    },
    withdrawPod,
    async removePod(name) {
      const pod = find(name);
      await withdrawPod(name);
      await killProcesses(pod.cgroup, name);
      await deletePodInterface(pod, nodeOf(pod), cni);
      await run(['ip', 'netns', 'delete', pod.netns], { signal });
      await removeCgroups(pod.cgroup);
      running.delete(name);
      await onChange(all());
    },
    async checkPod(name) {
      const pod = find(name);
      await checkPodInterface(pod, nodeOf(pod), cni);
    },
  };
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
