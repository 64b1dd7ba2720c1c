/** All controllers, put together: what they read is followed by every replica, what they write is written by the one that leads. */
import { randomUUID } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { PeerConnection } from '../../mesh/remote/peer.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName, MaxConnectedClusters } from '../../mesh/wire/ids.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { RESOURCES } from '../kubernetes/resource.ts';
import { type Applier, type ApplierStatus, createApplier } from './apply.ts';
import type { ControllerStatus } from './controller.ts';
import type { ControllerContext, ControllerPart } from './controller-part.ts';
import { createEndpointSliceSync, type EndpointSliceSyncOptions } from './endpoint-slice-sync.ts';
import { createEventRecorder, type EventRecorder, type EventStatus } from './events.ts';
import { parseKubernetesObject } from './kubernetes-object.ts';
import {
  createLeaderLease,
  LeadershipError,
  type LeadershipStatus,
  type LeaderTerm,
} from './leader-lease.ts';
import type { LeaseTimes } from './lease-record.ts';
import { createLeaseStore } from './lease-store.ts';
import { createObjectView, problemsOfViews } from './object-view.ts';
import { createNodeRangesView, followOwnRanges, type NodeKind } from './own-ranges.ts';
import { createRemoteServices, type RemoteCluster } from './remote-services.ts';

/** Name of the Lease of all replicas of a cluster. */
export const LEASE_NAME = 'isthmus-clustermesh-apiserver';
const MOST_WAITING = 256;

/** What the controllers of a cluster are told. */
export interface ControllersOptions {
  readonly api: KubernetesApi;
  readonly cluster: {
    readonly name: ClusterName;
    readonly id: ClusterId;
    readonly max: MaxConnectedClusters;
  };
  /** Directory of the peers' files (`--clustermesh-config`); undefined: there are no peers. */
  readonly directory: string | undefined;
  readonly readConnection: (path: string) => Promise<PeerConnection>;
  readonly ownStoreId?: () => string | undefined;
  readonly rescanMs?: number;
  /** Which objects say where this cluster's pods live. */
  readonly nodeKind: NodeKind;
  /** Name of this replica among its like, such as the pod's; what makes it unique is added. */
  readonly replica: string;
  /** Where the Lease is. Default: the namespace of the credentials. */
  readonly leaseNamespace?: string | undefined;
  readonly leaseTimes?: LeaseTimes;
  /** `--clustermesh-default-global-namespace`. */
  readonly namespacesAreGlobal: boolean;
  /** `--clustermesh-enable-endpoint-sync`; undefined: off. */
  readonly endpointSliceSync: EndpointSliceSyncOptions | undefined;
  /** Further parts, such as the Multi-Cluster Services API. */
  readonly parts?: readonly ((context: ControllerContext) => ControllerPart)[];
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The controllers for people. */
export interface ControllersStatus {
  readonly leadership: LeadershipStatus;
  readonly parts: readonly {
    readonly name: string;
    readonly waitingFor: readonly string[];
    readonly problems: readonly string[];
    readonly controllers: readonly ControllerStatus[];
  }[];
  readonly remote: readonly RemoteCluster[];
  readonly notes: readonly string[];
  /** Kinds that all parts read and that cannot be followed any more, and why. */
  readonly problems: readonly string[];
  readonly writes: ApplierStatus;
  readonly events: EventStatus;
}

/** The controllers of a cluster. */
export interface Controllers {
  /** Runs until `signal` aborts, and gives the Lease back then. To be called once. */
  run(signal: AbortSignal): Promise<void>;
  /** Tells people about objects; what is recorded on standby is kept for as long as there is room. */
  readonly events: EventRecorder;
  readonly status: ControllersStatus;
}

/** Makes controllers that do not run yet. */
export function createControllers(options: ControllersOptions): Controllers {
  const { api, cluster, clock } = options;
  const logger = options.logger.child({ part: 'controllers' });
  let term: LeaderTerm | undefined;
  const view = { parse: parseKubernetesObject, clock, logger };
  const views = {
    services: createObjectView(api, RESOURCES.services, view),
    namespaces: createObjectView(api, RESOURCES.namespaces, view),
  };
  const nodes = createNodeRangesView(api, { kind: options.nodeKind, clock, logger });
  const remote = createRemoteServices({ ...options, own: cluster, logger });
  followOwnRanges(nodes, (ranges) => remote.setOwnRanges(ranges));
  const applier: Applier = createApplier({
    api,
    check() {
      if (term === undefined) throw new LeadershipError();
      term.check();
    },
    clock,
  });
  const events = createEventRecorder({ api, instance: options.replica, clock, logger });
  const context: ControllerContext = {
    api,
    cluster,
    views,
    remote,
    applier,
    events,
    namespacesAreGlobal: options.namespacesAreGlobal,
    clock,
    logger,
  };
  const parts = [
    ...(options.endpointSliceSync === undefined
      ? []
      : [createEndpointSliceSync(context, options.endpointSliceSync)]),
    ...(options.parts ?? []).map((create) => create(context)),
  ];
  const lease = createLeaderLease({
    store: createLeaseStore(api, {
      namespace: options.leaseNamespace ?? api.namespace,
      name: LEASE_NAME,
    }),
    identity: `${options.replica}_${randomUUID()}`,
    ...(options.leaseTimes === undefined ? {} : { times: options.leaseTimes }),
    clock,
    logger,
  });
  const lead = async (next: LeaderTerm): Promise<void> => {
    term = next;
    try {
      await Promise.all([...parts.map((part) => part.lead(next)), events.run(next.over)]);
    } finally {
      term = undefined;
    }
  };

  return {
    async run(outer) {
      const ending = new AbortController();
      const signal = AbortSignal.any([outer, ending.signal]);
      // Each view, peer and part waits for it: more than the ten after which Node suspects a leak.
      setMaxListeners(MOST_WAITING, signal);
      const tasks = [
        remote.run(signal),
        ...[views.services, views.namespaces, nodes].map((each) => each.follow(signal)),
        ...parts.map((part) => part.follow(signal)),
        lease.run(lead, signal),
      ];
      try {
        await Promise.all(tasks);
      } finally {
        // One that fails ends all, so that what holds the Lease gives it back.
        ending.abort();
        await Promise.allSettled(tasks);
      }
    },
    events,
    get status() {
      return {
        leadership: lease.status,
        parts: parts.map(({ name, status }) => ({ name, ...status })),
        remote: remote.clusters,
        notes: remote.notes,
        problems: problemsOfViews([views.services, views.namespaces, nodes]),
        writes: applier.status,
        events: events.status,
      };
    },
  };
}
