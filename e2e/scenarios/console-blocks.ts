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

/** A block of commands that prints nothing in the document, as it is pasted into a shell. */
export interface ShellBlock {
  /** Heading above it. */
  readonly heading: string;
  /** Its commands: lines, with those that belong to them (after `\` or `|`, or the text of a here-document). */
  readonly commands: readonly string[];
}

/** Blocks without a language, which are for the shell, in their order. */
export function shellBlocks(markdown: string): ShellBlock[] {
  const found = markdown.matchAll(/^#+ +(?<heading>[^\n]*)$|^```\w*\n(?<block>.*?)^```$/gms);
  const blocks: ShellBlock[] = [];
  let heading = '';
  for (const { 0: text, groups: { heading: next, block } = {} } of found) {
    if (next !== undefined) heading = next;
    else if (text.startsWith('```\n')) blocks.push({ heading, commands: commandsOf(block ?? '') });
  }
  return blocks;
}

function commandsOf(block: string): string[] {
  const commands: string[] = [];
  let open: string[] = [];
  let endOfText: string | undefined;
  for (const line of trimEnd(block.split('\n'))) {
    open.push(line);
    if (endOfText !== undefined) {
      if (line !== endOfText) continue;
      endOfText = undefined;
    } else {
      endOfText = /<<'?(\w+)'?/.exec(line)?.[1];
      if (endOfText !== undefined || /[\\|]$/.test(line)) continue;
    }
    commands.push(open.join('\n'));
    open = [];
  }
  return [...commands, ...open];
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
