/** A directory of Kubernetes YAML, published: source, conversion and store in one piece. */
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createFreshLook } from '../../mesh/runtime/fresh-look.ts';
import { type ManifestProblem, watchManifests } from '../sources/manifests.ts';
import { type PublishedSource, publishSource } from './publish-source.ts';
import type { Publisher, PublisherOptions } from './publisher.ts';

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
export interface PublishedManifests extends PublishedSource {
  /** What is wrong in the files now. */
  readonly problems: readonly ManifestProblem[];
}

/** Begins to publish a directory; it goes on until disposed of, or `signal` aborts. */
export function publishManifests(options: PublishManifestsOptions): PublishedManifests {
  const { directory, logger, clock = systemClock } = options;
  const freshLook = createFreshLook();
  let problems: readonly ManifestProblem[] = [];
  const open = (signal: AbortSignal) =>
    watchManifests(directory, {
      signal,
      clock,
      freshLook,
      ...(options.kinds === undefined ? {} : { kinds: options.kinds }),
      ...(options.rescanMs === undefined ? {} : { rescanMs: options.rescanMs }),
      onUnreadable: (path, error) => {
        logger.warn(
          { path, err: error },
          'cannot read manifests, what was read last stays in force',
        );
      },
      onProblems: (now) => {
        const known = new Set(problems.map(textOf));
        for (const problem of now) {
          if (!known.has(textOf(problem))) logger.warn({ ...problem }, 'a manifest cannot be used');
        }
        if (now.length === 0 && problems.length > 0)
          logger.info('every manifest can be used again');
        problems = now;
      },
    });
  const published = publishSource({ ...options, refresh: freshLook.ask, open });
  return {
    publisher: published.publisher,
    ended: published.ended,
    ready: published.ready,
    get problems() {
      return problems;
    },
    [Symbol.asyncDispose]: () => published[Symbol.asyncDispose](),
  };
}

function textOf({ where, message }: ManifestProblem): string {
  return `${where}: ${message}`;
}
