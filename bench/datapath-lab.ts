/** Two clusters of a node each, with pods of the mesh and, between the same nodes, pods of the kernel's own VXLAN. */
import { closeSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openPinned, pinnedProgramId, programStatistics } from '../agent/datapath/bpf.ts';
import { execute, ipBatch, placed, run } from '../e2e/lab/command.ts';
import type { Lab } from '../e2e/lab/lab.ts';
import { POD_MTU } from '../e2e/lab/plan.ts';
import { parseTopologyText } from '../e2e/lab/topology.ts';
import { waitFor } from '../e2e/lab/wait-for.ts';
import { openMesh } from '../e2e/scenarios/mesh.ts';
import { clientOf, type Load, type LoadReport, NETLOAD, reportOf } from './netload.ts';

/** By which way a client reaches its server: the mesh, the mesh with a policy at the server, the kernel's VXLAN. */
export type Way = 'mesh' | 'guarded' | 'kernel';

/** What a program did while something was measured. */
export interface ProgramTime {
  readonly program: string;
  readonly node: string;
  readonly runs: number;
  readonly nanoseconds: number;
}

/** A lab with servers that listen. */
export interface DatapathLab extends AsyncDisposable {
  target(way: Way, family: 4 | 6): string;
  measure(way: Way, load: Load): Promise<LoadReport>;
  /** What each attached program of both nodes did during one measurement. */
  programTimes(way: Way, load: Load): Promise<readonly ProgramTime[]>;
}

const PORT = 7000;
const STATISTICS = '/proc/sys/kernel/bpf_stats_enabled';

const TOPOLOGY = `
clusters:
  - {name: alpha, id: 1, podCidrs: [10.1.0.0/16, "fd00:10:1::/48"], serviceCidrs: [10.101.0.0/16, "fd00:101::/112"], nodes: [alpha-1]}
  - {name: beta, id: 2, podCidrs: [10.2.0.0/16, "fd00:10:2::/48"], serviceCidrs: [10.102.0.0/16, "fd00:102::/112"], nodes: [beta-1]}
pods:
  - {name: client, node: alpha-1, namespace: bench, labels: {app: client}}
  - {name: plain, node: beta-1, namespace: bench, labels: {app: plain}}
  - {name: guarded, node: beta-1, namespace: bench, labels: {app: guarded}}
manifests:
  - cluster: beta
    object:
      apiVersion: cilium.io/v2
      kind: CiliumNetworkPolicy
      metadata: {name: guarded, namespace: bench}
      spec:
        endpointSelector: {matchLabels: {app: guarded}}
        ingress:
          - fromEndpoints: [{matchLabels: {app: client, io.cilium.k8s.policy.cluster: alpha}}]
            toPorts: [{ports: [{port: "${PORT}", protocol: TCP}, {port: "${PORT}", protocol: UDP}]}]
`;

const SERVER_OF = { mesh: 'plain', guarded: 'guarded' } as const;

/** Builds it. `offloads` false: segmentation offloads are off on every interface of both ways. */
export async function openDatapathLab(options: {
  readonly offloads: boolean;
  readonly signal: AbortSignal;
}): Promise<DatapathLab> {
  const { signal } = options;
  const lab = await openMesh(parseTopologyText(TOPOLOGY, 'bench/datapath-lab.ts'), { signal });
  const kernel = await kernelPods(lab, signal).catch(async (error: unknown) => {
    await lab[Symbol.asyncDispose]();
    throw error;
  });
  const dispose = async (): Promise<void> => {
    await kernel[Symbol.asyncDispose]();
    await lab[Symbol.asyncDispose]();
  };
  try {
    if (!options.offloads) await turnOffloadsOff(lab, kernel.namespaces);
    for (const pod of Object.values(SERVER_OF)) lab.spawn(pod, [NETLOAD, 'serve', String(PORT)]);
    const opened = labOf(lab, { kernel, signal, dispose });
    // A program that was started does not listen yet.
    for (const way of ['mesh', 'guarded', 'kernel'] as const) {
      for (const family of [4, 6] as const) {
        const load: Load = {
          kind: 'rr',
          target: opened.target(way, family),
          port: PORT,
          seconds: 0.1,
          threads: 1,
        };
        await waitFor(`the server of ${way} to answer over IPv${family}`, () =>
          opened.measure(way, load),
        );
      }
    }
    return opened;
  } catch (error) {
    await dispose();
    throw error;
  }
}

function labOf(
  lab: Lab,
  parts: { kernel: KernelPods; signal: AbortSignal; dispose: () => Promise<void> },
): DatapathLab {
  const { kernel, signal, dispose } = parts;
  const measure = async (way: Way, load: Load): Promise<LoadReport> => {
    const timeoutMs = load.seconds * 1000 + 20_000;
    const argv = clientOf(load);
    const result =
      way === 'kernel'
        ? await execute(argv, { netns: kernel.client, signal, timeoutMs })
        : await lab.exec('client', argv, { timeoutMs });
    return reportOf(load, result);
  };
  return {
    target: (way, family) =>
      way === 'kernel' ? kernel.server[family] : lab.pod(SERVER_OF[way]).ip(family),
    measure,
    async programTimes(way, load) {
      const before = readFileSync(STATISTICS, 'utf8');
      writeFileSync(STATISTICS, '1');
      try {
        const start = statisticsOf(lab);
        await measure(way, load);
        return statisticsOf(lab).map((end, index) => ({
          ...end,
          runs: end.runs - (start[index]?.runs ?? 0),
          nanoseconds: end.nanoseconds - (start[index]?.nanoseconds ?? 0),
        }));
      } finally {
        writeFileSync(STATISTICS, before);
      }
    },
    [Symbol.asyncDispose]: dispose,
  };
}

