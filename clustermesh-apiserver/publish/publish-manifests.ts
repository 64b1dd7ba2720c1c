/** A directory of Kubernetes YAML, published: source, conversion and store in one piece. */
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createFreshLook } from '../../mesh/runtime/fresh-look.ts';
import { type ManifestProblem, type ObjectEvent, watchManifests } from '../sources/manifests.ts';
import { createPublisher, type Publisher, type PublisherOptions } from './publisher.ts';
import { untilAnswered } from './until-answered.ts';

/** Options of `publishManifests`. */
export interface PublishManifestsOptions extends PublisherOptions {
  readonly directory: string;
  /** How often the directory is read without a sign of a change. Default 5000. */
  readonly rescanMs?: number;
  /** Done before the directory is read: what else is to be published must be known before leftovers are swept. */
  readonly prepare?: (publisher: Publisher, signal: AbortSignal) => Promise<void>;
  readonly signal?: AbortSignal;
}

/** A directory that is being published. Disposing ends that; keys stay. */
export interface PublishedManifests extends AsyncDisposable {
  readonly publisher: Publisher;
  /** What is wrong in the files now. */
  readonly problems: readonly ManifestProblem[];
  /** Resolves when it has ended; rejects on a fault of the program. */
  readonly ended: Promise<void>;
  /** Resolves when everything that stood in the directory at first is in etcd; rejects when it ends before. */
  readonly ready: Promise<void>;
}

/** Begins to publish a directory; it goes on until disposed of, or `signal` aborts. */
export function publishManifests(options: PublishManifestsOptions): PublishedManifests {
  const { directory, logger, clock = systemClock } = options;
  const stopping = new AbortController();
  const signal =
    options.signal === undefined
      ? stopping.signal
      : AbortSignal.any([options.signal, stopping.signal]);
  const freshLook = createFreshLook();
  const publisher = createPublisher({ ...options, refresh: freshLook.ask });
  let problems: readonly ManifestProblem[] = [];
  const batches = watchManifests(directory, {
    signal,
    clock,
    freshLook,
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
    onUnreadable: (path, error) => {
      logger.warn({ path, err: error }, 'cannot read manifests, what was read last stays in force');
    },
    onProblems: (now) => {
      const known = new Set(problems.map(textOf));
      for (const problem of now) {
        if (!known.has(textOf(problem))) logger.warn({ ...problem }, 'a manifest cannot be used');
      }
      if (now.length === 0 && problems.length > 0) logger.info('every manifest can be used again');
      problems = now;
    },
  });
  async function* prepared(): AsyncGenerator<readonly ObjectEvent[]> {
    await untilAnswered(() => options.prepare?.(publisher, signal), { clock, logger, signal });
    yield* batches;
  }
  const ended = publisher.run(prepared(), signal);
  const endedEarly = ended.then(() => {
    throw signal.aborted ? signal.reason : new Error('the publisher ended before it was ready');
  });
  const ready = Promise.race([publisher.ready, endedEarly]);
  // Whoever does not ask for them need not handle them.
  for (const promise of [ended, endedEarly, ready]) promise.catch(() => undefined);
  return {
    publisher,
    get problems() {
      return problems;
    },
    ended,
    ready,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await ended;
    },
  };
}

function textOf({ where, message }: ManifestProblem): string {
  return `${where}: ${message}`;
}
