import type { RowChange } from '../datapath/desired.ts';

/** What is left to do about a key. */
export type Change<Row, Key> = RowChange<Row, Key>;

/** Where a change stands. A row without a change is done. */
export type ChangeStatus =
  | { readonly kind: 'pending' }
  | {
      readonly kind: 'failed';
      readonly error: Error;
      readonly attempts: number;
      /** Monotonic milliseconds. */
      readonly retryAt: number;
    };

/** Of every change that was not tried: one object for all, since there may be hundreds of thousands. */
const PENDING: ChangeStatus = { kind: 'pending' };

interface Work<Row, Key> {
  readonly change: Change<Row, Key>;
  readonly status: ChangeStatus;
}

/** How many rows a table holds, and how far the kernel is behind it. */
export interface TableCounts {
  /** Rows that sources want. */
  readonly desired: number;
  /** Writes not tried yet. */
  readonly pending: number;
  /** Writes that failed and will be tried again. */
  readonly failed: number;
  /** Rows of a previous process that no source has asked for yet, kept until every source has spoken. */
  readonly adopted: number;
}

/** What a row that was read from the kernel is: `busy`, a change of it is outstanding and nothing can be said. */
export type AuditVerdict = 'right' | 'busy' | 'different' | 'unwanted';

/**
 * Desired rows by key, what the kernel still lacks of them, and rows found in the kernel that nobody has asked for.
 * Rows are frozen by convention: a change is a new object.
 */
export interface DesiredTable<Row extends Key, Key> {
  /** Counts changes of what is desired. */
  readonly revision: number;
  get(key: string): Row | undefined;
  /** Whether the kernel has such a row, or is to have it: wanting it changes nothing. */
  holds(row: Row): boolean;
  /** Wants a row. One equal to what the kernel holds already costs no write. */
  set(row: Row): void;
  /** Wants no row any more. An adopted one goes, too. */
  remove(key: Key): void;
  /** Takes over a row that is in the kernel. */
  adopt(row: Row): void;
  adopted(): IterableIterator<Row>;
  desired(): IterableIterator<Row>;
  /** Deletes adopted rows that `keep` does not want to keep, of those `among`. Default: of all. Returns how many. */
  prune(keep: (row: Row) => boolean, among?: Iterable<Row>): number;
  /** Compares a row that was just read from the kernel with the one that ought to be there, and mends a wrong one. */
  audit(row: Row): AuditVerdict;
  /** How many rows the kernel ought to hold that no change is outstanding for. */
  settled(): number;
  /** Writes again what ought to be in the kernel, is not among `keys`, and no change is outstanding for. Returns how many. */
  restore(keys: ReadonlySet<string>): number;
  /** Changes whose time has come, in the order they were made. */
  due(now: number): Change<Row, Key>[];
  succeeded(change: Change<Row, Key>): void;
  failed(change: Change<Row, Key>, failure: { error: Error; now: number }): void;
  /** Changes that failed and were not tried again yet. */
  failures(): Iterable<Change<Row, Key>>;
  /** When the next failed change may be tried again; undefined: none has failed. */
  nextRetryAt(): number | undefined;
  counts(): TableCounts;
  /** Why the last write of a key failed, while it still stands. */
  failureOf(key: string): Error | undefined;
  /** The most recent failure among those that still stand. */
  lastError(): Error | undefined;
}

/**
 * Where a table keeps rows: a Map, or something smaller that gives out copies. Rows may be deleted while they are
 * iterated.
 */
export interface RowStore<Row> {
  readonly size: number;
  get(key: string): Row | undefined;
  has(key: string): boolean;
  set(key: string, row: Row): unknown;
  delete(key: string): boolean;
  values(): IterableIterator<Row>;
  [Symbol.iterator](): IterableIterator<[string, Row]>;
}

/** Where a table keeps what is desired, and what was adopted. */
export interface RowStores<Row> {
  readonly desired: RowStore<Row>;
  readonly adopted: RowStore<Row>;
}

const RETRY_MIN_MS = 100;
const RETRY_MAX_MS = 30_000;

/**
 * Makes an empty table. `sameRow` says whether two rows of one key are the same to the kernel. Default for `stores`:
 * empty maps.
 */
