/** The parts of an apiserver as they are started, and what they say of themselves. */
import type { KvStatistics } from '../mesh/kvstore/measured-store.ts';
import type { LagBook } from '../mesh/remote/lag.ts';
import type { ClusterId, ClusterName } from '../mesh/wire/ids.ts';
import type { KubernetesProgress } from './cluster-source.ts';
import type { Controllers } from './controllers/run.ts';
import type { EmbeddedEtcd } from './etcd/embedded-etcd.ts';
import type { Gate } from './gate/gate.ts';
import type { Kvstoremesh } from './kvstoremesh/kvstoremesh.ts';
import type { OpenedPeering } from './open-peering.ts';
import type { PublisherStatus } from './publish/publisher.ts';
import type { PublishedCluster } from './publish-cluster.ts';
import type { AgentBoard } from './registry/agent-board.ts';
import type { EnrollmentOffice } from './registry/enrollment-office.ts';
import type { MachineBook } from './registry/machine-book.ts';
import type { NodeBook } from './registry/node-book.ts';
import type { PolicyBoard } from './registry/policy-board.ts';
import type { Registry } from './registry/registry.ts';

/** What has been started so far, for the health endpoint. */
export interface Parts {
  etcd?: EmbeddedEtcd;
  published?: PublishedCluster;
  kubernetes?: () => KubernetesProgress;
  controllers?: Controllers;
  gate?: Gate;
  book?: NodeBook;
  machines?: MachineBook;
  /** All that is kept of machines was read. */
  areMachinesLoaded?: boolean;
  enrollment?: EnrollmentOffice;
  policies?: PolicyBoard;
  agents?: AgentBoard;
  registry?: Registry;
  mirror?: Kvstoremesh;
  peering?: OpenedPeering;
  /** Machines whose labels their MeshMachine decides, as `namespace/name`. */
  readonly labelledMachines: Set<string>;
  readonly lag: LagBook;
  readonly kvStatistics: KvStatistics;
}

/** How far publishing has come, and what to look at. */
function publishing(status: PublisherStatus | undefined): string {
  if (status === undefined) return 'etcd is being waited for; look at --etcd-endpoints, or the log';
  const error =
    status.lastError === undefined ? '' : `, the latest write failed: ${status.lastError}`;
  return `${status.pending} keys are to be written${error}; /status says more`;
}

/** What a reader would still miss. */
export function missingParts(parts: Parts): string[] {
  const missing: string[] = [];
  const { etcd, published, gate, registry } = parts;
  if (etcd?.state.kind === 'restarting') {
    missing.push(`etcd is being started again, its last words: ${etcd.state.lastLine}`);
  }
  const status = published?.publisher.status;
  if (status?.ready !== true) {
    missing.push(`not everything is published: ${publishing(status)}`);
    missing.push(...notRead(parts));
  }
  if (gate === undefined) missing.push('the gate is not open: it opens when all is published');
  if (registry === undefined) missing.push('the registry is not open: it opens after the gate');
  if (parts.mirror !== undefined) missing.push(...parts.mirror.missing);
  return missing;
}

/** What of the API server keeps it from being published. */
function notRead({ published, kubernetes }: Parts): readonly string[] {
  if (published !== undefined) return published.missing;
  const progress = kubernetes?.();
  if (progress?.kind !== 'asking') return [];
  return [
    `the API server ${progress.server} is asked which mode this cluster is: ${progress.reason}`,
  ];
}

/** Everything there is to say about an apiserver, for `/status`. */
export function describeParts(
  cluster: { readonly name: ClusterName; readonly id: ClusterId },
  parts: Parts,
): unknown {
  return {
    cluster,
    missing: missingParts(parts),
    etcd: parts.etcd?.state,
    etcdUpkeep: parts.etcd?.maintenance,
    published: parts.published?.publisher.status,
    problems: parts.published?.problems,
    kubernetes: parts.kubernetes?.(),
    controllers: parts.controllers?.status,
    gate:
      parts.gate === undefined ? undefined : { address: parts.gate.address, ...parts.gate.status },
    registry: parts.registry?.address,
    enrollment: parts.enrollment?.status,
    nodes: parts.book?.report,
    machines: parts.machines?.report.map(({ record, state, forMs, problems }) => ({
      machine: record.name,
      state,
      forMs,
      addresses: record.addresses,
      problems,
    })),
    policies: parts.policies?.report,
    kvstoremesh: parts.mirror?.describe(),
    peering: parts.peering?.views.map(({ name, source, conditions }) => ({
      name,
      source,
      conditions,
    })),
  };
}
