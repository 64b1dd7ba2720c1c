/** A cluster followed through its API server, as the publisher follows it, for scenarios that break what is between. */
import { type KubernetesApi, openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import type { KindBoard } from '../../clustermesh-apiserver/sources/kind-board.ts';
import {
  createKubernetesBoard,
  createKubernetesLooks,
  type KubernetesLooks,
  type KubernetesSourceOptions,
  watchKubernetes,
} from '../../clustermesh-apiserver/sources/kubernetes.ts';
import {
  type ClusterObject,
  type ClusterObjectKind,
  objectId,
} from '../../clustermesh-apiserver/sources/objects.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { waitFor } from '../lab/wait-for.ts';

/** What is known of it. Disposing ends the following. */
export interface FollowedCluster extends AsyncDisposable {
  readonly api: KubernetesApi;
  readonly board: KindBoard;
  readonly looks: KubernetesLooks;
  readonly objects: ReadonlyMap<string, ClusterObject>;
  /** Kinds told as synced, in the order in which they were. */
  readonly synced: readonly ClusterObjectKind[];
  /** Every event so far, as text: `upsert Pod a/b`. */
  readonly events: readonly string[];
  /** Ids of a kind's objects, in order. */
  names(kind: ClusterObjectKind): string[];
  /** The fewest objects of a kind since this was last asked. */
  fewest(kind: ClusterObjectKind): number;
  /** Resolves when the ids of a kind's objects are these. */
  shows(kind: ClusterObjectKind, ids: readonly string[]): Promise<void>;
  /** Resolves when a kind is in a state. */
  becomes(kind: ClusterObjectKind, state: string): Promise<void>;
}

/** Follows a cluster with short waits. */
export async function followCluster(
  kubeconfig: string,
  options: Partial<KubernetesSourceOptions> & Pick<KubernetesSourceOptions, 'mode'>,
): Promise<FollowedCluster> {
  const ending = new AbortController();
  const api = await openKubernetes({ kubeconfig, clock: systemClock });
  const board = createKubernetesBoard(options);
  const looks = createKubernetesLooks(board, systemClock);
  const objects = new Map<string, ClusterObject>();
  const synced: ClusterObjectKind[] = [];
  const events: string[] = [];
  const fewest = new Map<ClusterObjectKind, number>();
  const ofKind = (kind: ClusterObjectKind): string[] =>
    [...objects]
      .flatMap(([id, object]) => (object.kind === kind ? [id.slice(kind.length + 1)] : []))
      .sort();
  const batches = watchKubernetes(api, {
    backoffMs: { min: 50, max: 500 },
    ...options,
    board,
    looks,
    clock: systemClock,
    logger: createLogger('followed', { level: 'silent' }),
    signal: ending.signal,
  });
  const following = (async () => {
    for await (const batch of batches) {
      for (const event of batch) {
        if (event.kind === 'synced') {
          synced.push(...event.kinds);
          continue;
        }
        const id = objectId(event.object);
        events.push(`${event.kind} ${id}`);
        if (event.kind === 'upsert') objects.set(id, event.object);
        else objects.delete(id);
        const { kind } = event.object;
        const count = ofKind(kind).length;
        fewest.set(kind, Math.min(fewest.get(kind) ?? count, count));
      }
    }
  })();
  return {
    api,
    board,
    looks,
    objects,
    synced,
    events,
    names: ofKind,
    fewest(kind) {
      const count = fewest.get(kind) ?? ofKind(kind).length;
      fewest.delete(kind);
      return count;
    },
    async shows(kind, ids) {
      const wanted = [...ids].sort().join(' ');
      await waitFor(`${kind} to be ${wanted}`, () => ofKind(kind).join(' ') === wanted);
    },
    async becomes(kind, state) {
      await waitFor(`${kind} to be ${state}`, () =>
        board.kinds.some((report) => report.kind === kind && report.state === state),
      );
    },
    async [Symbol.asyncDispose]() {
      ending.abort();
      await following;
      await api[Symbol.asyncDispose]();
    },
  };
}
