/** Keys in the order in which they are worked on: each group in turn, within a group the oldest first. A key is in it once. */
export interface ReadyLine {
  readonly size: number;
  has(key: string): boolean;
  /** Puts a key at the end of its group, unless it stands there. `since`: from when it waits. */
  push(key: string, since: number): void;
  shift(): { readonly key: string; readonly since: number } | undefined;
}

/** Makes an empty line. `groupOf` says in whose turn a key is; by default all are of one group. */
export function createReadyLine(groupOf: (key: string) => string = () => ''): ReadyLine {
  /** Groups with keys, in the order of their turns; a map keeps the order in which keys were put. */
  const groups = new Map<string, Map<string, number>>();
  let size = 0;
  return {
    get size() {
      return size;
    },
    has: (key) => groups.get(groupOf(key))?.has(key) ?? false,
    push(key, since) {
      const name = groupOf(key);
      const group = groups.get(name) ?? new Map<string, number>();
      if (group.has(key)) return;
      group.set(key, since);
      groups.set(name, group);
      size += 1;
    },
    shift() {
      for (const [name, group] of groups) {
        for (const [key, since] of group) {
          group.delete(key);
          size -= 1;
          // To the end of the turns, or out of them.
          groups.delete(name);
          if (group.size > 0) groups.set(name, group);
          return { key, since };
        }
      }
      return undefined;
    },
  };
}
