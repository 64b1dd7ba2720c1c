import type { MeshKind } from './cluster-sink.ts';

/**
 * Names of what is in use from one cluster, by kind. When a list begins they become suspect; what the list names is
 * cleared, and what is still suspect at its end is gone.
 */
export interface Holdings {
  add(kind: MeshKind, name: string): void;
  /** Returns whether it was held. */
  remove(kind: MeshKind, name: string): boolean;
  beginList(kind: MeshKind): void;
  /** Ends a list. Returns the names that it did not name; they are held no more. */
  endList(kind: MeshKind): Iterable<string>;
  /** Empties a kind. */
  takeAll(kind: MeshKind): string[];
  count(kind: MeshKind): number;
}

interface Names {
  current: Set<string>;
  suspect: Set<string>;
}

/** Makes an empty record. */
export function createHoldings(): Holdings {
  const kinds = new Map<MeshKind, Names>();
  const namesOf = (kind: MeshKind): Names => {
    const found = kinds.get(kind) ?? { current: new Set<string>(), suspect: new Set<string>() };
    kinds.set(kind, found);
    return found;
  };
  return {
    add(kind, name) {
      const names = namesOf(kind);
      names.current.add(name);
      names.suspect.delete(name);
    },
    remove(kind, name) {
      const names = namesOf(kind);
      const current = names.current.delete(name);
      return names.suspect.delete(name) || current;
    },
    beginList(kind) {
      const names = namesOf(kind);
      // A list that was cut off left some names suspect still.
      if (names.suspect.size === 0) names.suspect = names.current;
      else for (const name of names.current) names.suspect.add(name);
      names.current = new Set();
    },
    endList(kind) {
      const names = namesOf(kind);
      const gone = names.suspect;
      names.suspect = new Set();
      return gone;
    },
    takeAll(kind) {
      const names = namesOf(kind);
      kinds.delete(kind);
      return [...names.current, ...names.suspect];
    },
    count(kind) {
      const names = namesOf(kind);
      return names.current.size + names.suspect.size;
    },
  };
}
