/**
 * Writing to the API server: server-side apply under a name of our own, and only where something differs. An object is touched
 * only if it bears our marks, and only in the version that was seen: a late write of somebody who led before changes nothing.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { KubernetesError } from '../kubernetes/kubernetes-error.ts';
import { apiVersionOf, type KubernetesResource, resourcePath } from '../kubernetes/resource.ts';
import { type DesiredObject, isApplied } from './applied-fields.ts';
import {
  FIELD_MANAGER,
  type JsonFields,
  type KubernetesObject,
  objectKey,
  parseKubernetesObject,
  recordOf,
} from './kubernetes-object.ts';
import { createRateLimit } from './rate-limit.ts';

const APPLY_PATCH = 'application/apply-patch+yaml';
const MERGE_PATCH = 'application/merge-patch+json';
const DEFAULT_PER_SECOND = 100;
const DEFAULT_BURST = 200;

/** What became of an object that was to be written. */
export type ApplyResult =
  /** It was as it should be; nothing was sent. */
  | { readonly kind: 'unchanged'; readonly object: KubernetesObject }
  | { readonly kind: 'written'; readonly object: KubernetesObject }
  /** An object of that name does not bear our marks; it stays as it is. */
  | { readonly kind: 'foreign'; readonly message: string }
  /** Somebody else has set fields that we would set, to other values; it stays as it is. */
  | { readonly kind: 'conflict'; readonly message: string }
  /** It is not what was seen any more: to be tried again with what it is now. */
  | { readonly kind: 'outdated'; readonly message: string };

/** What is known of an object that is to be written, and whose it is. */
export interface ApplyOptions {
  readonly resource: KubernetesResource;
  /** Part of it that is written. Default: the object without its status. */
  readonly subresource?: 'status';
  /** As it was seen last; undefined: it is not there. */
  readonly observed: KubernetesObject | undefined;
  /** Whether an object bears our marks. Objects of others of which we set some fields: `() => true`. */
  readonly isOurs: (object: KubernetesObject) => boolean;
  /** Takes fields from others that have set them. Only where the whole object is ours. Default false. */
  readonly force?: boolean;
  readonly signal: AbortSignal;
}

/** Counts since the process began. */
export interface ApplierStatus {
  readonly unchanged: number;
  readonly written: number;
  readonly deleted: number;
  readonly foreign: number;
  readonly conflicts: number;
  readonly outdated: number;
}

/** Writes objects, while this replica leads. */
export interface Applier {
  /** Makes the fields of `desired` so. Rejects with KubernetesError, LeadershipError or the signal's reason. */
  apply(desired: DesiredObject, options: ApplyOptions): Promise<ApplyResult>;
  /**
   * Sets fields of an object as wholes, in the version that was seen: what others have added to a list, `apply` would leave there.
   * Null takes a field away. Rejects as `apply`.
   */
  replace(
    object: KubernetesObject,
    fields: JsonFields,
    options: Pick<ApplyOptions, 'resource' | 'isOurs' | 'signal'>,
  ): Promise<ApplyResult>;
  /** Deletes an object in the version that was seen. True: it is gone, or was already; false: it is another or has changed. */
  remove(
    object: KubernetesObject,
    options: Pick<ApplyOptions, 'resource' | 'isOurs' | 'signal'>,
  ): Promise<boolean>;
  readonly status: ApplierStatus;
}

