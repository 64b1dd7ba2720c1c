/** The underlay: a bridge in a namespace of its own, and a veth from it to each node and machine. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import { ipBatch, run } from './command.ts';
import type { LabPlan, NodePlan } from './plan.ts';

/** Who stands on the underlay: a network namespace with an `eth0`. */
export interface UnderlayHost {
  readonly netns: string;
  /** Interface on the fabric's side, such as `n1`. */
  readonly port: string;
  readonly addresses: readonly IpAddress[];
}

/**
 * Makes the fabric and the namespaces of nodes and machines. Interfaces on the fabric's side are `n<number>` and `m<number>`,
 * on the other side `eth0`: all are alone in their namespace, so names stay short whatever the lab is called.
 */
export async function makeNetwork(plan: LabPlan, signal: AbortSignal | undefined): Promise<void> {
  const hosts = [...plan.nodes.map(hostOfNode), ...plan.machines];
  await ipBatch([plan.fabric, ...hosts.map(({ netns }) => netns)].map(addNamespace), { signal });
  await ipBatch(
    [
      'link add br0 type bridge',
      'link set br0 up',
      'link set lo up',
      ...hosts.flatMap(({ port, netns }) => connectToFabric(port, netns)),
    ],
    { netns: plan.fabric, signal },
  );
  for (const { namespace } of plan.nodes) {
    await run(['sysctl', '-q', '-w', ...NODE_SYSCTLS], { netns: namespace, signal });
  }
  for (const { netns } of plan.machines) {
    await run(['sysctl', '-q', '-w', ...NO_WAITING], { netns, signal });
  }
  for (const host of hosts) await configureHost(host, signal);
}

/** Puts one more host on the fabric of a lab that runs. Its namespace goes with the lab. */
export async function addUnderlayHost(
  plan: LabPlan,
  host: UnderlayHost,
  signal: AbortSignal | undefined,
): Promise<void> {
  await ipBatch([addNamespace(host.netns)], { signal });
  await ipBatch(connectToFabric(host.port, host.netns), { netns: plan.fabric, signal });
  await run(['sysctl', '-q', '-w', ...NO_WAITING], { netns: host.netns, signal });
  await configureHost(host, signal);
}

/** Gives a host other addresses on the underlay, in place of those it had. */
export async function renumberHost(
  netns: string,
  addresses: readonly IpAddress[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const flush = ['address flush dev eth0 scope global'];
  await ipBatch([...flush, ...addresses.map(addAddress)], { netns, signal });
}

function hostOfNode(node: NodePlan): UnderlayHost {
  return { netns: node.namespace, port: `n${node.number}`, addresses: node.addresses };
}

function connectToFabric(port: string, netns: string): string[] {
  return [
    `link add ${port} type veth peer name eth0 netns ${netns}`,
    `link set ${port} master br0 up`,
  ];
}

async function configureHost(
  { netns, addresses }: UnderlayHost,
  signal: AbortSignal | undefined,
): Promise<void> {
  const lines = ['link set lo up', ...addresses.map(addAddress), 'link set eth0 up'];
  await ipBatch(lines, { netns, signal });
}

function addAddress(address: IpAddress): string {
  const network = ipFamily(address) === 4 ? `${address}/16` : `${address}/64 nodad`;
  return `address add ${network} dev eth0`;
}

/** Makes an empty namespace for a pod, as a container runtime does. */
export async function makePodNamespace(
  netns: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  await ipBatch([addNamespace(netns)], { signal });
  // Addresses are unique by allocation: waiting seconds for duplicates would only slow the pod down.
  await run(['sysctl', '-q', '-w', 'net.ipv6.conf.default.accept_dad=0'], { netns, signal });
  await ipBatch(['link set lo up'], { netns, signal });
}

function addNamespace(name: string): string {
  return `netns add ${name}`;
}

/** Addresses are unique by plan: nobody waits for duplicates. */
const NO_WAITING = ['net.ipv6.conf.all.accept_dad=0', 'net.ipv6.conf.default.accept_dad=0'];

/** A node routes for its pods. */
const NODE_SYSCTLS = [
  ...NO_WAITING,
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv6.conf.default.forwarding=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
];
