/** What other clusters offer, for controllers: their global services and exports, read as agents and mirrors read them. */
import { createAnnounced } from '../../mesh/remote/announced.ts';
import type { ClusterRef, ClusterSink, MeshKind } from '../../mesh/remote/cluster-sink.ts';
import type { KnownPeers } from '../../mesh/remote/known-peers.ts';
import { createMesh } from '../../mesh/remote/mesh.ts';
import type { PeerConnection } from '../../mesh/remote/peer.ts';
import type { PeerState } from '../../mesh/remote/peer-state.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';
import type { ServiceExport } from '../../mesh/wire/service-export.ts';
import { createRemoteRanges, type OwnRanges } from './remote-ranges.ts';
import { createRemoteTable, type RemoteTable } from './remote-table.ts';

/** What is read from peers for controllers. */
export type RemoteKind = 'services' | 'serviceexports';

/** Nodes are read for the ranges of addresses that they show to be a cluster's own. */
const READ_KINDS: readonly MeshKind[] = ['nodes', 'services', 'serviceexports'];
/** Ranges that change hands are told of together. */
const RANGES_SETTLE_MS = 1_000;

/** A peer as far as controllers read it. */
export interface RemoteCluster {
  readonly name: ClusterName;
  readonly state: PeerState;
  /** Kinds of which everything was read at least once; what is missing in them is gone. A lost connection changes nothing. */
  readonly synced: readonly RemoteKind[];
  readonly services: number;
  readonly exports: number;
  /** Exports that cannot be read, by `namespace/name`, and why: the last good one stays. */
  readonly refused: ReadonlyMap<string, string>;
}

/** Something of a cluster changed: one service by its `namespace/name`, or, without one, anything at all. */
export interface RemoteChange {
  readonly cluster: ClusterName;
  readonly kind: RemoteKind;
  readonly key: string | undefined;
}

/** What other clusters offer. */
export interface RemoteServices {
  /** Reads the peers until `signal` aborts; ending takes nothing back. To be called once. */
  run(signal: AbortSignal): Promise<void>;
  /** Names of the configured peers; undefined: the directory was not read yet, so nobody may be taken for removed. */
  readonly names: ReadonlySet<ClusterName> | undefined;
  /** Whether everything of that kind was read from a peer, so that what is not there is gone. */
  isSynced(cluster: ClusterName, kind: RemoteKind): boolean;
  /** Services of one `namespace/name` that are shared, by cluster; without backends at addresses that are not that cluster's. */
  services(key: string): ReadonlyMap<ClusterName, ClusterService>;
  /** Exports of one `namespace/name`, by cluster. */
  exports(key: string): ReadonlyMap<ClusterName, ServiceExport>;
  /** Every `namespace/name` of which some cluster has one. */
  keys(kind: RemoteKind): Iterable<string>;
  /** Whether a peer takes part in exports: false from its configuration, undefined before that was read. */
  exportsEnabled(cluster: ClusterName): boolean | undefined;
  /** Tells which addresses are this cluster's own: no peer's backends are at them. */
  setOwnRanges(ranges: OwnRanges): void;
  /** Why backends of a peer's service are left out, by address. */
  refusedBackends(cluster: ClusterName, key: string): ReadonlyMap<string, string>;
  /** Calls back after each change, until the returned function is called. Callbacks return at once and never throw. */
  onChange(callback: (change: RemoteChange) => void): () => void;
  readonly clusters: readonly RemoteCluster[];
  /** What is odd about the directory of peers. */
  readonly notes: readonly string[];
}

