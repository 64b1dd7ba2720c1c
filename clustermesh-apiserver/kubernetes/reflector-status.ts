/** How a kind of objects is doing, and who is told when that changes. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { explainFailure } from './explain-failure.ts';
import type { HeldObjects } from './held-objects.ts';
import { type KubernetesResource, resourceName } from './resource.ts';

/** How a kind is doing. */
export interface ReflectorStatus {
  readonly state: /** Not begun. */
    | 'waiting'
    /** Being listed, or listed and not yet watched. */
    | 'listing'
    /** Complete and watched. */
    | 'synced'
    /** A permission is missing. */
    | 'forbidden'
    /** The API server does not believe our credentials. */
    | 'unauthorized'
    /** The API server does not know the kind: its CustomResourceDefinition is missing. */
    | 'absent'
    /** Anything else went wrong, and is tried again. */
    | 'failing';
  /** What is wrong and what to do; empty when nothing is. */
  readonly reason: string;
  /** Since when it is in this state, milliseconds since 1970. */
  readonly since: number;
  /** Whether it has ever been complete: what was read then is kept, whatever the state is now. */
  readonly complete: boolean;
  /** Objects held. */
  readonly objects: number;
  /** Of those, objects that went with their CustomResourceDefinition, and are kept for a time. */
  readonly kept: number;
  readonly resourceVersion: string;
  /** Objects that cannot be used, by `namespace/name`, and why; the last good version of each stays. */
  readonly problems: ReadonlyMap<string, string>;
  /** Complete lists since the start. */
  readonly lists: number;
  /** Watches that were silent for too long and were opened anew. */
  readonly silences: number;
}

/** What a report is told beforehand; see `ReflectOptions`. */
export interface ReportOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onStatus?: ((status: ReflectorStatus) => void) | undefined;
  readonly role?: string | undefined;
  readonly keepWithoutDefinitionMs?: number | undefined;
}

/** Keeps the status, and tells of its changes. */
export interface Report {
  /** Whether there has ever been a complete list. */
  readonly complete: boolean;
  listing(): void;
  listed(version: string): void;
  following(version: string): void;
  silent(): void;
  kept(objects: number): void;
  unguarded(reason: string): void;
  failed(error: unknown, doing: 'list' | 'watch'): void;
}

/** Makes the report of a kind that has not been read yet. */
export function createReport<T>(
  held: HeldObjects<T>,
  resource: KubernetesResource,
  options: ReportOptions,
): Report {
  const { clock, logger } = options;
  const name = resourceName(resource);
  let state: ReflectorStatus['state'] = 'waiting';
  let reason = '';
  let since = clock.now();
  let complete = false;
  let version = '';
  let lists = 0;
  let silences = 0;
  let isUnguarded = false;
  const toldProblems = new Map<string, string>();

  const tell = (): void => {
    options.onStatus?.({
      state,
      reason,
      since,
      complete,
      objects: held.size,
      kept: held.kept,
      resourceVersion: version,
      problems: held.problems,
      lists,
      silences,
    });
  };
  const become = (next: typeof state, why: string): void => {
    if (next !== state) since = clock.now();
    state = next;
    reason = why;
    tell();
  };
  const tellProblems = (): void => {
    for (const object of toldProblems.keys()) {
      if (!held.problems.has(object)) toldProblems.delete(object);
    }
    for (const [object, problem] of held.problems) {
      if (toldProblems.get(object) === problem) continue;
      toldProblems.set(object, problem);
      logger.warn(
        { resource: name, object, problem },
        'an object cannot be used, its last good version stays',
      );
    }
  };
  tell();
  return {
    get complete() {
      return complete;
    },
    listing() {
      // A kind that fails is not better for being tried again.
      if (state === 'waiting' || state === 'synced') become('listing', '');
    },
    listed(now) {
      complete = true;
      version = now;
      lists += 1;
      tellProblems();
      tell();
    },
    following(now) {
      version = now;
      tellProblems();
      if (state === 'synced') return tell();
      const healed = state !== 'listing';
      become('synced', '');
      if (healed) {
        logger.info({ resource: name, objects: held.size }, 'a kind of Kubernetes is read again');
      }
    },
    silent() {
      silences += 1;
      logger.info({ resource: name }, 'a watch of Kubernetes was silent, it is opened anew');
      tell();
    },
    kept(objects) {
      if (objects === 0) return;
      const minutes = Math.round((options.keepWithoutDefinitionMs ?? 0) / 60_000);
      logger.warn(
        { resource: name, objects, minutes },
        'the CustomResourceDefinition was made anew without these objects, they are kept for a time',
      );
    },
    unguarded(why) {
      if (isUnguarded) return;
      isUnguarded = true;
      logger.warn(
        { resource: name, why },
        'the CustomResourceDefinition may not be read: if it is deleted, its objects are deleted with it',
      );
    },
    failed(error, doing) {
      const failure = explainFailure(error, { resource, verb: doing, role: options.role });
      const isNews = failure.state !== state;
      become(failure.state, failure.reason);
      if (isNews)
        logger.warn(
          { resource: name, state, reason, complete },
          'a kind of Kubernetes cannot be read, will be retried',
        );
    },
  };
}
