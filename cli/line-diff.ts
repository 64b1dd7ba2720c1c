/** What differs between two texts, line by line, as people are used to see it. Pure. */

/** Lines around a difference that are shown with it. */
const CONTEXT_LINES = 2;

/** Lines with `+`, `-` or a space before them; empty when the texts are the same. */
export function diffLines(before: string, after: string): string[] {
  const [a, b] = [linesOf(before), linesOf(after)];
  const marked: { readonly mark: '+' | '-' | ' '; readonly line: string }[] = [];
  const common = commonLengths(a, b);
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    const [left, right] = [a[i], b[j]];
    if (left !== undefined && left === right) {
      marked.push({ mark: ' ', line: left });
      i += 1;
      j += 1;
    } else if (
      right !== undefined &&
      (left === undefined || at(common, i, j + 1) > at(common, i + 1, j))
    ) {
      marked.push({ mark: '+', line: right });
      j += 1;
    } else if (left !== undefined) {
      marked.push({ mark: '-', line: left });
      i += 1;
    }
  }
  const isNear = (index: number): boolean =>
    marked
      .slice(Math.max(0, index - CONTEXT_LINES), index + CONTEXT_LINES + 1)
      .some(({ mark }) => mark !== ' ');
  return marked.flatMap(({ mark, line }, index) => (isNear(index) ? [`${mark} ${line}`] : []));
}

/** Lengths of the longest common subsequences of what is left of both from each place on. */
function commonLengths(a: readonly string[], b: readonly string[]): number[][] {
  const rows = Array.from({ length: a.length + 1 }, () => new Array<number>(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const row = rows[i];
      if (row === undefined) continue;
      row[j] =
        a[i] === b[j]
          ? at(rows, i + 1, j + 1) + 1
          : Math.max(at(rows, i + 1, j), at(rows, i, j + 1));
    }
  }
  return rows;
}

function at(rows: readonly (readonly number[])[], i: number, j: number): number {
  return rows[i]?.[j] ?? 0;
}

function linesOf(text: string): string[] {
  const lines = text.split('\n');
  return lines.at(-1) === '' ? lines.slice(0, -1) : lines;
}