/** Makes a writer. `check` throws where this replica does not lead. */
export function createApplier(options: {
  readonly api: KubernetesApi;
  readonly check: () => void;
  /** Writes a second, after a burst. Default 100 after 200. */
  readonly perSecond?: number;
  readonly burst?: number;
  readonly clock: Clock;
}): Applier {
  const { api, check, clock } = options;
  const rate = createRateLimit({
    perSecond: options.perSecond ?? DEFAULT_PER_SECOND,
    burst: options.burst ?? DEFAULT_BURST,
    clock,
  });
  const counts = { unchanged: 0, written: 0, deleted: 0, foreign: 0, conflicts: 0, outdated: 0 };

  const apply = async (desired: DesiredObject, how: ApplyOptions): Promise<ApplyResult> => {
    const { resource, isOurs, signal } = how;
    const { namespace, name } = desired.metadata;
    const place = { namespace, name, subresource: how.subresource };
    let { observed } = how;
    if (observed === undefined) {
      // What is created must not fall into an object of somebody else, of which the view does not know yet.
      await rate.take(signal);
      observed = await read(api, { resource, namespace, name, signal });
    }
    if (observed !== undefined && !isOurs(observed)) {
      const key = objectKey(namespace ?? '', name);
      return {
        kind: 'foreign',
        message: `${resource.kind} ${key} exists and is not ours: it is left alone, rename or delete it`,
      };
    }
    if (
      observed !== undefined &&
      isApplied(desired, observed.raw, { manager: FIELD_MANAGER, ...how })
    ) {
      return { kind: 'unchanged', object: observed };
    }
    await rate.take(signal);
    check();
    try {
      const { body } = await api.request({
        method: 'PATCH',
        path: resourcePath(resource, place),
        query: { fieldManager: FIELD_MANAGER, force: observed !== undefined && how.force === true },
        contentType: APPLY_PATCH,
        body: {
          ...desired,
          apiVersion: apiVersionOf(resource),
          kind: resource.kind,
          metadata: {
            ...desired.metadata,
            ...(observed === undefined
              ? {}
              : { uid: observed.uid, resourceVersion: observed.resourceVersion }),
          },
        },
        signal,
      });
      return { kind: 'written', object: parseKubernetesObject(body) };
    } catch (error) {
      return refusalOf(error, observed);
    }
  };

  const counted = (result: ApplyResult): ApplyResult => {
    switch (result.kind) {
      case 'unchanged':
      case 'written':
      case 'foreign':
      case 'outdated':
        counts[result.kind] += 1;
        break;
      case 'conflict':
        counts.conflicts += 1;
        break;
      default:
        result satisfies never;
    }
    return result;
  };

  return {
    apply: async (desired, how) => counted(await apply(desired, how)),
    async replace(object, fields, { resource, isOurs, signal }) {
      const { key, namespace, name, uid, resourceVersion } = object;
      if (!isOurs(object)) {
        return counted({ kind: 'foreign', message: `${resource.kind} ${key} is not ours` });
      }
      await rate.take(signal);
      check();
      try {
        const { body } = await api.request({
          method: 'PATCH',
          path: resourcePath(resource, { namespace: namespace || undefined, name }),
          query: { fieldManager: FIELD_MANAGER },
          contentType: MERGE_PATCH,
          body: { ...fields, metadata: { ...recordOf(fields.metadata), uid, resourceVersion } },
          signal,
        });
        return counted({ kind: 'written', object: parseKubernetesObject(body) });
      } catch (error) {
        return counted(refusalOf(error, object));
      }
    },
    async remove(object, { resource, isOurs, signal }) {
      if (!isOurs(object)) return false;
      const { namespace, name, uid, resourceVersion } = object;
      await rate.take(signal);
      check();
      try {
        await api.request({
          method: 'DELETE',
          path: resourcePath(resource, { namespace: namespace || undefined, name }),
          body: {
            apiVersion: 'v1',
            kind: 'DeleteOptions',
            preconditions: { uid, resourceVersion },
            propagationPolicy: 'Background',
          },
          signal,
        });
      } catch (error) {
        if (!(error instanceof KubernetesError)) throw error;
        if (error.code === 'conflict') {
          counts.outdated += 1;
          return false;
        }
        if (error.code !== 'not-found') throw error;
      }
      counts.deleted += 1;
      return true;
    },
    get status() {
      return { ...counts };
    },
  };
}

async function read(
  api: KubernetesApi,
  options: {
    resource: KubernetesResource;
    namespace: string | undefined;
    name: string;
    signal: AbortSignal;
  },
): Promise<KubernetesObject | undefined> {
  const { resource, signal } = options;
  try {
    const { body } = await api.request({
      method: 'GET',
      path: resourcePath(resource, options),
      signal,
    });
    return parseKubernetesObject(body);
  } catch (error) {
    if (error instanceof KubernetesError && error.code === 'not-found') return undefined;
    throw error;
  }
}

/** What a refused write means. Conflicts over fields name their managers; those over versions do not. */
function refusalOf(error: unknown, observed: KubernetesObject | undefined): ApplyResult {
  if (!(error instanceof KubernetesError)) throw error;
  if (error.code === 'not-found' && observed !== undefined) {
    return { kind: 'outdated', message: error.message };
  }
  if (error.code !== 'conflict') throw error;
  const isOverFields = /conflicts? with "|Apply failed with/.test(error.message);
  return { kind: isOverFields ? 'conflict' : 'outdated', message: error.message };
}
