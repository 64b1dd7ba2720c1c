/** One value as a table, as JSON or as YAML. */
import Table from 'cli-table3';
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

/** Rows under headings, without frames. No rows: an empty text. */
export function renderRows(
  head: readonly string[],
  rows: readonly (readonly (string | number)[])[],
): string {
  if (rows.length === 0) return '';
  const nothing = Object.fromEntries(
    ['top', 'bottom', 'mid', 'left', 'right'].flatMap((side) =>
      ['', '-mid', '-left', '-right'].map((part) => [`${side}${part}`, '']),
    ),
  );
  const table = new Table({
    head: [...head],
    chars: { ...nothing, middle: '  ' },
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  });
  for (const row of rows) table.push([...row]);
  return `${table
    .toString()
    .split('\n')
    .map((line) => line.trimEnd())
    .join('\n')}\n`;
}
