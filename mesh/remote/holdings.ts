import type { MeshKind } from './cluster-sink.ts';
import { createLedger, type Ledger } from './ledger.ts';

/** What is noted of a name besides that it is in use. */
export interface HoldingNote {
  /** Number of the host that it is on, 0 for none. */
  readonly host: number;
  /** Hash of its key and value, zeros where nobody wants it. */
  readonly hash: readonly [number, number];
}

/** Nothing to note. */
export const NO_NOTE: HoldingNote = { host: 0, hash: [0, 0] };

/**
 * Names of what is in use from one cluster, by kind, and keys of what is there and refused. When a list begins they
 * become suspect; what the list names is cleared, and what is still suspect at its end is gone.
 */
export interface Holdings {
  /** Returns whether it is new. */
  add(kind: MeshKind, name: string, note?: HoldingNote): boolean;
  /** Returns whether it was held. */
  remove(kind: MeshKind, name: string): boolean;
  has(kind: MeshKind, name: string): boolean;
  beginList(kind: MeshKind): void;
  /** Names that the list did not name. */
  unlisted(kind: MeshKind): readonly string[];
  /** Ends a list. Returns the names that it did not name; they are held no more. */
  endList(kind: MeshKind): readonly string[];
  /** Empties a kind. */
  takeAll(kind: MeshKind): string[];
  count(kind: MeshKind): number;
  /** The names of a kind. */
  names(kind: MeshKind): Ledger;
  /** The keys of a kind that are refused. */
  refused(kind: MeshKind): Ledger;
}

interface Kind {
  readonly held: Ledger;
  readonly refused: Ledger;
}

/** Makes an empty record. */
export function createHoldings(): Holdings {
  const kinds = new Map<MeshKind, Kind>();
  const of = (kind: MeshKind): Kind => {
    const found = kinds.get(kind);
    if (found !== undefined) return found;
    const made = { held: createLedger(), refused: createLedger() };
    kinds.set(kind, made);
    return made;
  };
  return {
    add: (kind, name, note = NO_NOTE) => of(kind).held.put(name, note),
    remove: (kind, name) => of(kind).held.delete(name),
    has: (kind, name) => of(kind).held.has(name),
    beginList(kind) {
      const { held, refused } = of(kind);
      held.beginList();
      refused.beginList();
    },
    unlisted: (kind) => of(kind).held.unlisted(),
    endList(kind) {
      const { held } = of(kind);
      const gone = held.unlisted();
      for (const name of gone) held.delete(name);
      return gone;
    },
    takeAll(kind) {
      const names = [...of(kind).held.names()];
      kinds.delete(kind);
      return names;
    },
    count: (kind) => of(kind).held.size,
    names: (kind) => of(kind).held,
    refused: (kind) => of(kind).refused,
  };
}
