/** One value as a table, as JSON or as YAML. */
import { stripVTControlCharacters } from 'node:util';
import { Option } from 'commander';
import { stringify } from 'yaml';

/** How to print. */
export type OutputFormat = 'table' | 'json' | 'yaml';

/** Declares `-o`. */
export function outputOption(): Option {
  return new Option('-o, --output <format>', 'how to print it')
    .choices(['table', 'json', 'yaml'])
    .default('table');
}

/** A value in the format that was asked for. */
export function formatValue<T>(
  value: T,
  format: OutputFormat,
  asTable: (value: T) => string,
): string {
  switch (format) {
    case 'table':
      return asTable(value);
    case 'json':
      return `${JSON.stringify(value, null, 2)}\n`;
    case 'yaml':
      // By way of JSON, which leaves out what is undefined.
      return stringify(JSON.parse(JSON.stringify(value)));
    default:
      return format satisfies never;
  }
}

/** Rows under headings, without frames: as many as there may be. A cell may have several lines. No rows: an empty text. */
export function renderRows(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  if (rows.length === 0) return '';
  const cells = [head, ...rows].map((row) => row.map((cell) => String(cell).split('\n')));
  const widths = head.map(() => 0);
  for (const row of cells) {
    for (const [column, lines] of row.entries()) {
      for (const line of lines) widths[column] = Math.max(widths[column] ?? 0, widthOf(line));
    }
  }
  return cells.map((row) => renderRow(row, widths)).join('');
}

function renderRow(row: readonly (readonly string[])[], widths: readonly number[]): string {
  const height = row.reduce((most, { length }) => Math.max(most, length), 1);
  let text = '';
  for (let index = 0; index < height; index += 1) {
    const line = widths.map((width, column) => {
      const part = row[column]?.[index] ?? '';
      return part + ' '.repeat(width - widthOf(part));
    });
    text += `${line.join('  ').trimEnd()}\n`;
  }
  return text;
}

/** Colours take no room. */
function widthOf(text: string): number {
  return stripVTControlCharacters(text).length;
}
