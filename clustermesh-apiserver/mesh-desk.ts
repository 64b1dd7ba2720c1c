/** What administrators ask an apiserver of the whole mesh, and what agents tell it for that. */
import { z } from 'zod';
import { viewMesh } from '../mesh/diagnosis/mesh-view.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import { packageVersion } from '../mesh/runtime/package-version.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import { encodeMeshStatus } from '../mesh/wire/mesh-status.ts';
import type { Parts } from './apiserver-parts.ts';
import type { TrustFiles } from './gate/trust.ts';
import { openUpstream, type UpstreamOptions } from './gate/upstream.ts';
import { type MeshReportSources, reportMesh } from './mesh-report.ts';
import type { AdminMethod } from './registry/admin.ts';
import { type AgentBoard, createAgentBoard } from './registry/agent-board.ts';
import { troubleshootMethod } from './troubleshoot.ts';

const emptySchema = z.object({});

/** Options of `openMeshDesk`. */
export interface MeshDeskOptions {
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly replica: string;
  readonly parts: Parts;
  readonly store: KvStore;
  readonly upstream: UpstreamOptions;
  readonly files: TrustFiles;
  /** Whether what an agent said here still counts. */
  readonly isHere: (subject: string) => boolean;
  readonly maxConnectedClusters: MaxConnectedClusters;
  /** How peers are mirrored here; undefined: they are not. */
  readonly kvstoremesh?: { readonly directory: string } | undefined;
  /** Folder of the peers' files, which others than a mirror read, too. Default: that of the mirror. */
  readonly clustermeshConfig?: string | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The desk. Disposing closes its connection to etcd. */
export interface MeshDesk extends AsyncDisposable {
  readonly agents: AgentBoard;
  /** Methods of the service Admin. */
  readonly methods: Readonly<Record<'GetMeshStatus' | 'Troubleshoot', AdminMethod>>;
  /** Uses other certificates towards etcd from now on. */
  readonly renewTls: (tls: EtcdTls) => void;
}

/** Opens it; the board of agents is still to be run. */
export function openMeshDesk(options: MeshDeskOptions): MeshDesk {
  const { parts, store, isHere, clock, logger } = options;
  const upstream = openUpstream(options.upstream);
  const agents = createAgentBoard({ store, isHere, clock, logger });
  const sources: MeshReportSources = { ...options, upstream, version: packageVersion() };
  parts.agents = agents;
  return {
    agents,
    methods: {
      async GetMeshStatus(request, { signal }) {
        emptySchema.parse(request);
        return { json: encodeMeshStatus(await reportMesh(sources, signal)) };
      },
      Troubleshoot: troubleshootMethod({
        own: { ...options.cluster, max: options.maxConnectedClusters },
        parts,
        directory: options.clustermeshConfig ?? options.kvstoremesh?.directory,
        mesh: async (signal) => viewMesh(await reportMesh(sources, signal)),
        clock,
      }),
    },
    renewTls: (tls) => upstream.renewTls(tls),
    [Symbol.asyncDispose]: () => upstream[Symbol.asyncDispose](),
  };
}
