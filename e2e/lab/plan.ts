/** From a topology to names, addresses and folders: everything about a lab that can be known before it is built. */
import { join } from 'node:path';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  ipFromBytes,
  ipToBytes,
  makePrefix,
  parseIpAddress,
  parseIpPrefix,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import { LabError } from './lab-error.ts';
import { type MachinePlan, planMachine } from './machine-plan.ts';
import type { ClusterTopology, PodTopology, ServiceTopology, Topology } from './topology.ts';

/** Where labs keep their files, a folder each. */
export const LABS_FOLDER = '/run/isthmus/lab';

/** Bytes of VXLAN over IPv6 (14 + 40 + 8 + 8); pods get what is left of the underlay's 1500. */
export const POD_MTU = 1500 - 70;

/** A node: a network namespace on the underlay, with a cgroup and a folder in the lab's bpffs. */
export interface NodePlan {
  readonly name: string;
  readonly cluster: string;
  /** Number in the lab, from 1; also the last part of its underlay addresses. */
  readonly number: number;
  readonly namespace: string;
  /** Underlay addresses: IPv4, then IPv6. */
  readonly addresses: readonly [IpAddress, IpAddress];
  readonly podCidrs: readonly IpPrefix[];
  readonly cni: ClusterTopology['cni'];
  readonly cgroup: string;
  readonly bpfRoot: string;
  readonly folder: string;
  readonly socketPath: string;
}

/** A cluster: its nodes, and where its apiserver runs. */
export interface ClusterPlan {
  readonly name: string;
  readonly id: number;
  readonly nodes: readonly NodePlan[];
  /** Node whose namespace holds the apiserver. */
  readonly first: NodePlan;
  readonly folder: string;
  readonly manifests: string;
  readonly objects: ClusterTopology['objects'];
  readonly mcs: boolean;
  /** Machines may join it, or its nodes: it enrols them, and mirrors its peers, whom they read through it alone. */
  readonly takesMachines: boolean;
  readonly nodesEnroll: boolean;
  readonly serviceCidrs: readonly string[];
  readonly namespaces: Readonly<Record<string, Readonly<Record<string, string>>>>;
  readonly services: readonly ServicePlan[];
}

/** A service in one cluster, with its ClusterIPs there, one a family of `serviceCidrs`. */
export interface ServicePlan extends ServiceTopology {
  readonly clusterIps: readonly IpAddress[];
}

/** A pod and where it is going to live. */
export interface PodPlan extends PodTopology {
  readonly cluster: string;
  readonly netns: string;
  readonly cgroup: string;
}

/** A lab on paper. */
export interface LabPlan {
  readonly name: string;
  readonly folder: string;
  readonly bpffs: string;
  readonly cgroup: string;
  /** Network namespace that holds the underlay's bridge and nothing else. */
  readonly fabric: string;
  readonly clusters: readonly ClusterPlan[];
  readonly nodes: readonly NodePlan[];
  readonly pods: readonly PodPlan[];
  readonly machines: readonly MachinePlan[];
  readonly topology: Topology;
}

/** Plans a lab. `name` must be unique on the machine, `cgroupRoot` is where the cgroup v2 hierarchy is mounted. */
export function planLab(
  topology: Topology,
  options: { readonly name: string; readonly cgroupRoot: string },
): LabPlan {
  const { name } = options;
  if (!/^[a-z0-9]{1,16}$/.test(name)) {
    throw new LabError(
      'topology',
      `cannot name a lab ${JSON.stringify(name)}: expected 1 to 16 of a-z and 0-9`,
    );
  }
  const folder = join(LABS_FOLDER, name);
  const places = {
    name,
    folder,
    bpffs: join(folder, 'bpf'),
    cgroup: labCgroup(name, options.cgroupRoot),
  };
  let count = 0;
  const clusters = topology.clusters.map((cluster): ClusterPlan => {
    const nodes = cluster.nodes.map((node, index) => {
      count += 1;
      return planNode(cluster, { node, index: index + 1, number: count, ...places });
    });
    const [first] = nodes;
    if (first === undefined) throw new LabError('topology', `cluster ${cluster.name} has no node`);
    return {
      name: cluster.name,
      id: cluster.id,
      nodes,
      first,
      folder: join(folder, 'clusters', cluster.name),
      manifests: join(folder, 'clusters', cluster.name, 'manifests'),
      objects: cluster.objects,
      mcs: cluster.mcs,
      takesMachines:
        cluster.nodesEnroll ||
        topology.machines.some((machine) => machine.cluster === cluster.name),
      nodesEnroll: cluster.nodesEnroll,
      serviceCidrs: cluster.serviceCidrs,
      namespaces: cluster.namespaces,
      services: topology.services
        .filter((service) => service.clusters?.includes(cluster.name) ?? true)
        .map((service, index) => ({ ...service, clusterIps: clusterIps(cluster, index + 10) })),
    };
  });
  const nodes = clusters.flatMap((cluster) => cluster.nodes);
  return {
    ...places,
    fabric: `isthmus-${name}-fabric`,
    clusters,
    nodes,
    pods: topology.pods.map((pod) => planPod(pod, { name, nodes })),
    machines: topology.machines.map((machine, index) =>
      planMachine(machine, { ...places, number: index + 1 }),
    ),
    topology,
  };
}

