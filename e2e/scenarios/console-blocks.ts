/** Commands of a document and what it says that they print. */

/** A command, as somebody would type it, and the lines under it. */
export interface ConsoleStep {
  readonly command: string;
  readonly output: readonly string[];
}

/** Commands of all blocks marked `console`, in their order: lines that begin with `$ `, each with what follows it. */
export function consoleSteps(markdown: string): ConsoleStep[] {
  const steps: { command: string; output: string[] }[] = [];
  for (const [, block = ''] of markdown.matchAll(/^```console\n(.*?)^```$/gms)) {
    for (const line of block.split('\n')) {
      if (line.startsWith('$ ')) steps.push({ command: line.slice(2), output: [] });
      else steps.at(-1)?.output.push(line);
    }
  }
  return steps.map(({ command, output }) => ({ command, output: trimEnd(output) }));
}

/**
 * The first line that a document has and an output lacks, in its order; undefined: it has the shape that the document
 * says. Numbers and blanks may differ; a line `…` stands for any lines.
 */
export function missingShape(
  expected: readonly string[],
  actual: readonly string[],
): string | undefined {
  let from = 0;
  let isFree = false;
  for (const line of expected) {
    if (line === '…') {
      isFree = true;
      continue;
    }
    const found = actual.findIndex((other, at) => at >= from && shapeOf(other) === shapeOf(line));
    if (found === -1 || (!isFree && found !== from)) return line;
    from = found + 1;
    isFree = false;
  }
  const rest = trimEnd(actual).slice(from);
  return isFree || rest.length === 0 ? undefined : `nothing more, but there is: ${rest[0]}`;
}

function shapeOf(line: string): string {
  return line
    .replace(/[0-9]+/g, '0')
    .replace(/\s+/g, ' ')
    .trim();
}

function trimEnd(lines: readonly string[]): string[] {
  const last = lines.findLastIndex((line) => line.trim() !== '');
  return lines.slice(0, last + 1);
}
