/** The underlay: a bridge in a namespace of its own, and a veth from it to each node. */
import { ipBatch, run } from './command.ts';
import type { LabPlan, NodePlan } from './plan.ts';

/**
 * Makes the fabric and the nodes' namespaces. Interfaces on the fabric's side are `n<number>`, on a node's side `eth0`: both
 * are alone in their namespace, so names stay short whatever the lab is called.
 */
export async function makeNetwork(plan: LabPlan, signal: AbortSignal | undefined): Promise<void> {
  await ipBatch([plan.fabric, ...plan.nodes.map((node) => node.namespace)].map(addNamespace), {
    signal,
  });
  await ipBatch(
    [
      'link add br0 type bridge',
      'link set br0 up',
      'link set lo up',
      ...plan.nodes.flatMap((node) => [
        `link add n${node.number} type veth peer name eth0 netns ${node.namespace}`,
        `link set n${node.number} master br0 up`,
      ]),
    ],
    { netns: plan.fabric, signal },
  );
  for (const node of plan.nodes) await configureNode(node, signal);
}

async function configureNode(node: NodePlan, signal: AbortSignal | undefined): Promise<void> {
  const [v4, v6] = node.addresses;
  await run(['sysctl', '-q', '-w', ...NODE_SYSCTLS], { netns: node.namespace, signal });
  await ipBatch(
    [
      'link set lo up',
      `address add ${v4}/16 dev eth0`,
      `address add ${v6}/64 dev eth0 nodad`,
      'link set eth0 up',
    ],
    { netns: node.namespace, signal },
  );
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

/** A node routes for its pods, and takes no part in address checks that wait. */
const NODE_SYSCTLS = [
  'net.ipv4.ip_forward=1',
  'net.ipv6.conf.all.forwarding=1',
  'net.ipv6.conf.default.forwarding=1',
  'net.ipv6.conf.all.accept_dad=0',
  'net.ipv6.conf.default.accept_dad=0',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
];
