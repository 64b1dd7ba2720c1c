import type { KvError, KvEvent } from './kvstore.ts';
import type { MemoryChange, MemoryData } from './memory-data.ts';

type ListReason = (KvEvent & { kind: 'list-start' })['reason'];

/** Watches in-memory data with the same sequence of events as a watch of etcd. Ends without an error when the signal aborts. */
export async function* watchMemory(
  data: MemoryData,
  target: { readonly prefix: string } | { readonly key: string },
  options: { signal: AbortSignal; failure: () => KvError | undefined },
): AsyncGenerator<KvEvent, void, undefined> {
  const { signal, failure } = options;
  const shown = new Set<string>();
  let reason: ListReason | undefined = 'first';
  let clusterId = data.clusterId;
  let position = 0;
  let progressTold = data.progressAsked;
  const matches = ({ key }: MemoryChange): boolean =>
    'prefix' in target ? key.startsWith(target.prefix) : key === target.key;

  while (!signal.aborted) {
    const error = failure();
    if (error !== undefined) {
      yield { kind: 'disconnected', error };
      while (failure() !== undefined && !signal.aborted) await data.changed(signal);
      if (signal.aborted) return;
      if (reason === undefined && clusterId === data.clusterId) {
        yield { kind: 'progress', revision: data.revision };
      }
      continue;
    }
    if (clusterId !== data.clusterId) reason ??= 'cluster-changed';
    else if (data.changesFrom(position) === undefined) reason ??= 'compacted';
    if (reason !== undefined) {
      yield { kind: 'list-start', reason };
      reason = undefined;
      clusterId = data.clusterId;
      position = data.end;
      const revision = data.revision;
      const pairs = data.range(target);
      for (const pair of pairs) yield { kind: 'put', pair };
      const listed = new Set(pairs.map(({ key }) => key));
      for (const key of shown) {
        if (!listed.has(key)) yield { kind: 'delete', key, modRevision: revision, derived: true };
      }
      shown.clear();
      for (const key of listed) shown.add(key);
      yield { kind: 'synced', revision, count: pairs.length };
      continue;
    }
    const changes = data.changesFrom(position);
    if (changes === undefined) continue;
    for (const change of changes) {
      position += 1;
      if (!matches(change)) continue;
      if (change.pair === undefined) {
        shown.delete(change.key);
        yield { kind: 'delete', key: change.key, modRevision: change.revision, derived: false };
      } else {
        shown.add(change.key);
        yield { kind: 'put', pair: change.pair };
      }
      if (signal.aborted || failure() !== undefined) break;
    }
    if (changes.length > 0) continue;
    if (progressTold !== data.progressAsked) {
      progressTold = data.progressAsked;
      yield { kind: 'progress', revision: data.revision };
      continue;
    }
    await data.changed(signal);
  }
}
