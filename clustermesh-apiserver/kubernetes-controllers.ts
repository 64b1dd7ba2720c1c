/** The controllers of an apiserver that writes to Kubernetes what peers publish. */
import { connectionReader } from '../mesh/remote/connection.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import type { EndpointSliceSyncOptions } from './controllers/endpoint-slice-sync.ts';
import type { LeaseTimes } from './controllers/lease-record.ts';
import { createMcsPart, type McsOptions } from './controllers/mcs/mcs-part.ts';
import { type Controllers, createControllers } from './controllers/run.ts';
import type { PublishedCluster } from './publish-cluster.ts';

/** What is to be written. */
export interface ControllersSettings {
  /** Directory of the peers' files. */
  readonly directory: string;
  /** Undefined: no EndpointSlices of global Services are written. */
  readonly endpointSliceSync: EndpointSliceSyncOptions | undefined;
  /** Undefined: nothing of the Multi-Cluster Services API is written. */
  readonly mcs: McsOptions | undefined;
  /** Default: the namespace of the credentials. */
  readonly leaseNamespace: string | undefined;
  readonly leaseTimes: LeaseTimes;
}

/** Makes the controllers; undefined where Cilium's operator does the same, or there is no API server. */
export function createKubernetesControllers(
  settings: ControllersSettings,
  options: {
    readonly published: PublishedCluster;
    readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
    readonly maxConnectedClusters: MaxConnectedClusters;
    readonly namespacesAreGlobal: boolean;
    readonly replica: string;
    readonly ownStoreId: () => string | undefined;
    readonly clock: Clock;
    readonly logger: Logger;
  },
): Controllers | undefined {
  const { published, cluster, clock, logger } = options;
  if (published.kubernetes === undefined) return undefined;
  if (published.mode === 'cilium') {
    logger.warn(
      "in a cluster that Cilium runs its operator writes EndpointSlices and imports: --clustermesh-enable-endpoint-sync has no effect here, and --clustermesh-enable-mcs-api publishes this cluster's exports alone",
    );
    return undefined;
  }
  const { mcs } = settings;
  return createControllers({
    api: published.kubernetes.api,
    cluster: { ...cluster, max: options.maxConnectedClusters },
    directory: settings.directory,
    readConnection: connectionReader({ clock }),
    ownStoreId: options.ownStoreId,
    nodeKind: 'Node',
    replica: options.replica,
    leaseNamespace: settings.leaseNamespace,
    leaseTimes: settings.leaseTimes,
    namespacesAreGlobal: options.namespacesAreGlobal,
    endpointSliceSync: settings.endpointSliceSync,
    parts:
      mcs === undefined
        ? []
        : [
            (context) =>
              createMcsPart(context, {
                ...mcs,
                slicesAreSynced: settings.endpointSliceSync !== undefined,
              }),
          ],
    clock,
    logger,
  });
}
