import type { Backend } from './desired.ts';

/** What makes one list of backends the other. */
export interface BackendDifference {
  readonly added: readonly Backend[];
  readonly removed: readonly Backend[];
}

/** Text that is equal for equal backends. */
export function backendKeyOf({ protocol, address, port, clusterId }: Backend): string {
  return `${protocol} ${address} ${port} ${clusterId}`;
}

/** How many entries in a row may be new or gone before lists are compared by their keys. */
const LOOK_AHEAD = 16;

/**
 * Compares two lists, in whatever order they are. Objects that stand in both lists, in the same order, are passed over
 * without a look at them: whoever makes a new list out of the objects of the old one pays for the difference, not for
 * the list.
 */
export function diffBackends(
  before: readonly Backend[],
  after: readonly Backend[],
): BackendDifference {
  const added: Backend[] = [];
  const removed: Backend[] = [];
  let old = 0;
  let now = 0;
  while (old < before.length && now < after.length) {
    if (before[old] === after[now]) {
      old += 1;
      now += 1;
      continue;
    }
    const gone = distance(before, old, after[now]);
    const come = distance(after, now, before[old]);
    // Neither is near: what is left of both is compared in the slower way.
    if (gone === undefined && come === undefined) {
      if (before[old + 1] !== after[now + 1]) break;
      removed.push(...before.slice(old, old + 1));
      added.push(...after.slice(now, now + 1));
      old += 1;
      now += 1;
    } else if (come === undefined || (gone !== undefined && gone <= come)) {
      removed.push(...before.slice(old, old + (gone ?? 0)));
      old += gone ?? 0;
    } else {
      added.push(...after.slice(now, now + come));
      now += come;
    }
  }
  const allRemoved = removed.concat(before.slice(old));
  const allAdded = added.concat(after.slice(now));
  return { added: without(allAdded, allRemoved), removed: without(allRemoved, allAdded) };
}

/** How far behind `from` an object stands in a list, undefined when it is not near. */
function distance(
  list: readonly Backend[],
  from: number,
  wanted: Backend | undefined,
): number | undefined {
  for (let step = 1; step <= LOOK_AHEAD; step += 1) {
    if (list[from + step] === wanted) return step;
  }
  return undefined;
}

function without(list: readonly Backend[], others: readonly Backend[]): readonly Backend[] {
  if (list.length === 0 || others.length === 0) return list;
  const keys = new Set(others.map(backendKeyOf));
  return list.filter((backend) => !keys.has(backendKeyOf(backend)));
}
