/** Makes what fails small enough to read. */

type Path = readonly (string | number)[];

/**
 * Leaves out of a value of objects and lists whatever it fails without, largest parts first, until nothing more can go.
 * `isWrong` says whether a smaller value fails still; one that it cannot judge (it throws) does not count. Fields that are
 * called as in `kept` stay whole.
 */
export function minimise<T>(
  value: T,
  { isWrong, kept }: { isWrong: (candidate: T) => boolean; kept: ReadonlySet<string> },
): T {
  let smallest = value;
  for (let isSmaller = true; isSmaller; ) {
    isSmaller = false;
    for (const path of pathsOf(smallest, kept)) {
      const candidate = without(smallest, path);
      if (candidate === undefined || !fails(candidate, isWrong)) continue;
      smallest = candidate;
      isSmaller = true;
      break;
    }
  }
  return smallest;
}

function fails<T>(candidate: T, isWrong: (candidate: T) => boolean): boolean {
  try {
    return isWrong(candidate);
  } catch {
    return false;
  }
}

/** Ways to every part, those of the whole before those of its parts. */
function pathsOf(value: unknown, kept: ReadonlySet<string>): Path[] {
  const found: Path[] = [];
  let level: { path: Path; part: unknown }[] = [{ path: [], part: value }];
  while (level.length > 0) {
    level = level.flatMap(({ path, part }) => {
      if (typeof part !== 'object' || part === null) return [];
      return Object.entries(part)
        .filter(([key]) => !kept.has(key))
        .map(([key, inner]) => ({
          path: [...path, Array.isArray(part) ? Number(key) : key],
          part: inner,
        }));
    });
    found.push(...level.map(({ path }) => path));
  }
  return found;
}

/** A copy that lacks one part. */
function without<T>(value: T, path: Path): T | undefined {
  const copy = structuredClone(value);
  let parent: unknown = copy;
  for (const key of path.slice(0, -1)) parent = Reflect.get(Object(parent), key);
  const last = path.at(-1);
  if (Array.isArray(parent) && typeof last === 'number') parent.splice(last, 1);
  else if (last === undefined || !Reflect.deleteProperty(Object(parent), last)) return undefined;
  return copy;
}
