/** The clustermesh-agent of a node. */

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { callAgent, fetchStatus } from '../../agent/api/client.ts';
import type { AgentStatus } from '../../agent/api/status.ts';
import { secretFiles } from '../../pki/layout.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { ENROLLMENT_PORT, REGISTRY_PORT } from './apiserver.ts';
import { ownConfigFile, peersFolder, pkiFolder, tokenFile } from './certificates.ts';
import { createDaemon, type Daemon } from './daemon.ts';
import { LabError } from './lab-error.ts';
import type { ClusterPlan, NodePlan } from './plan.ts';
import { OBJECT_FOLDER } from './preflight.ts';
import { waitFor } from './wait-for.ts';

/** A counter of the datapath, as the agent's socket tells it. */
export interface CounterReport {
  readonly reason: string;
  readonly direction: 'ingress' | 'egress';
  readonly packets: number;
  readonly bytes: number;
}

/** A running agent, and what can be asked of it. */
export interface LabAgent extends Daemon {
  status(): Promise<AgentStatus>;
  /** The datapath's counters. */
  metrics(): Promise<CounterReport[]>;
  /** Packets counted under a reason, both directions. */
  count(reason: string): Promise<number>;
  /** Rows of a kernel map, as the agent reads them from it. */
  map(name: 'ipcache' | 'endpoints' | 'policy' | 'services'): Promise<Record<string, unknown>[]>;
}

const MAIN = fileURLToPath(new URL('../../agent/main.js', import.meta.url));

/** Where an agent runs, and as what. */
export interface AgentPlace {
  /** Name of its node or machine. */
  readonly name: string;
  readonly argv: readonly string[];
  readonly netns: string;
  readonly cgroup: string;
  readonly log: string;
  readonly socketPath: string;
}

/** Puts the agent of a node together. */
export function createAgent(
  cluster: ClusterPlan,
  node: NodePlan,
  options: {
    readonly persistent: boolean;
    /** Further flags of the agent. */
    readonly flags?: readonly string[] | undefined;
    /** Runs it in place of the lab's own command line. */
    readonly command?: readonly string[] | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): LabAgent {
  const place: AgentPlace = {
    name: node.name,
    argv: options.command ?? [
      ...[process.execPath, MAIN, 'run'],
      ...[...flags(cluster, node), ...(options.flags ?? [])],
    ],
    netns: node.namespace,
    cgroup: join(node.cgroup, 'agent'),
    log: join(node.folder, 'agent.log'),
    socketPath: node.socketPath,
  };
  return placeAgent(place, options);
}

/** Puts an agent together whose command is known. */
export function placeAgent(
  place: AgentPlace,
  options: { readonly persistent: boolean; readonly signal?: AbortSignal | undefined },
): LabAgent {
  const { name, socketPath } = place;
  const ask = async (path: string): Promise<unknown> => {
    const { status, body } = await callAgent(socketPath, { path });
    if (status !== 200) {
      throw new LabError(
        'command',
        `agent of ${name} answered ${status} to ${path}: ${body.trim()}`,
      );
    }
    return JSON.parse(body);
  };
  const daemon = createDaemon({
    ...place,
    title: `agent of ${name}`,
    persistent: options.persistent,
    signal: options.signal,
    ready: (signal) =>
      waitFor(
        `the agent of ${name} to answer on ${socketPath}`,
        async () => (await callAgent(socketPath, { path: '/v1/status' })).status === 200,
        { signal },
      ),
  });
  const metrics = async (): Promise<CounterReport[]> =>
    ((await ask('/v1/metrics')) as { counters: CounterReport[] }).counters;
  return {
    ...daemon,
    status: () => fetchStatus(socketPath),
    metrics,
    count: async (reason) =>
      (await metrics())
        .filter((counter) => counter.reason === reason)
        .reduce((sum, counter) => sum + Number(counter.packets), 0),
    map: async (map) =>
      ((await ask(`/v1/maps/${map}`)) as { rows: Record<string, unknown>[] }).rows,
  };
}

function flags(cluster: ClusterPlan, node: NodePlan): string[] {
  return [
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--node-name=${node.name}`,
    ...node.addresses.map((address) => `--node-ip=${address}`),
    ...clusterFlags(cluster, node),
    `--bpf-root=${node.bpfRoot}`,
    `--cgroup-root=${node.cgroup}`,
    `--state-dir=${join(node.folder, 'agent-state')}`,
    `--socket-path=${node.socketPath}`,
    `--object-dir=${OBJECT_FOLDER}`,
  ];
}

/** How it comes to its own cluster and its peers. */
function clusterFlags(cluster: ClusterPlan, node: NodePlan): string[] {
  const [address] = cluster.first.addresses;
  if (cluster.nodesEnroll) {
    return [
      `--enrollment-address=${address}:${ENROLLMENT_PORT}`,
      `--enrollment-token-file=${tokenFile(node)}`,
      `--enrollment-trusted-ca-file=${secretFiles(pkiFolder(cluster), SECRET_NAMES.server).ca}`,
    ];
  }
  return [
    `--etcd-config=${ownConfigFile(node)}`,
    `--clustermesh-config=${peersFolder(node)}`,
    `--registry-address=${address}:${REGISTRY_PORT}`,
  ];
}
