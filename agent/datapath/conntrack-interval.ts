import type { MapUse } from './desired.ts';

/** Shortest time between two rounds. */
const SHORTEST_MS = 15_000;
/** Longest: so old may the counts of the maps be. */
const LONGEST_MS = 300_000;
/** Rounds take at most this part of one CPU, whatever there is to do. */
const LARGEST_SHARE = 0.01;
/** More than this part of the entries had expired: rounds come sooner. */
const MUCH_GARBAGE = 0.25;
/** Less than this: later. */
const LITTLE_GARBAGE = 0.05;
/** A map as full as this is looked after as often as can be. */
const PRESSURE = 0.8;

/** What the last round found and what it cost. */
export interface Round {
  readonly uses: readonly (MapUse & { readonly deleted: number; readonly left: number })[];
  /** Milliseconds of CPU. */
  readonly busyMs: number;
}

/** Milliseconds until the next round. `intervalMs`: how long it was until this one, undefined at the start. */
export function nextInterval({ uses, busyMs }: Round, intervalMs: number | undefined): number {
  const affordable = busyMs / LARGEST_SHARE;
  let wanted = intervalMs ?? SHORTEST_MS;
  const garbage = uses.map(({ entries, deleted, left }) => {
    const expired = deleted + left;
    return expired / Math.max(1, entries + expired);
  });
  const most = Math.max(0, ...garbage);
  if (uses.some(({ left }) => left > 0) || uses.some(isFull)) wanted = SHORTEST_MS;
  else if (most > MUCH_GARBAGE) wanted /= 2;
  else if (most < LITTLE_GARBAGE && intervalMs !== undefined) wanted *= 1.5;
  return Math.round(Math.max(affordable, Math.min(LONGEST_MS, Math.max(SHORTEST_MS, wanted))));
}

/** Nothing can be done for a map without expiry, which is full in the normal course of things. */
function isFull(use: Round['uses'][number]): boolean {
  return use.deleted + use.left > 0 && (use.entries + use.left) / use.maxEntries > PRESSURE;
}
