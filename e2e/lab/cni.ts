/** A small CNI runtime: the chain of plugins for a pod, each given the result of the one before, and undone backwards. */
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { execute } from './command.ts';
import { LabError } from './lab-error.ts';
import { type NodePlan, POD_MTU, type PodPlan } from './plan.ts';

/** Where the distribution puts the plugins that chains begin with. */
export const DISTRIBUTION_PLUGINS = '/usr/lib/cni';

const CNI_VERSION = '1.0.0';
const NETWORK_NAME = 'isthmus-lab';
const POD_INTERFACE = 'eth0';

/** The part of a CNI result that a runtime reads. */
const resultSchema = z.looseObject({
  cniVersion: z.string(),
  ips: z.array(z.looseObject({ address: z.string() })).min(1),
});
export type CniResult = z.infer<typeof resultSchema>;

const errorSchema = z.looseObject({
  code: z.number(),
  msg: z.string(),
  details: z.string().default(''),
});

type PluginConfig = { readonly type: string; readonly [field: string]: unknown };

/** Options of every call. */
export interface CniOptions {
  /** Folder with clustermesh-cni. */
  readonly pluginFolder: string;
  readonly signal?: AbortSignal | undefined;
}

/** Gives a pod its interface. Undoes what was done when a plugin refuses, and throws LabError `cni`. */
export async function addPodInterface(
  pod: PodPlan,
  node: NodePlan,
  options: CniOptions,
): Promise<{ readonly ips: readonly IpAddress[]; readonly result: CniResult }> {
  let previous: unknown;
  for (const plugin of pluginChain(node, pod)) {
    try {
      previous = await callPlugin('ADD', plugin, { ...options, pod, node, previous });
    } catch (error) {
      await deletePodInterface(pod, node, options);
      throw error;
    }
  }
  const result = resultSchema.parse(previous);
  await mkdir(resultFolder(node), { recursive: true, mode: 0o700 });
  await writeFile(resultFile(node, pod), JSON.stringify(result));
  const ips = result.ips.map(({ address }) => parseIpAddress(address.split('/')[0]));
  return { ips, result };
}

/** Asks every plugin whether the pod is still as it was made. Throws LabError `cni`. */
export async function checkPodInterface(
  pod: PodPlan,
  node: NodePlan,
  options: CniOptions,
): Promise<void> {
  const previous = await readResult(node, pod);
  for (const plugin of pluginChain(node, pod)) {
    await callPlugin('CHECK', plugin, { ...options, pod, node, previous });
  }
}

/** Takes the interface away, last plugin first. All are called even when one fails; then the first failure is thrown. */
export async function deletePodInterface(
  pod: PodPlan,
  node: NodePlan,
  options: CniOptions,
): Promise<void> {
  const previous = await readResult(node, pod);
  const failures: unknown[] = [];
  for (const plugin of pluginChain(node, pod).reverse()) {
    try {
      await callPlugin('DEL', plugin, { ...options, pod, node, previous });
    } catch (error) {
      failures.push(error);
    }
  }
  await rm(resultFile(node, pod), { force: true });
  if (failures.length > 0) throw failures[0];
}

/** The network of a node as a container runtime would find it in /etc/cni/net.d, with what the runtime adds for a pod. */
export function pluginChain(
  node: NodePlan,
  pod: Pick<PodPlan, 'chained' | 'ports'>,
): PluginConfig[] {
  const { plugin, iptables, agentDown, agentDownTimeout } = node.cni;
  const portMappings = pod.ports.flatMap(({ port, hostPort, protocol }) =>
    hostPort === undefined
      ? []
      : [{ hostPort, containerPort: port, protocol: protocol.toLowerCase() }],
  );
  return [
    {
      type: plugin,
      // Of the bridge alone: the node is the pods' gateway.
      ...(plugin === 'bridge' ? { bridge: 'cni0', isGateway: true } : {}),
      ipMasq: iptables,
      mtu: POD_MTU,
      ipam: {
        type: 'host-local',
        dataDir: join(node.folder, 'cni', 'ipam'),
        ranges: node.podCidrs.map((subnet) => [{ subnet }]),
        routes: node.podCidrs.map((cidr) => ({ dst: cidr.includes(':') ? '::/0' : '0.0.0.0/0' })),
      },
    },
    ...(iptables
      ? [
          {
            type: 'portmap',
            capabilities: { portMappings: true },
            runtimeConfig: { portMappings },
          },
        ]
      : []),
    ...(pod.chained
      ? [
          {
            type: 'clustermesh-cni',
            socketPath: node.socketPath,
            agentDown,
            agentDownTimeout,
          },
        ]
      : []),
  ];
}

async function callPlugin(
  command: 'ADD' | 'DEL' | 'CHECK',
  plugin: PluginConfig,
  call: CniOptions & { pod: PodPlan; node: NodePlan; previous: unknown },
): Promise<unknown> {
  const { pod, node, previous } = call;
  const config = {
    cniVersion: CNI_VERSION,
    name: NETWORK_NAME,
    ...plugin,
    ...(previous === undefined ? {} : { prevResult: previous }),
  };
  const isOurs = plugin.type === 'clustermesh-cni';
  const program = join(isOurs ? call.pluginFolder : DISTRIBUTION_PLUGINS, plugin.type);
  const result = await execute([program], {
    netns: node.namespace,
    cgroup: join(node.cgroup, 'system'),
    input: JSON.stringify(config),
    signal: call.signal,
    env: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: pod.name,
      CNI_NETNS: `/run/netns/${pod.netns}`,
      CNI_IFNAME: POD_INTERFACE,
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=${pod.namespace};K8S_POD_NAME=${pod.name}`,
      CNI_PATH: `${DISTRIBUTION_PLUGINS}:${call.pluginFolder}`,
    },
  });
  if (result.code !== 0) {
    throw new LabError(
      'cni',
      `${plugin.type} refused ${command} of pod ${pod.name}: ${reasonOf(result)}`,
    );
  }
  return result.stdout.trim() === '' ? undefined : JSON.parse(result.stdout);
}

function reasonOf(result: { code: number; stdout: string; stderr: string }): string {
  try {
    const { msg, details, code } = errorSchema.parse(JSON.parse(result.stdout));
    return `${msg}${details === '' ? '' : ` (${details})`}, CNI code ${code}`;
  } catch {
    // No CNI error: the plugin crashed or was not found.
    return `exit code ${result.code}: ${(result.stderr.trim() || result.stdout.trim()).replaceAll('\n', '; ')}`;
  }
}

async function readResult(node: NodePlan, pod: PodPlan): Promise<unknown> {
  try {
    return JSON.parse(await readFile(resultFile(node, pod), 'utf8'));
  } catch (error) {
    // DEL after a failed ADD: there is no result, and plugins must cope.
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

function resultFolder(node: NodePlan): string {
  return join(node.folder, 'cni', 'results');
}

function resultFile(node: NodePlan, pod: PodPlan): string {
  return join(resultFolder(node), `${pod.name}.json`);
}
