/** All objects of a kind, as the API server had them a moment ago: what controllers look things up in. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { KubernetesApi } from '../kubernetes/api.ts';
import { type ReflectorStatus, reflect } from '../kubernetes/reflector.ts';
import type { KubernetesResource } from '../kubernetes/resource.ts';
import type { KubernetesObject } from './kubernetes-object.ts';

/** A change of an object. Undefined `before`: it is new; undefined `after`: it is gone. */
export interface ObjectChange<T> {
  readonly key: string;
  readonly before: T | undefined;
  readonly after: T | undefined;
}

/** Names under which an object can be found besides its key. */
export type ObjectIndexes<T, Index extends string> = Readonly<
  Record<Index, (object: T) => readonly string[]>
>;

/** Objects of a kind. */
export interface ObjectView<T, Index extends string = never> {
  readonly resource: KubernetesResource;
  get(key: string): T | undefined;
  /** Objects that an index has under a name. */
  by(index: Index, name: string): readonly T[];
  /** All names of an index. */
  names(index: Index): Iterable<string>;
  values(): Iterable<T>;
  keys(): Iterable<string>;
  readonly size: number;
  /** Whether the kind was complete once. Before that nothing may be concluded from what is not there. */
  readonly isSynced: boolean;
  /** Why it is not in step with the API server, if it is not. */
  readonly status: ReflectorStatus | undefined;
  /** Resolves when it is synced. Rejects with the signal's reason when it aborts. */
  synced(signal: AbortSignal): Promise<void>;
  /** Calls back after each change, until the returned function is called. Callbacks return at once and never throw. */
  onChange(callback: (change: ObjectChange<T>) => void): () => void;
  /** As `onChange`, when it is synced for the first time and after each later complete list. */
  onSynced(callback: () => void): () => void;
  /** Follows the API server until `signal` aborts; errors are waited out. To be called once. */
  follow(signal: AbortSignal): Promise<void>;
}

/** Kinds that were complete and cannot be followed any more, each with the reason: what was read of them stays. */
export function problemsOfViews(
  views: readonly Pick<ObjectView<never>, 'resource' | 'isSynced' | 'status'>[],
): string[] {
  return views.flatMap(({ resource, isSynced, status }) =>
    isSynced && status !== undefined && status.reason !== ''
      ? [`${resource.plural}: ${status.reason}`]
      : [],
  );
}

/** What a view is made of. */
export interface ObjectViewOptions<T, Index extends string> {
  /** Cuts an object down to what is used; throws when it cannot be used. */
  readonly parse: (value: unknown) => T;
  readonly indexes?: ObjectIndexes<T, Index>;
  /** Objects for which it is false are as if they were not there. */
  readonly keep?: (object: T) => boolean;
  readonly labelSelector?: string;
  /** A kind that the API server does not know counts as complete and empty. Default: it is waited for. */
  readonly mayBeAbsent?: boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Makes a view that holds nothing yet. */
export function createObjectView<
  T extends Pick<KubernetesObject, 'key'>,
  Index extends string = never,
>(
  api: KubernetesApi,
  resource: KubernetesResource,
  options: ObjectViewOptions<T, Index>,
): ObjectView<T, Index> {
  const objects = new Map<string, T>();
  const indexes = createIndexes<T, Index>(options.indexes);
  const changed = new Set<(change: ObjectChange<T>) => void>();
  const synced = new Set<() => void>();
  let isSynced = false;
  let status: ReflectorStatus | undefined;

  const set = (key: string, after: T | undefined): void => {
    const before = objects.get(key);
    if (before === undefined && after === undefined) return;
    if (before !== undefined) indexes.remove(key, before);
    if (after === undefined) objects.delete(key);
    else {
      objects.set(key, after);
      indexes.add(key, after);
    }
    for (const callback of changed) callback({ key, before, after });
  };
  const subscribe =
    <C>(callbacks: Set<C>) =>
    (callback: C) => {
      callbacks.add(callback);
      return () => void callbacks.delete(callback);
    };
  const onSynced = subscribe(synced);

  return {
    resource,
    get: (key) => objects.get(key),
    by: (index, name) =>
      [...indexes.keys(index, name)].flatMap((key) => {
        const object = objects.get(key);
        return object === undefined ? [] : [object];
      }),
    names: (index) => indexes.names(index),
    values: () => objects.values(),
    keys: () => objects.keys(),
    get size() {
      return objects.size;
    },
    get isSynced() {
      return isSynced;
    },
    get status() {
      return status;
    },
    synced: (signal) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) return reject(signal.reason);
        if (isSynced) return resolve();
        const end = (): void => {
          unsubscribe();
          signal.removeEventListener('abort', onAbort);
        };
        const onAbort = (): void => {
          end();
          reject(signal.reason);
        };
        const unsubscribe = onSynced(() => {
          end();
          resolve();
        });
        signal.addEventListener('abort', onAbort, { once: true });
      }),
    onChange: subscribe(changed),
    onSynced,
    async follow(signal) {
      const { parse, keep, labelSelector, mayBeAbsent, clock, logger } = options;
      const batches = reflect(api, resource, {
        parse,
        clock,
        logger,
        signal,
        onStatus: (next) => {
          status = next;
        },
        ...(keep === undefined ? {} : { keep }),
        ...(labelSelector === undefined ? {} : { labelSelector }),
        mayBeAbsent,
      });
      for await (const batch of batches) {
        for (const event of batch) {
          if (event.kind === 'synced') {
            isSynced = true;
            for (const callback of synced) callback();
          } else set(event.object.key, event.kind === 'upsert' ? event.object : undefined);
        }
      }
    },
  };
}

/** Keys by the names that each index gives their objects. */
function createIndexes<T, Index extends string>(indexes: ObjectIndexes<T, Index> | undefined) {
  const tables = new Map<string, Map<string, Set<string>>>();
  const functions: [string, (object: T) => readonly string[]][] = Object.entries(indexes ?? {});
  for (const [index] of functions) tables.set(index, new Map());
  const each = (
    object: T,
    visit: (table: Map<string, Set<string>>, name: string) => void,
  ): void => {
    for (const [index, namesOf] of functions) {
      const table = tables.get(index);
      if (table === undefined) continue;
      for (const name of namesOf(object)) visit(table, name);
    }
  };
  return {
    add(key: string, object: T): void {
      each(object, (table, name) => {
        const keys = table.get(name) ?? new Set();
        keys.add(key);
        table.set(name, keys);
      });
    },
    remove(key: string, object: T): void {
      each(object, (table, name) => {
        const keys = table.get(name);
        keys?.delete(key);
        if (keys?.size === 0) table.delete(name);
      });
    },
    keys: (index: Index, name: string): Iterable<string> => tables.get(index)?.get(name) ?? [],
    names: (index: Index): Iterable<string> => tables.get(index)?.keys() ?? [],
  };
}
