/** The cluster of an apiserver, published: from a directory of manifests or from an API server. */
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import {
  type KubernetesProgress,
  type KubernetesSettings,
  openKubernetesSource,
} from './cluster-source.ts';
import { createEventRecorder, type EventRecorder } from './controllers/events.ts';
import { type AnnotationWarning, describeWarning } from './convert/annotation-warning.ts';
import type { ConversionMode } from './convert/published-sets.ts';
import type { KubernetesApi } from './kubernetes/api.ts';
import { publishManifests } from './publish/publish-manifests.ts';
import { type PublishedSource, publishSource } from './publish/publish-source.ts';
import type { Publisher, PublisherOptions } from './publish/publisher.ts';
import { createNodeTrust, type NodeTrustBook } from './registry/node-trust.ts';
import type { ObjectEvent } from './sources/object-event.ts';

/** Where a cluster's objects come from. */
export type SourceSettings =
  | { readonly kind: 'manifests'; readonly directory: string }
  | ({ readonly kind: 'kubernetes' } & KubernetesSettings);

/** A cluster that is being published. Disposing ends that; keys stay. */
export interface PublishedCluster extends PublishedSource {
  readonly mode: ConversionMode;
  /** The API server that it comes from, Events about its objects, and which Nodes there are; undefined with manifests. */
  readonly kubernetes:
    | {
        readonly api: KubernetesApi;
        readonly events: EventRecorder;
        readonly nodes: NodeTrustBook;
      }
    | undefined;
  /** Objects that cannot be used, and why. */
  readonly problems: readonly { readonly where: string; readonly message: string }[];
  /** What the source has not told yet, and why. */
  readonly missing: readonly string[];
}

/** Options of `publishCluster`. */
export interface PublishClusterOptions extends PublisherOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly prepare: (publisher: Publisher, signal: AbortSignal) => Promise<void>;
  /** Name of this replica, under which it writes Events. */
  readonly replica: string;
  /** Told how far an API server is read; the function tells what is the case when it is called. */
  readonly onProgress: (look: () => KubernetesProgress) => void;
}

/** Begins to publish; waits for the API server only where the mode is to be found. Rejects as `openKubernetesSource`. */
export async function publishCluster(
  source: SourceSettings,
  options: PublishClusterOptions,
): Promise<PublishedCluster> {
  if (source.kind === 'manifests') {
    const published = publishManifests({ ...options, directory: source.directory });
    return {
      publisher: published.publisher,
      ended: published.ended,
      ready: published.ready,
      mode: 'any-cni',
      kubernetes: undefined,
      missing: [],
      get problems() {
        return published.problems;
      },
      [Symbol.asyncDispose]: () => published[Symbol.asyncDispose](),
    };
  }
  const opened = await openKubernetesSource(source, options);
  const { api, mode, kinds } = opened;
  const { clock, logger, replica: instance } = options;
  const events = createEventRecorder({ api, instance, clock, logger });
  const nodes = createNodeTrust({ api, clock, logger });
  const published = publishSource({
    ...options,
    conversion: { ...options.conversion, mode },
    kinds,
    open: (signal) => telling(opened.open(signal), nodes.take),
    refresh: opened.refresh,
    onAnnotationWarning: (warning) => recordWarning(events, warning),
  });
  return {
    publisher: published.publisher,
    ended: published.ended,
    ready: published.ready,
    mode,
    kubernetes: { api, events, nodes },
    get missing() {
      return opened.missing;
    },
    get problems() {
      return opened.problems;
    },
    async [Symbol.asyncDispose]() {
      await published[Symbol.asyncDispose]();
      await opened[Symbol.asyncDispose]();
    },
  };
}

/** Tells somebody else what passes. */
async function* telling(
  batches: AsyncIterable<readonly ObjectEvent[]>,
  tell: (batch: readonly ObjectEvent[]) => void,
): AsyncGenerator<readonly ObjectEvent[]> {
  for await (const batch of batches) {
    tell(batch);
    yield batch;
  }
}

/** Tells whoever wrote an annotation what it counts as. */
function recordWarning(events: EventRecorder, warning: AnnotationWarning): void {
  const { kind, namespace, name, uid } = warning.object;
  events.record({
    about: { apiVersion: 'v1', kind, namespace, name, uid },
    type: 'Warning',
    reason: warning.reason,
    action: 'Publish',
    note: describeWarning(warning),
  });
}
