/** A directory of Kubernetes YAML, published: source, conversion and store in one piece. */
import { type ManifestProblem, watchManifests } from '../sources/manifests.ts';
import { createPublisher, type Publisher, type PublisherOptions } from './publisher.ts';

export interface PublishManifestsOptions extends PublisherOptions {
  readonly directory: string;
  /** How often the directory is read without a sign of a change. Default 5000. */
  readonly rescanMs?: number;
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
  const { directory, logger, clock } = options;
  const stopping = new AbortController();
  const signal =
    options.signal === undefined
      ? stopping.signal
      : AbortSignal.any([options.signal, stopping.signal]);
  const publisher = createPublisher(options);
  let problems: readonly ManifestProblem[] = [];
  const batches = watchManifests(directory, {
    signal,
    ...(clock === undefined ? {} : { clock }),
    ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
    onUnreadable: (path, error) => {
      logger.warn({ path, err: error }, 'cannot read manifests, what was read last stays in force');
    },
    onProblems: (now) => {
      const known = new Set(problems.map(textOf));
      for (const problem of now) {
        if (!known.has(textOf(problem))) logger.warn({ ...problem }, 'a manifest cannot be used');
      }
      problems = now;
    },
  });
  const ended = publisher.run(batches, signal);
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
