/**
 * The own cluster's addresses and identities stand in two places: where peers read as well, and where only own agents may.
 * To whoever is told they are one. A name that stands in both is told as peers see it. One that goes from one place to the
 * other is never told as gone: the watches of the two places are two, and either may be the first to tell of its part. Has
 * no clock; time comes in as numbers.
 */
import { retraction } from './accept.ts';
import { type ClusterChange, LOCAL_HALVES, type MeshKind } from './cluster-sink.ts';

/** How far the reader of a half is. */
export type HalfState =
  /** It does not hear its server, or has not read it all. */
  | 'away'
  /** It hears it again, and may still be told of what was. */
  | 'catching-up'
  /** It has been told of everything up to now. */
  | 'current';

/** How long a name is kept that is in neither half, by how far the reader of the other half is, in milliseconds. */
const KEPT_MS = {
  current: 1000,
  'catching-up': 15_000,
  away: Number.POSITIVE_INFINITY,
} as const satisfies Record<HalfState, number>;
/** How soon it is looked again how far a reader is. */
const LOOK_AGAIN_MS = 1000;

/** Both halves of the own cluster's kinds that have two. */
export interface Halves {
  /** Takes what a half says of a name now, which it holds. Returns what is to be told, if anything. */
  put(kind: MeshKind, name: string, change: ClusterChange): ClusterChange | undefined;
  /** Takes that a half holds a name no more. Returns what is to be told at once, if anything. */
  gone(kind: MeshKind, name: string): ClusterChange | undefined;
  /** Whether names are kept that are in neither half. */
  readonly isKeeping: boolean;
  /** Names that go now, with the kind that they are told under, and when to ask next. */
  expire(
    now: number,
    stateOf: (kind: MeshKind) => HalfState,
  ): { readonly gone: readonly (readonly [MeshKind, string])[]; readonly next: number };
  /** Forgets everything. Returns the names that were kept. */
  clear(): readonly (readonly [MeshKind, string])[];
}

/** One kind in two halves. */
interface Pair {
  readonly whole: MeshKind;
  readonly local: MeshKind;
  /** What the local half says. There is little of it: namespaces are global unless they say otherwise. */
  readonly values: Map<string, ClusterChange>;
  /** Names that are in neither half, with the half that must be current before they go. */
  readonly kept: Map<string, { readonly awaited: MeshKind; since: number | undefined }>;
}

/** Makes both halves of everything, empty. `holds` says whether a half holds a name now. */
export function createHalves(holds: (kind: MeshKind, name: string) => boolean): Halves {
  const pairs = LOCAL_HALVES.map(
    ([whole, local]): Pair => ({ whole, local, values: new Map(), kept: new Map() }),
  );
  const pairOf = (kind: MeshKind): Pair | undefined =>
    pairs.find(({ whole, local }) => kind === whole || kind === local);

  return {
    put(kind, name, change) {
      const pair = pairOf(kind);
      if (pair === undefined) return change;
      pair.kept.delete(name);
      if (kind === pair.whole) return change;
      pair.values.set(name, change);
      return holds(pair.whole, name) ? undefined : change;
    },
    gone(kind, name) {
      const pair = pairOf(kind);
      if (pair === undefined) return retraction(kind, name);
      if (kind === pair.local) {
        pair.values.delete(name);
        if (!holds(pair.whole, name))
          pair.kept.set(name, { awaited: pair.whole, since: undefined });
        return undefined;
      }
      const below = pair.values.get(name);
      if (below === undefined) pair.kept.set(name, { awaited: pair.local, since: undefined });
      return below;
    },
    get isKeeping() {
      return pairs.some(({ kept }) => kept.size > 0);
    },
    expire(now, stateOf) {
      const gone: [MeshKind, string][] = [];
      let next = Number.POSITIVE_INFINITY;
      for (const { whole, kept } of pairs) {
        for (const [name, entry] of kept) {
          entry.since ??= now;
          const at = entry.since + KEPT_MS[stateOf(entry.awaited)];
          if (at > now) {
            next = Math.min(next, at, now + LOOK_AGAIN_MS);
            continue;
          }
          kept.delete(name);
          gone.push([whole, name]);
        }
      }
      return { gone, next };
    },
    clear() {
      const all: [MeshKind, string][] = [];
      for (const { whole, values, kept } of pairs) {
        for (const name of kept.keys()) all.push([whole, name]);
        values.clear();
        kept.clear();
      }
      return all;
    },
  };
}

/** The kind under which a half is told. */
export function wholeOf(kind: MeshKind): MeshKind {
  return LOCAL_HALVES.find(([, local]) => kind === local)?.[0] ?? kind;
}
