/** Pages of a program's options, made of the tables that it parses. Pure. */
import type { OptionTable } from '../mesh/runtime/options.ts';

/** A command of a daemon's program. */
export interface DocumentedCommand {
  /** As it is typed. */
  readonly command: string;
  readonly about: string;
  readonly table: OptionTable;
}

/** A page with a table of options for each command. */
export function optionsPage(
  title: string,
  introduction: string,
  commands: readonly DocumentedCommand[],
): string {
  const parts = commands.map(({ command, about, table }) => {
    const rows = Object.values(table).map((spec) => [
      `\`${spec.flag}\`${spec.required === true ? ' (required)' : ''}`,
      spec.env === undefined ? '' : `\`${spec.env}\``,
      spec.default === undefined || spec.default === '' ? '' : `\`${spec.default}\``,
      `${spec.help}${spec.repeatable === true ? ' (may be repeated)' : ''}`,
    ]);
    const head = ['Flag', 'Environment', 'Default', 'What it is'];
    return `## ${command}\n\n${about}\n\n${markdownTable(head, rows)}`;
  });
  return [`# ${title}\n`, `${introduction}\n`, ...parts].join('\n');
}

/** A table. */
export function markdownTable(
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  const line = (cells: readonly string[]): string => `| ${cells.map(cellText).join(' | ')} |\n`;
  return [line(head), `|${head.map(() => '---|').join('')}\n`, ...rows.map(line)].join('');
}

/** Bars part cells, also within code; what stands in angle brackets outside of code would be taken for HTML. */
function cellText(text: string): string {
  return text
    .replaceAll('|', '\\|')
    .replaceAll('\n', ' ')
    .split('`')
    .map((part, index) => (index % 2 === 1 ? part : part.replaceAll('<', '&lt;')))
    .join('`');
}
