import type { DatapathTable } from '../datapath/desired.ts';
import { type Change, createDesiredTable, type DesiredTable, type TableCounts } from './table.ts';

/** Rows handed to the kernel in one call at most, so that one call stays in the milliseconds. */
const BATCH = 4096;

/** Owns one kernel table: makes it hold what is desired, retries what failed, removes what a previous process left. */
export interface Reconciler<Row extends Key, Key> {
  readonly name: DatapathTable<Row, Key>['name'];
  readonly table: DesiredTable<Row, Key>;
  /** Writes what is due: rows first, then deletions, unless only one of them is asked for. Never throws. */
  flush(now: number, only?: Change<Row, Key>['kind']): void;
  status(): ReconcilerStatus;
}

/** State of one kernel table, for people. */
export interface ReconcilerStatus extends TableCounts {
  readonly name: string;
  /** Why the most recent failed write failed; absent when nothing fails now. */
  readonly lastError: string | undefined;
}

/** Takes over a kernel table with the rows that are in it. */
export function createReconciler<Row extends Key, Key>(
  kernel: DatapathTable<Row, Key>,
  options: { sameRow: (a: Row, b: Row) => boolean },
): Reconciler<Row, Key> {
  const table = createDesiredTable<Row, Key>({
    keyOf: (row) => kernel.keyOf(row),
    sameRow: options.sameRow,
  });
  for (const row of kernel.rows()) table.adopt(row);

  /** Applies changes; when a batch fails, halves it until the rows at fault stand alone. Repeating rows is harmless. */
  const apply = (changes: readonly Change<Row, Key>[], now: number): void => {
    if (changes.length === 0) return;
    const upserts: Row[] = [];
    const deletes: Key[] = [];
    for (const change of changes) {
      if (change.kind === 'upsert') upserts.push(change.row);
      else deletes.push(change.key);
    }
    try {
      kernel.apply({ upserts, deletes });
    } catch (cause) {
      const error = cause instanceof Error ? cause : new Error(String(cause));
      const [first] = changes;
      if (changes.length === 1 && first !== undefined) {
        table.failed(first, { error, now });
        return;
      }
      const middle = changes.length >> 1;
      apply(changes.slice(0, middle), now);
      apply(changes.slice(middle), now);
      return;
    }
    for (const change of changes) table.succeeded(change);
  };

  return {
    name: kernel.name,
    table,
    flush(now, only) {
      const due = table.due(now);
      for (const kind of ['upsert', 'delete'] as const) {
        if (only !== undefined && only !== kind) continue;
        const changes = due.filter((change) => change.kind === kind);
        for (let start = 0; start < changes.length; start += BATCH) {
          apply(changes.slice(start, start + BATCH), now);
        }
      }
    },
    status: () => ({ name: kernel.name, ...table.counts(), lastError: table.lastError()?.message }),
  };
}
