/**
 * Whether a custom kind's definition stands. Who deletes a CustomResourceDefinition deletes all its objects with it, one by
 * one, in the same stream as deletions that are meant: before such a delete is believed the definition is asked for.
 */
import type { KubernetesApi } from './api.ts';
import { KubernetesError } from './kubernetes-error.ts';
import { type KubernetesResource, RESOURCES, resourceName, resourcePath } from './resource.ts';

/** State of a definition. */
export type DefinitionState =
  /** It stands; another `uid` than before means that it was made anew, and its objects are gone. */
  | { readonly kind: 'standing'; readonly uid: string }
  | { readonly kind: 'deleting' }
  | { readonly kind: 'missing' }
  /** We may not look: deletes are believed. */
  | { readonly kind: 'unknown'; readonly reason: string };

/** Looks at the definition of a kind, with a consistent read. Rejects as `KubernetesApi.request`, but for a missing permission. */
export async function readDefinition(
  api: KubernetesApi,
  resource: KubernetesResource,
  signal: AbortSignal,
): Promise<DefinitionState> {
  const path = resourcePath(RESOURCES.customResourceDefinitions, { name: resourceName(resource) });
  try {
    const { body } = await api.request({ method: 'GET', path, accept: METADATA_ONLY, signal });
    const meta = (body as { metadata?: Readonly<Record<string, unknown>> } | undefined)?.metadata;
    const { uid, deletionTimestamp } = meta ?? {};
    if (typeof deletionTimestamp === 'string') return { kind: 'deleting' };
    return { kind: 'standing', uid: typeof uid === 'string' ? uid : '' };
  } catch (error) {
    if (!(error instanceof KubernetesError)) throw error;
    if (error.code === 'not-found') return { kind: 'missing' };
    if (error.code === 'forbidden') return { kind: 'unknown', reason: error.message };
    throw error;
  }
}

/** Schemas are large, and of no interest here. */
const METADATA_ONLY =
  'application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json;q=0.9';