/** Of every attached program, in the order of their pins. */
function statisticsOf(lab: Lab): ProgramTime[] {
  return lab.plan.nodes.flatMap(({ name: node, bpfRoot }) => {
    const links = join(bpfRoot, 'isthmus', 'links');
    return readdirSync(links)
      .sort()
      .map((pin) => {
        const fd = openPinned(join(links, pin));
        if (fd === undefined) throw new Error(`link ${pin} of ${node} went meanwhile`);
        try {
          return { program: pin, node, ...programStatistics(pinnedProgramId(fd)) };
        } finally {
          closeSync(fd);
        }
      });
  });
}

/** Pods that know nothing of the mesh, on the same nodes. */
interface KernelPods extends AsyncDisposable {
  readonly client: string;
  readonly namespaces: readonly string[];
  readonly server: { readonly 4: string; readonly 6: string };
}

/** A routed VXLAN between two nodes, as a plain overlay network has it; connection tracking is on, as the mesh's is. */
async function kernelPods(lab: Lab, signal: AbortSignal): Promise<KernelPods> {
  const [near, far] = lab.plan.nodes;
  if (near === undefined || far === undefined) throw new Error('the lab has fewer than two nodes');
  const namespaces = [`${lab.name}-plain-a`, `${lab.name}-plain-b`] as const;
  const dispose = async (): Promise<void> => {
    for (const name of namespaces) await execute(['ip', 'netns', 'delete', name]);
  };
  try {
    for (const [side, own, other] of [
      [1, near, far],
      [2, far, near],
    ] as const) {
      const pod = namespaces[side - 1] ?? '';
      const opposite = 3 - side;
      await run(['ip', 'netns', 'add', pod]);
      await ipBatch(
        [
          `link add plain type vxlan id 77 dstport 4790 local ${own.addresses[0]} remote ${other.addresses[0]} nolearning`,
          `link set dev plain mtu ${POD_MTU} up`,
          `address add 10.254.0.${side}/24 dev plain`,
          `address add fd00:254::${side}/64 dev plain nodad`,
          `link add name podplain mtu ${POD_MTU} type veth peer name eth0 mtu ${POD_MTU} netns ${pod}`,
          'link set dev podplain up',
          `address add 10.25${side}.0.1/24 dev podplain`,
          `address add fd00:25${side}::1/64 dev podplain nodad`,
          `route add 10.25${opposite}.0.0/24 via 10.254.0.${opposite} dev plain`,
          `route add fd00:25${opposite}::/64 via fd00:254::${opposite} dev plain`,
        ],
        { netns: own.namespace, signal },
      );
      await ipBatch(
        [
          'link set dev lo up',
          `address add 10.25${side}.0.2/24 dev eth0`,
          `address add fd00:25${side}::2/64 dev eth0 nodad`,
          'link set dev eth0 up',
          `route add default via 10.25${side}.0.1`,
          `route add default via fd00:25${side}::1`,
        ],
        { netns: pod, signal },
      );
      await trackConnections(own.namespace, signal);
    }
    const server = placed([NETLOAD, 'serve', String(PORT)], { netns: namespaces[1] });
    // It ends with its namespace: its sockets' last user is this process's child.
    const serving = execute(server, { signal, timeoutMs: 24 * 3600 * 1000 }).catch(() => undefined);
    return {
      client: namespaces[0],
      namespaces,
      server: { 4: '10.252.0.2', 6: 'fd00:252::2' },
      async [Symbol.asyncDispose]() {
        const pids = (await run(['ip', 'netns', 'pids', namespaces[1]]))
          .split('\n')
          .filter(Boolean);
        for (const pid of pids) process.kill(Number(pid), 'SIGKILL');
        await serving;
        await dispose();
      },
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** Forwarding with connection tracking, as every node of a cluster has it. */
async function trackConnections(netns: string, signal: AbortSignal): Promise<void> {
  for (const key of ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding']) {
    await run(['sysctl', '-qw', `${key}=1`], { netns, signal });
  }
  for (const program of ['iptables-legacy', 'ip6tables-legacy']) {
    const rule = ['FORWARD', '-m', 'conntrack', '--ctstate', 'ESTABLISHED', '-j', 'ACCEPT'];
    await run([program, '-A', ...rule], { netns, signal });
  }
}

async function turnOffloadsOff(lab: Lab, others: readonly string[]): Promise<void> {
  const namespaces = [...lab.plan.nodes.map(({ namespace }) => namespace), ...others];
  for (const netns of [...namespaces, ...lab.plan.pods.map((pod) => pod.netns)]) {
    const links = await run(['ip', '-o', 'link', 'show'], { netns });
    for (const name of links.matchAll(/^\d+: ([^:@]+)/gm)) {
      if (name[1] === undefined || name[1] === 'lo') continue;
      // What a device has no offload of is no failure.
      await execute(['ethtool', '-K', name[1], 'gso', 'off', 'tso', 'off', 'gro', 'off'], {
        netns,
      });
    }
  }
}
