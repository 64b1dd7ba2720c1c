/** What a source tells of its cluster's objects. */
import type { ClusterObject, ClusterObjectKind } from './objects.ts';

/**
 * A change of the cluster's objects. `synced` comes when everything there was at the beginning of some kinds has been told,
 * once for each kind that the source reads; a kind that the source has found not to exist in this cluster, and that need
 * not exist, counts as told. Until a kind is synced nobody takes the absence of an object for its deletion.
 */
export type ObjectEvent =
  | { readonly kind: 'upsert'; readonly object: ClusterObject }
  | { readonly kind: 'delete'; readonly object: ClusterObject }
  | { readonly kind: 'synced'; readonly kinds: readonly ClusterObjectKind[] };
