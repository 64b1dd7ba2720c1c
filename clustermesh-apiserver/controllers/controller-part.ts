/** What a part of the controllers is made of, and what it offers: `run.ts` runs all parts under one Lease. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { ClusterId, ClusterName } from '../../mesh/wire/ids.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import type { Applier } from './apply.ts';
import type { ControllerStatus } from './controller.ts';
import type { EventRecorder } from './events.ts';
import type { KubernetesObject } from './kubernetes-object.ts';
import type { LeaderTerm } from './leader-lease.ts';
import type { ObjectView } from './object-view.ts';
import type { RemoteServices } from './remote-services.ts';

/** A Namespace or Service as it came; both views are shared by all parts. */
export type SharedViews = {
  readonly services: ObjectView<KubernetesObject>;
  readonly namespaces: ObjectView<KubernetesObject>;
};

/** What every part is given. */
export interface ControllerContext {
  readonly api: KubernetesApi;
  readonly cluster: { readonly name: ClusterName; readonly id: ClusterId };
  readonly views: SharedViews;
  readonly remote: RemoteServices;
  readonly applier: Applier;
  readonly events: EventRecorder;
  /** Whether a namespace is global where its annotation does not say. */
  readonly namespacesAreGlobal: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** A part of the controllers, such as EndpointSlice sync. */
export interface ControllerPart {
  readonly name: string;
  /** Follows what it reads, on standby too, so that it can take over at once; until `signal` aborts. */
  follow(signal: AbortSignal): Promise<void>;
  /** Writes, for as long as this replica leads: ends soon after `term.over` aborts. */
  lead(term: LeaderTerm): Promise<void>;
  readonly status: {
    /** What it waits for before it writes; empty: nothing. */
    readonly waitingFor: readonly string[];
    /** What does not work, and why; what was read and written before stays. */
    readonly problems: readonly string[];
    readonly controllers: readonly ControllerStatus[];
  };
}
