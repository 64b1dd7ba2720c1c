/** The objects of one kind as last known: what of an object's news is news to the consumer. Nothing here waits. */

/** A change to tell the consumer. */
export type HeldChange<T> =
  | { readonly kind: 'upsert'; readonly object: T }
  | { readonly kind: 'delete'; readonly object: T };

/** Objects of one kind. */
export interface HeldObjects<T> {
  /**
   * Takes an object as it is now; undefined when nothing has changed for the consumer. `trustVersions` false looks at the
   * content even of an object whose version is known: after a restored backup the same number means another object.
   */
  take(object: unknown, options: { readonly trustVersions: boolean }): HeldChange<T> | undefined;
  /** Takes the deletion of an object. */
  remove(object: unknown): HeldChange<T> | undefined;
  /** Begins a list; `end` gives what was not in it, and `keep` makes that wait until `deadline` (monotonic milliseconds). */
  beginList(): void;
  endList(): HeldChange<T>[];
  /** Ends a list of which nothing that is missing is believed yet: it is kept until `deadline`. Returns how many. */
  endListKeeping(deadline: number): number;
  /** What was kept and whose time is over. */
  sweep(now: number): HeldChange<T>[];
  /** Objects kept though the server does not have them. */
  readonly kept: number;
  readonly size: number;
  /** By `namespace/name`: what cannot be used, and why. */
  readonly problems: ReadonlyMap<string, string>;
}

interface Entry<T> {
  uid: string;
  version: string;
  /** The last good version; undefined when there was none, or when it does not matter. */
  object: T | undefined;
  /** Number of the list that had it last. */
  list: number;
}

/** Makes the memory of one kind. */
export function createHeldObjects<T>(options: {
  readonly parse: (object: unknown) => T;
  readonly keep?: ((object: T) => boolean) | undefined;
}): HeldObjects<T> {
  const { parse, keep: matters } = options;
  const entries = new Map<string, Entry<T>>();
  const problems = new Map<string, string>();
  const kept = new Map<string, number>();
  let list = 0;

  const drop = (id: string): HeldChange<T> | undefined => {
    const entry = entries.get(id);
    entries.delete(id);
    problems.delete(id);
    kept.delete(id);
    return entry?.object === undefined ? undefined : { kind: 'delete', object: entry.object };
  };
  const missing = (): string[] =>
    [...entries].flatMap(([id, entry]) => (entry.list === list || kept.has(id) ? [] : [id]));

  return {
    take(raw, { trustVersions }) {
      const { id, uid, version } = metadataOf(raw);
      if (id === undefined) {
        problems.set(NAMELESS, 'an object without a name');
        return undefined;
      }
      kept.delete(id);
      const before = entries.get(id);
      if (before !== undefined) before.list = list;
      if (trustVersions && before?.uid === uid && before.version === version && version !== '') {
        return undefined;
      }
      let object: T;
      try {
        object = parse(raw);
      } catch (error) {
        problems.set(id, error instanceof Error ? error.message : String(error));
        entries.set(id, { uid, version, object: before?.object, list });
        return undefined;
      }
      problems.delete(id);
      const isWanted = matters?.(object) ?? true;
      entries.set(id, { uid, version, object: isWanted ? object : undefined, list });
      const known = before?.object;
      if (!isWanted) return known === undefined ? undefined : { kind: 'delete', object: known };
      // Much of what changes in an object is cut off: heartbeats, conditions, who wrote what.
      if (known !== undefined && JSON.stringify(known) === JSON.stringify(object)) return undefined;
      return { kind: 'upsert', object };
    },
    remove(raw) {
      const { id } = metadataOf(raw);
      return id === undefined ? undefined : drop(id);
    },
    beginList() {
      list += 1;
      problems.delete(NAMELESS);
    },
    endList: () => missing().flatMap((id) => drop(id) ?? []),
    endListKeeping(deadline) {
      const ids = missing();
      for (const id of ids) kept.set(id, deadline);
      return ids.length;
    },
    sweep(now) {
      if (kept.size === 0) return [];
      return [...kept].flatMap(([id, deadline]) => (deadline > now ? [] : (drop(id) ?? [])));
    },
    get kept() {
      return kept.size;
    },
    get size() {
      return entries.size;
    },
    problems,
  };
}

/** Under which a problem stands whose object has no name. */
const NAMELESS = '?';

/** Version of a single object, empty when it has none. */
export function versionOf(object: unknown): string {
  return metadataOf(object).version;
}

/** Whether a version is surely older than another: versions are numbers of etcd, compared as such, and unknown otherwise. */
export function isOlder(version: string, than: string): boolean {
  if (!/^\d+$/.test(version) || !/^\d+$/.test(than)) return false;
  return version.length === than.length ? version < than : version.length < than.length;
}

function metadataOf(object: unknown): {
  readonly id: string | undefined;
  readonly uid: string;
  readonly version: string;
} {
  const meta = (object as { metadata?: Readonly<Record<string, unknown>> } | null | undefined)
    ?.metadata;
  const { name, namespace, uid, resourceVersion } = meta ?? {};
  const path = typeof namespace === 'string' && namespace !== '' ? `${namespace}/` : '';
  return {
    id: typeof name === 'string' && name !== '' ? `${path}${name}` : undefined,
    uid: typeof uid === 'string' ? uid : '',
    version: typeof resourceVersion === 'string' ? resourceVersion : '',
  };
}
