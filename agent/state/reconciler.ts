import type { DatapathTable } from '../datapath/desired.ts';
import {
  type Change,
  createDesiredTable,
  type DesiredTable,
  type RowStores,
  type TableCounts,
} from './table.ts';

/** Rows handed to the kernel in one call at most, so that one call stays in the milliseconds. */
const BATCH = 4096;

/** Owns one kernel table: makes it hold what is desired, retries what failed, removes what a previous process left. */
export interface Reconciler<Row extends Key, Key> {
  readonly name: DatapathTable<Row, Key>['name'];
  readonly table: DesiredTable<Row, Key>;
  /** Writes what is due: rows first, then deletions. `only`: of these only so much. Never throws. */
  flush(now: number, only?: FlushPart<Row, Key>): void;
  status(): ReconcilerStatus;
  /**
   * Compares the kernel with what is wanted, a part at each step so that it holds up nothing, and marks what is wrong to
   * be written with the next flush. Returns what it found. Throws DatapathError when the kernel cannot be read.
   */
  audit(): Generator<undefined, AuditFindings>;
}

/** Which changes to write; of a kind that is not named none. */
export interface FlushPart<Row, Key> {
  readonly upserts?: (row: Row) => boolean;
  readonly deletes?: (key: Key) => boolean;
}

/** What a comparison of one kernel table with what is wanted found. */
export interface AuditFindings {
  /** Entries in the kernel. */
  readonly entries: number;
  /** Rows that were in the kernel and should not be. */
  readonly unwanted: number;
  readonly different: number;
  readonly missing: number;
}

/** State of one kernel table, for people. */
export interface ReconcilerStatus extends TableCounts {
  readonly name: string;
  /** Why the most recent failed write failed; absent when nothing fails now. */
  readonly lastError: string | undefined;
}

const EVERYTHING = { upserts: () => true, deletes: () => true };

function isIn<Row, Key>(part: FlushPart<Row, Key>, change: Change<Row, Key>): boolean {
  return change.kind === 'upsert'
    ? part.upserts?.(change.row) === true
    : part.deletes?.(change.key) === true;
}

/** Takes over a kernel table with the rows that are in it. */
export function createReconciler<Row extends Key, Key>(
  kernel: DatapathTable<Row, Key>,
  options: { sameRow: (a: Row, b: Row) => boolean; stores?: RowStores<Row> },
): Reconciler<Row, Key> {
  const table = createDesiredTable<Row, Key>({
    keyOf: (row) => kernel.keyOf(row),
    sameRow: options.sameRow,
    stores: options.stores,
  });
  for (const part of kernel.scan?.() ?? [kernel.rows()]) for (const row of part) table.adopt(row);

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
    flush(now, only = EVERYTHING) {
      const due = table.due(now).filter((change) => isIn(only, change));
      for (const kind of ['upsert', 'delete'] as const) {
        const unordered = due.filter((change) => change.kind === kind);
        const changes = kernel.inOrder?.(unordered) ?? unordered;
        for (let start = 0; start < changes.length; start += BATCH) {
          apply(changes.slice(start, start + BATCH), now);
        }
      }
    },
    *audit() {
      let entries = 0;
      let unwanted = 0;
      let different = 0;
      let busy = 0;
      for (const part of kernel.scan?.() ?? [kernel.rows()]) {
        for (const row of part) {
          entries += 1;
          const verdict = table.audit(row);
          if (verdict === 'unwanted') unwanted += 1;
          else if (verdict === 'different') different += 1;
          else if (verdict === 'busy') busy += 1;
        }
        yield undefined;
      }
      // Changes meanwhile may make the numbers differ, too: only then it is worth to look for each row in one go.
      const right = entries - unwanted - different - busy;
      const missing =
        right >= table.settled()
          ? 0
          : table.restore(new Set(kernel.rows().map((row) => kernel.keyOf(row))));
      return { entries, unwanted, different, missing };
    },
    status: () => ({ name: kernel.name, ...table.counts(), lastError: table.lastError()?.message }),
  };
}