/** What is read where. */
export interface RemoteServicesOptions {
  readonly own: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  /** Directory of the peers' files (`--clustermesh-config`); undefined: there are no peers. */
  readonly directory: string | undefined;
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  /** The own etcd as it names itself, once that is known: what answers with it is no peer but ourselves. */
  readonly ownStoreId?: () => string | undefined;
  readonly rescanMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes a reader that has read nothing. */
export function createRemoteServices(options: RemoteServicesOptions): RemoteServices {
  const { own, clock, logger } = options;
  const callbacks = new Set<(change: RemoteChange) => void>();
  const tables = new Map<ClusterName, RemoteTable>();
  /** Readers that were stopped: what they still say is of the file's removal, not of the peer. */
  const retired = new WeakSet<ClusterRef>();
  const refs = new Map<ClusterName, ClusterRef>();
  let names: ReadonlySet<ClusterName> | undefined;

  const tell = (change: RemoteChange): void => {
    for (const callback of callbacks) callback(change);
  };
  const announced = createAnnounced({ own: own.name, mode: 'learn' });
  const ranges = createRemoteRanges(announced, own.name);
  const tableOf = (name: ClusterName): RemoteTable => {
    const table = tables.get(name) ?? createRemoteTable(name);
    tables.set(name, table);
    return table;
  };
  const tellAll = (cluster: ClusterName): void => {
    tell({ cluster, kind: 'services', key: undefined });
    tell({ cluster, kind: 'serviceexports', key: undefined });
  };

  const sink: ClusterSink = {
    configured(cluster, config) {
      refs.set(cluster.name, cluster);
      const isOn = config.capabilities.serviceExportsEnabled !== undefined;
      if (tableOf(cluster.name).configure(isOn)) tellAll(cluster.name);
    },
    apply(cluster, change) {
      const table = tableOf(cluster.name);
      switch (change.kind) {
        case 'service':
          table.setService(change.name, change.value);
          tell({ cluster: cluster.name, kind: 'services', key: change.name });
          break;
        case 'service-export': {
          const problem = table.setExport(change.name, change.value);
          if (problem !== undefined) {
            logger.warn({ cluster: cluster.name, problem }, 'export of a peer cannot be used');
          }
          tell({ cluster: cluster.name, kind: 'serviceexports', key: change.name });
          break;
        }
        default:
          // Nodes count for the ranges that they announce, which are kept elsewhere.
          break;
      }
    },
    synced(cluster, kind) {
      if (retired.has(cluster)) return;
      if (tableOf(cluster.name).sync(kind)) tellAll(cluster.name);
    },
    removed(cluster) {
      // Its file is gone, or it has another id now: until it was read anew nothing is known of what it offers.
      tables.delete(cluster.name);
      tellAll(cluster.name);
    },
  };
  const mesh = createMesh({
    context: {
      own,
      nodeIps: [],
      sink,
      peerKinds: READ_KINDS,
      // Addresses are not read, since they are many: backends are held against ranges instead.
      checksBackends: false,
      announced,
      ...(options.ownStoreId === undefined ? {} : { ownStoreId: options.ownStoreId }),
      clock,
      logger,
    },
    ownFile: undefined,
    directory: options.directory,
    readConnection: options.readConnection,
    knownPeers: createKnownPeers(),
    setPeers(peers) {
      const before = names;
      names = new Set(peers.keys());
      for (const name of before ?? []) {
        if (names.has(name)) continue;
        const ref = refs.get(name);
        if (ref !== undefined) retired.add(ref);
        tables.get(name)?.unsync();
        tellAll(name);
      }
      if (before === undefined) for (const name of names) tellAll(name);
    },
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
  });

  const collect = <V>(pick: (table: RemoteTable) => V | undefined): Map<ClusterName, V> => {
    const found = new Map<ClusterName, V>();
    for (const [name, table] of tables) {
      const value = names?.has(name) === true ? pick(table) : undefined;
      if (value !== undefined) found.set(name, value);
    }
    return found;
  };

  return {
    async run(signal) {
      const following = ranges.follow((clusters) => clusters.forEach(tellAll), {
        known: () => tables.keys(),
        settleMs: RANGES_SETTLE_MS,
        clock,
        signal,
      });
      await Promise.all([mesh.run(signal), following]);
    },
    get names() {
      return names;
    },
    isSynced: (cluster, kind) => tables.get(cluster)?.isSynced(kind) ?? false,
    services: (key) =>
      collect((table) => {
        const service = table.service(key);
        return service === undefined ? undefined : ranges.admitted(service);
      }),
    exports: (key) => collect((table) => table.export(key)),
    keys: (kind) => new Set([...tables.values()].flatMap((table) => [...table.keys(kind)])),
    exportsEnabled: (cluster) => tables.get(cluster)?.exportsEnabled,
    setOwnRanges: ranges.setOwn,
    refusedBackends(cluster, key) {
      const service = tables.get(cluster)?.service(key);
      return service === undefined ? new Map() : ranges.refused(service);
    },
    onChange(callback) {
      callbacks.add(callback);
      return () => void callbacks.delete(callback);
    },
    get clusters() {
      return mesh.status().clusters.map(({ name, state }) => {
        const table = tables.get(name);
        return {
          name,
          state,
          synced: (['services', 'serviceexports'] as const).filter(
            (kind) => table?.isSynced(kind) ?? false,
          ),
          services: table?.serviceCount ?? 0,
          exports: table?.exportCount ?? 0,
          refused: table?.refused ?? new Map(),
        };
      });
    },
    get notes() {
      return mesh.status().notes;
    },
  };
}

/** Ids are learnt anew by each process: what was written for a peer is known by its name. */
function createKnownPeers(): KnownPeers {
  const ids = new Map<ClusterName, ClusterId>();
  return {
    idOf: (name) => ids.get(name),
    learn: (name, id) => void ids.set(name, id),
    forget: (name) => void ids.delete(name),
  };
}
