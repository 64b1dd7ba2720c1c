/** Peers in memory behind a real directory of files: what controllers read of other clusters, in tests. */
import { rename, rm, writeFile } from 'node:fs/promises';
import { basename } from 'node:path';
import type { Test } from 'tap';
import type { MemoryStore } from '../../../mesh/kvstore/memory.ts';
import type { PeerConnection } from '../../../mesh/remote/peer.ts';
import {
  type PublishedCluster,
  publishCluster,
} from '../../../mesh/remote/testing/published-cluster.ts';
import { openTempDir } from '../../../mesh/testing/temp-dir.ts';
import type { ClusterName } from '../../../mesh/wire/ids.ts';
import { serviceExportKey, syncedKey } from '../../../mesh/wire/keys.ts';
import { encodeServiceExport, type ServiceExport } from '../../../mesh/wire/service-export.ts';

/** A peer, and whether it is configured. */
export interface RemotePeer extends PublishedCluster<MemoryStore> {
  /** Writes its file, whole, by rename. */
  configure(): Promise<void>;
  unconfigure(): Promise<void>;
  export(name: string, changes?: Partial<ServiceExport>): Promise<void>;
  /** Writes the marker of exports. */
  exportsMarked(): Promise<void>;
}

/** Peers of one test. */
export interface RemotePeers {
  readonly directory: string;
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  add(name: string, id: number): RemotePeer;
}

/** Makes a directory without peers, removed with the test. */
export async function openRemotePeers(t: Test): Promise<RemotePeers> {
  const dir = await openTempDir('remote-peers');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const stores = new Map<string, MemoryStore>();
  return {
    directory: dir.path,
    async readConnection(path) {
      const name = basename(path);
      const store = stores.get(name);
      if (store === undefined) throw new Error(`there is no peer ${name}`);
      return {
        fingerprint: name,
        endpoints: [`https://${name}.example:2379`],
        open: async () => store.connect(),
      };
    },
    add(name, id) {
      const cluster = publishCluster(name, id);
      stores.set(name, cluster.store);
      return {
        ...cluster,
        async configure() {
          await writeFile(dir.file(`.${name}`), `endpoints:\n- https://${name}.example:2379\n`);
          await rename(dir.file(`.${name}`), dir.file(name));
        },
        unconfigure: () => rm(dir.file(name)),
        export: (service, changes = {}) =>
          cluster.store.put(
            serviceExportKey(cluster.name, 'demo', service),
            encodeServiceExport(anExport(cluster.name, service, changes)),
          ),
        exportsMarked: () =>
          cluster.store.put(
            syncedKey(cluster.name, 'cilium/state/serviceexports/v1'),
            '2026-01-01T00:00:00Z',
          ),
      };
    },
  };
}

function anExport(
  cluster: ClusterName,
  name: string,
  changes: Partial<ServiceExport>,
): ServiceExport {
  return {
    cluster,
    name,
    namespace: 'demo',
    annotations: undefined,
    labels: undefined,
    legacyCopies: false,
    exportedAt: Date.UTC(2026, 0, 1),
    ports: [{ name: 'http', protocol: 'TCP', appProtocol: undefined, port: 80 }],
    type: 'ClusterSetIP',
    sessionAffinity: 'None',
    sessionAffinityConfig: undefined,
    ipFamilies: ['IPv4'],
    internalTrafficPolicy: undefined,
    trafficDistribution: undefined,
    ...changes,
  };
}
