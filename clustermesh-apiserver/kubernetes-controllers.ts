/** The controllers of an apiserver that writes to Kubernetes what peers publish. */
import { connectionReader } from '../mesh/remote/connection.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../mesh/wire/ids.ts';
import type { ControllerContext } from './controllers/controller-part.ts';
import type { EndpointSliceSyncOptions } from './controllers/endpoint-slice-sync.ts';
import type { LeaseTimes } from './controllers/lease-record.ts';
import {
  createMachinesPart,
  type MachinesPartOptions,
} from './controllers/machines/machines-part.ts';
import { createMcsPart, type McsOptions } from './controllers/mcs/mcs-part.ts';
import { createPolicyStatus } from './controllers/policy-status.ts';
import { type Controllers, createControllers } from './controllers/run.ts';
import type { PublishedCluster } from './publish-cluster.ts';
import type { PolicyBoard } from './registry/policy-board.ts';

/** What is to be written. */
export interface ControllersSettings {
  /** Directory of the peers' files; undefined where nothing is written that needs peers. */
  readonly directory: string | undefined;
  /** Undefined: no EndpointSlices of global Services are written. */
  readonly endpointSliceSync: EndpointSliceSyncOptions | undefined;
  /** Undefined: nothing of the Multi-Cluster Services API is written. */
  readonly mcs: McsOptions | undefined;
  /** Undefined: machines are not shown as objects. */
  readonly machines: Pick<MachinesPartOptions, 'installCrds'> | undefined;
  /** Whether it is written onto policies how they stand. */
  readonly policyStatus: boolean;
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
    readonly policies: PolicyBoard;
    readonly machines: MachinesPartOptions['machines'];
    readonly labelledMachines: MachinesPartOptions['labelled'];
    readonly clock: Clock;
    readonly logger: Logger;
  },
): Controllers | undefined {
  const { published, cluster, clock, logger } = options;
  if (published.kubernetes === undefined) return undefined;
  if (published.mode === 'cilium') {
    logger.warn(
      "in a cluster that Cilium runs its operator writes EndpointSlices, imports and the status of policies: --clustermesh-enable-endpoint-sync and --enable-policy-status have no effect here, and --clustermesh-enable-mcs-api publishes this cluster's exports alone",
    );
    return undefined;
  }
  const { mcs, machines } = settings;
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
    parts: [
      ...(mcs === undefined
        ? []
        : [
            (context: ControllerContext) =>
              createMcsPart(context, {
                ...mcs,
                slicesAreSynced: settings.endpointSliceSync !== undefined,
              }),
          ]),
      ...(machines === undefined
        ? []
        : [
            (context: ControllerContext) =>
              createMachinesPart(context, {
                ...machines,
                machines: options.machines,
                labelled: options.labelledMachines,
              }),
          ]),
      ...(settings.policyStatus
        ? [(context: ControllerContext) => createPolicyStatus(context, { board: options.policies })]
        : []),
    ],
    clock,
    logger,
  });
}
