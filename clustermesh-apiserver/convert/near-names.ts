/** Names that are almost the ones that somebody meant. */

/** Slips that still count as the same word: letters added, left out or replaced; two of them make a swap. */
const MAX_SLIPS = 2;

/** The one of `names` that a name was meant to be; undefined when it is one of them, or like none. */
export function findMeantName(name: string, names: readonly string[]): string | undefined {
  let isKnown = false;
  let best: { readonly name: string; readonly slips: number } | undefined;
  for (const candidate of names) {
    if (candidate === name) isKnown = true;
    if (isKnown || Math.abs(candidate.length - name.length) > MAX_SLIPS) continue;
    const slips = countSlips(name, candidate);
    if (slips <= MAX_SLIPS && (best === undefined || slips < best.slips)) {
      best = { name: candidate, slips };
    }
  }
  return isKnown ? undefined : best?.name;
}

/** Letters to add, leave out or replace on the way from one word to the other. */
function countSlips(from: string, to: string): number {
  let above = Array.from({ length: to.length + 1 }, (_, index) => index);
  for (let row = 1; row <= from.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= to.length; column += 1) {
      const replaced = from[row - 1] === to[column - 1] ? 0 : 1;
      current.push(
        Math.min(
          (above[column] ?? 0) + 1,
          (current[column - 1] ?? 0) + 1,
          (above[column - 1] ?? 0) + replaced,
        ),
      );
    }
    above = current;
  }
  return above[to.length] ?? 0;
}
