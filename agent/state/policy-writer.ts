/** Rows of subjects, as rows of endpoints in the policy table. */
import type { PolicyEntry } from '../datapath/desired.ts';
import type { EndpointRows, RowDifference } from '../policy/endpoint-rows.ts';
import { blockOf, rowOfCode } from '../policy/map-entries.ts';
import type { DesiredTable } from './table.ts';

/** What an endpoint is to have. */
export interface WrittenRows {
  readonly endpointId: number;
  /** Undefined: nobody has said who it is, so that it has none. */
  readonly rows: Pick<EndpointRows, 'entries'> | undefined;
  /** Of these only what denies. */
  readonly isClosed: boolean;
}

/** Writes them. */
export interface PolicyWriter {
  /** Wants all of it. */
  write(owner: WrittenRows): void;
  /** Wants nothing of it. */
  remove(owner: WrittenRows): void;
  /** Wants only what denies. */
  close(owner: WrittenRows): void;
  /** Wants what changed for one other side. */
  change(owner: WrittenRows, difference: RowDifference): void;
  /** Replaces what an endpoint had by what it is to have. */
  move(owner: WrittenRows, before: WrittenRows['rows']): void;
  /** Whether, since the last call, rows about whoever is known were wanted that the kernel did not have. */
  takeNews(): boolean;
}

/** Makes a writer over the table. */
export function createPolicyWriter(
  table: DesiredTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>>,
): PolicyWriter {
  let hasNews = false;

  const set = ({ isClosed }: WrittenRows, row: PolicyEntry): void => {
    if (isClosed && row.verdict === 'allow') return;
    if (row.knownOnly === true && !table.holds(row)) hasNews = true;
    table.set(row);
  };
  const entries = ({ rows, endpointId }: Omit<WrittenRows, 'isClosed'>): Iterable<PolicyEntry> =>
    rows?.entries(endpointId) ?? [];

  return {
    write(owner) {
      for (const row of entries(owner)) set(owner, row);
    },
    remove(owner) {
      for (const row of entries(owner)) table.remove(row);
    },
    close(owner) {
      for (const row of entries(owner)) if (row.verdict === 'allow') table.remove(row);
    },
    change(owner, { direction, identity, before, after }) {
      const place = { endpointId: owner.endpointId, direction, identity };
      const blocks = after.map(blockOf);
      for (const code of after) if (!before.includes(code)) set(owner, rowOfCode(code, place));
      for (const code of before) {
        if (!blocks.includes(blockOf(code))) table.remove(rowOfCode(code, place));
      }
    },
    move(owner, before) {
      const wanted = new Set<string>();
      for (const row of entries(owner)) {
        wanted.add(keyOf(row));
        set(owner, row);
      }
      for (const row of entries({ endpointId: owner.endpointId, rows: before })) {
        if (!wanted.has(keyOf(row))) table.remove(row);
      }
    },
    takeNews() {
      const had = hasNews;
      hasNews = false;
      return had;
    },
  };
}

/** Tells rows of one endpoint from one another. */
function keyOf(row: PolicyEntry): string {
  return `${row.direction} ${row.identity} ${row.protocol} ${row.port} ${row.portPrefixBits}`;
}