/** Folder of a lab's cgroup tree. */
export function labCgroup(name: string, cgroupRoot: string): string {
  return join(cgroupRoot, `isthmus-lab-${name}`);
}

/** Finds one of several by its name. Throws LabError `unknown-name` with the names there are. */
export function findByName<T extends { readonly name: string }>(
  what: string,
  name: string,
  all: readonly T[],
): T {
  const found = all.find((candidate) => candidate.name === name);
  if (found !== undefined) return found;
  const known = all.map((candidate) => candidate.name).join(', ') || 'none';
  throw new LabError('unknown-name', `cannot find ${what} ${name}: there are ${known}`);
}

/** Places a pod on its node. Throws LabError `unknown-name`. */
export function planPod(
  pod: PodTopology,
  lab: { readonly name: string; readonly nodes: readonly NodePlan[] },
): PodPlan {
  const node = findByName('node', pod.node, lab.nodes);
  return {
    ...pod,
    cluster: node.cluster,
    netns: `isthmus-${lab.name}-p-${pod.name}`,
    cgroup: join(node.cgroup, `pod-${pod.name}`),
  };
}

function planNode(
  cluster: ClusterTopology,
  options: {
    node: string;
    index: number;
    number: number;
    name: string;
    folder: string;
    bpffs: string;
    cgroup: string;
  },
): NodePlan {
  const { node, number } = options;
  const folder = join(options.folder, 'nodes', node);
  return {
    name: node,
    cluster: cluster.name,
    number,
    namespace: `isthmus-${options.name}-${node}`,
    addresses: [
      parseIpAddress(`172.31.0.${number}`),
      parseIpAddress(`fd00:31::${number.toString(16)}`),
    ],
    podCidrs: cluster.podCidrs.map((cidr) => nodeCidr(cidr, options.index)),
    cni: cluster.cni,
    cgroup: join(options.cgroup, node),
    bpfRoot: join(options.bpffs, node),
    folder,
    socketPath: join(folder, 'agent.sock'),
  };
}

/** The node's part of the cluster's range: a /24 of IPv4, a /64 of IPv6. */
function nodeCidr(cidr: string, index: number): IpPrefix {
  const { address, length } = splitPrefix(checkedPrefix(cidr));
  const isV4 = ipFamily(address) === 4;
  if (length > (isV4 ? 16 : 48)) {
    throw new LabError(
      'topology',
      `cannot use podCidrs ${cidr}: expected /${isV4 ? 16 : 48} or wider, so that every node has a part`,
    );
  }
  const bytes = ipToBytes(address);
  bytes[isV4 ? 2 : 7] = index;
  return makePrefix(ipFromBytes(bytes), isV4 ? 24 : 64);
}

function clusterIps(cluster: ClusterTopology, offset: number): IpAddress[] {
  return cluster.serviceCidrs.map((cidr) => {
    const bytes = ipToBytes(splitPrefix(checkedPrefix(cidr)).address);
    bytes[bytes.length - 1] = offset;
    return ipFromBytes(bytes);
  });
}

function checkedPrefix(cidr: string): IpPrefix {
  try {
    return parseIpPrefix(cidr);
  } catch (cause) {
    throw new LabError(
      'topology',
      `cannot use CIDR ${JSON.stringify(cidr)}: expected such as 10.1.0.0/16`,
      {
        cause,
      },
    );
  }
}
