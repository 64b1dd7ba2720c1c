/** What a reconcile of a multi-cluster service works with. */
import type { ControllerContext } from '../controller-part.ts';
import type { LocalFamilies } from './local-families.ts';
import type { ServedApi } from './mcs-schema.ts';
import type { McsViews } from './mcs-views.ts';

/** What a reconciler works with. */
export interface ReconcilerOptions {
  readonly context: ControllerContext;
  readonly views: McsViews;
  /** Asked anew each time: fields are added by newer definitions. */
  readonly served: () => ServedApi;
  readonly localFamilies: LocalFamilies;
  /** Whether peers' backends are written as EndpointSlices where the exports do not say. */
  readonly syncSlices: boolean;
  /** Whether they are written at all. */
  readonly slicesAreSynced: boolean;
  /** Told of each key that has to wait for peers, and of each that need not. */
  readonly onHold: (key: string, peers: readonly string[]) => void;
}

/** One reconcile, for the writers. */
export interface ReconcileScope extends ReconcilerOptions {
  readonly namespace: string;
  readonly name: string;
  readonly signal: AbortSignal;
  /** To be called when something was not as it was seen: it will be looked at again. */
  readonly again: (milliseconds: number) => void;
}

/** What is outdated was changed by somebody, of which the view will hear in a moment. */
export const AGAIN_SOON_MS = 200;
