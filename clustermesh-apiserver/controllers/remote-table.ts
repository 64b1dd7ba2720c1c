/** What one other cluster offers. Has no clock and no socket. */
import type { KvPair } from '../../mesh/kvstore/kvstore.ts';
import type { MeshKind } from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';
import { decodeServiceExport, type ServiceExport } from '../../mesh/wire/service-export.ts';
import { WireError } from '../../mesh/wire/wire-error.ts';
import { objectKey } from './kubernetes-object.ts';
import type { RemoteKind } from './remote-services.ts';

/** Exports that cannot be used and are kept in mind. */
const MOST_REFUSED = 100;

/** Services and exports of one cluster. */
export interface RemoteTable {
  /** Takes what its configuration says of exports. Returns whether that changed anything. */
  configure(exportsEnabled: boolean): boolean;
  /** A service that is not shared counts as gone. */
  setService(key: string, service: ClusterService | undefined): void;
  /** Returns why an export cannot be used: the last good one stays then. */
  setExport(key: string, pair: KvPair | undefined): string | undefined;
  /** Everything of a kind was read. Returns whether that was news. */
  sync(kind: MeshKind): boolean;
  /** What was read stays, but nothing may be concluded any more from what is missing. */
  unsync(): void;
  isSynced(kind: RemoteKind): boolean;
  service(key: string): ClusterService | undefined;
  export(key: string): ServiceExport | undefined;
  keys(kind: RemoteKind): Iterable<string>;
  readonly exportsEnabled: boolean | undefined;
  readonly serviceCount: number;
  readonly exportCount: number;
  readonly refused: ReadonlyMap<string, string>;
}

/** Makes an empty table. */
export function createRemoteTable(cluster: ClusterName): RemoteTable {
  const services = new Map<string, ClusterService>();
  const exports = new Map<string, ServiceExport>();
  const refused = new Map<string, string>();
  const synced = new Set<MeshKind>();
  let exportsEnabled: boolean | undefined;

  return {
    configure(isEnabled) {
      const changed = exportsEnabled !== isEnabled;
      exportsEnabled = isEnabled;
      // Without exports there is nothing to read, so it is known that there is none.
      if (!isEnabled) {
        exports.clear();
        refused.clear();
        synced.add('serviceexports');
      } else if (changed) synced.delete('serviceexports');
      return changed;
    },
    setService(key, service) {
      if (service === undefined || !service.shared) services.delete(key);
      else services.set(key, service);
    },
    setExport(key, pair) {
      if (pair === undefined) {
        exports.delete(key);
        refused.delete(key);
        return undefined;
      }
      const read = readExport(pair, { cluster, key });
      if (typeof read === 'string') {
        if (refused.size < MOST_REFUSED || refused.has(key)) refused.set(key, read);
        return read;
      }
      exports.set(key, read);
      refused.delete(key);
      return undefined;
    },
    sync(kind) {
      const isNews = !synced.has(kind);
      synced.add(kind);
      return isNews;
    },
    unsync: () => synced.clear(),
    // Ranges come from nodes: before those are known, an address of another cluster could pass.
    isSynced: (kind) => synced.has(kind) && (kind !== 'services' || synced.has('nodes')),
    service: (key) => services.get(key),
    export: (key) => exports.get(key),
    keys: (kind) => (kind === 'services' ? services.keys() : exports.keys()),
    get exportsEnabled() {
      return exportsEnabled;
    },
    get serviceCount() {
      return services.size;
    },
    get exportCount() {
      return exports.size;
    },
    refused,
  };
}

/** The export, or why it cannot be used. */
function readExport(
  pair: KvPair,
  { cluster, key }: { cluster: ClusterName; key: string },
): ServiceExport | string {
  try {
    const found = decodeServiceExport(pair.value, pair.key);
    const named = objectKey(found.namespace, found.name);
    if (found.cluster !== cluster || named !== key) {
      return `export ${key} of cluster ${cluster} says it is ${named} of cluster ${found.cluster}`;
    }
    return found;
  } catch (error) {
    if (error instanceof WireError) return error.message;
    throw error;
  }
}
