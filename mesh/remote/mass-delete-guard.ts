/**
 * Holds back what a list takes away when that is most of what there was and nothing says that the list was complete: a
 * publisher that has just begun anew on the same etcd has written little, and no marker yet. Deletions that a watch
 * tells are believed. Has no clock and no socket.
 */
import type { MeshKind } from './cluster-sink.ts';

/** Fewer entries than this are let go at once. */
const FEWEST_ENTRIES = 100;
/** Part of the entries that may go at once. */
const LARGEST_PART = 0.5;

/** What is known of a list that left names out. */
export interface ListEnd {
  /** Names that it did not name. */
  readonly gone: readonly string[];
  /** Names that were in use before their removal, those gone included. */
  readonly held: number;
  /** Whether the kind's marker stood in the store at the list's revision. False, too, for a cluster without markers. */
  readonly isMarked: boolean;
  /** Milliseconds of a clock that never goes back. */
  readonly now: number;
}

/** What is held back of one kind. */
export interface HeldBack {
  readonly kind: MeshKind;
  readonly count: number;
  /** Clock time at which the first of it was held back, as given in `now`. */
  readonly since: number;
}

/** What one cluster's lists took away and what is made of it. */
export interface MassDeleteGuard {
  /** Judges the end of a list. Returns the names to let go now. */
  listed(kind: MeshKind, end: ListEnd): readonly string[];
  /** A name is said again: nothing is held back of it. */
  returned(kind: MeshKind, name: string): void;
  /** The marker came. Returns the names to let go now. */
  marked(kind: MeshKind): readonly string[];
  /** Returns what was held back for as long as is allowed, to be let go now. */
  due(now: number): readonly { readonly kind: MeshKind; readonly names: readonly string[] }[];
  /** Names of a kind that are held back. */
  count(kind: MeshKind): number;
  status(): readonly HeldBack[];
  clear(): void;
}

interface Batch {
  readonly since: number;
  readonly names: Set<string>;
}

/** Makes a guard that holds nothing back for longer than `ttlMs`; 0: until the marker comes. */
export function createMassDeleteGuard({ ttlMs }: { readonly ttlMs: number }): MassDeleteGuard {
  const kinds = new Map<MeshKind, Batch[]>();

  const keep = (kind: MeshKind, batches: Batch[]): void => {
    const rest = batches.filter(({ names }) => names.size > 0);
    if (rest.length === 0) kinds.delete(kind);
    else kinds.set(kind, rest);
  };
  const takeAll = (kind: MeshKind): readonly string[] => {
    const batches = kinds.get(kind) ?? [];
    kinds.delete(kind);
    return batches.flatMap(({ names }) => [...names]);
  };

  return {
    listed(kind, { gone, held, isMarked, now }) {
      const batches = kinds.get(kind) ?? [];
      if (isMarked) {
        kinds.delete(kind);
        return gone;
      }
      const isHeld = (name: string): boolean => batches.some(({ names }) => names.has(name));
      const fresh = batches.length === 0 ? gone : gone.filter((name) => !isHeld(name));
      // A name that this list named again is told by `returned`; what remains is judged with what is new.
      const isMass = held > FEWEST_ENTRIES && gone.length > held * LARGEST_PART;
      if (!isMass) {
        // Little is gone by now, so what was held back before is no mass either.
        kinds.delete(kind);
        return gone;
      }
      keep(kind, [...batches, { since: now, names: new Set(fresh) }]);
      return [];
    },
    returned(kind, name) {
      const batches = kinds.get(kind);
      if (batches === undefined) return;
      let emptied = false;
      for (const { names } of batches) {
        if (names.delete(name) && names.size === 0) emptied = true;
      }
      if (emptied) keep(kind, batches);
    },
    marked: takeAll,
    due(now) {
      if (ttlMs === 0) return [];
      const found: { kind: MeshKind; names: readonly string[] }[] = [];
      for (const [kind, batches] of [...kinds]) {
        const late = batches.filter(({ since }) => now - since >= ttlMs);
        if (late.length === 0) continue;
        found.push({ kind, names: late.flatMap(({ names }) => [...names]) });
        keep(
          kind,
          batches.filter((batch) => !late.includes(batch)),
        );
      }
      return found;
    },
    count: (kind) => (kinds.get(kind) ?? []).reduce((sum, { names }) => sum + names.size, 0),
    status: () =>
      [...kinds].map(([kind, batches]) => ({
        kind,
        count: batches.reduce((sum, { names }) => sum + names.size, 0),
        since: Math.min(...batches.map(({ since }) => since)),
      })),
    clear: () => kinds.clear(),
  };
}