export function createDesiredTable<Row extends Key, Key>(options: {
  keyOf: (row: Key) => string;
  sameRow: (a: Row, b: Row) => boolean;
  stores?: RowStores<Row> | undefined;
}): DesiredTable<Row, Key> {
  const { keyOf, sameRow } = options;
  const { desired, adopted } = options.stores ?? {
    desired: new Map<string, Row>(),
    adopted: new Map<string, Row>(),
  };
  const work = new Map<string, Work<Row, Key>>();
  let revision = 0;
  let failures = 0;
  let lastError: Error | undefined;

  const put = (key: string, item: Work<Row, Key>): void => {
    const before = work.get(key);
    if (before !== undefined) forget(key, before);
    work.set(key, item);
  };
  const forget = (key: string, item: Work<Row, Key>): void => {
    if (item.status.kind === 'failed') failures -= 1;
    if (failures === 0) lastError = undefined;
    work.delete(key);
  };

  return {
    get revision() {
      return revision;
    },
    get: (key) => desired.get(key),
    holds(row) {
      const key = keyOf(row);
      const held = desired.get(key) ?? (work.has(key) ? undefined : adopted.get(key));
      return held !== undefined && sameRow(held, row);
    },
    set(row) {
      const key = keyOf(row);
      const before = desired.get(key);
      // Without a wish of our own, what the kernel holds is the adopted row, unless its deletion is under way.
      const held = before ?? (work.has(key) ? undefined : adopted.get(key));
      if (before !== undefined && sameRow(before, row)) return;
      revision += 1;
      desired.set(key, row);
      adopted.delete(key);
      if (before === undefined && held !== undefined && sameRow(held, row)) return;
      put(key, { change: { kind: 'upsert', row }, status: PENDING });
    },
    remove(row) {
      const key = keyOf(row);
      const known = desired.delete(key);
      const left = adopted.delete(key);
      if (!known && !left) return;
      revision += 1;
      put(key, { change: { kind: 'delete', key: row }, status: PENDING });
    },
    adopt(row) {
      adopted.set(keyOf(row), row);
    },
    adopted: () => adopted.values(),
    desired: () => desired.values(),
    prune(keep, among = adopted.values()) {
      let count = 0;
      for (const row of among) {
        if (keep(row)) continue;
        const key = keyOf(row);
        adopted.delete(key);
        put(key, { change: { kind: 'delete', key: row }, status: PENDING });
        count += 1;
      }
      return count;
    },
    audit(row) {
      const key = keyOf(row);
      if (work.has(key)) return 'busy';
      const wanted = desired.get(key);
      if (wanted === undefined && adopted.has(key)) return 'right';
      if (wanted === undefined) {
        put(key, { change: { kind: 'delete', key: row }, status: PENDING });
        return 'unwanted';
      }
      if (sameRow(wanted, row)) return 'right';
      put(key, { change: { kind: 'upsert', row: wanted }, status: PENDING });
      return 'different';
    },
    settled() {
      let outstanding = 0;
      for (const key of work.keys()) if (desired.has(key)) outstanding += 1;
      return desired.size + adopted.size - outstanding;
    },
    restore(keys) {
      let missing = 0;
      for (const [key, row] of desired) {
        if (keys.has(key) || work.has(key)) continue;
        put(key, { change: { kind: 'upsert', row }, status: PENDING });
        missing += 1;
      }
      for (const [key] of adopted) {
        if (keys.has(key)) continue;
        // What a previous process left and is gone is nobody's loss: whoever wants it says so.
        adopted.delete(key);
        missing += 1;
      }
      return missing;
    },
    due(now) {
      const changes: Change<Row, Key>[] = [];
      for (const { change, status } of work.values()) {
        if (status.kind === 'pending' || status.retryAt <= now) changes.push(change);
      }
      return changes;
    },
    succeeded(change) {
      const key = keyOf(change.kind === 'upsert' ? change.row : change.key);
      const item = work.get(key);
      if (item?.change === change) forget(key, item);
    },
    failed(change, { error, now }) {
      const key = keyOf(change.kind === 'upsert' ? change.row : change.key);
      const item = work.get(key);
      if (item?.change !== change) return;
      const attempts = item.status.kind === 'failed' ? item.status.attempts + 1 : 1;
      const delay = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** Math.min(attempts - 1, 20));
      put(key, { change, status: { kind: 'failed', error, attempts, retryAt: now + delay } });
      failures += 1;
      lastError = error;
    },
    *failures() {
      if (failures === 0) return;
      for (const { change, status } of work.values()) if (status.kind === 'failed') yield change;
    },
    nextRetryAt() {
      if (failures === 0) return undefined;
      let next: number | undefined;
      for (const { status } of work.values()) {
        if (status.kind === 'failed') next = Math.min(next ?? status.retryAt, status.retryAt);
      }
      return next;
    },
    counts: () => ({
      desired: desired.size,
      pending: work.size - failures,
      failed: failures,
      adopted: adopted.size,
    }),
    failureOf(key) {
      const status = work.get(key)?.status;
      return status?.kind === 'failed' ? status.error : undefined;
    },
    lastError: () => lastError,
  };
}
