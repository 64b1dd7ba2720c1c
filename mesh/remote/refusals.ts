import type { RefusalReason } from './accept.ts';

/** Keys whose reasons are remembered one by one; beyond, only their number is. A peer decides how many there are. */
const KEYS_REMEMBERED = 10_000;

/** What a cluster says that is not used, for people. */
export interface RefusalStatus {
  /** Values refused now, by reason. */
  readonly byReason: Readonly<Partial<Record<RefusalReason, number>>>;
  /** The latest one, as a sentence. */
  readonly last: string | undefined;
}

/** Keeps which values of a cluster are refused at present. */
export interface Refusals {
  /** Notes a refused value. Returns true for the first one with this reason: worth a line in the log. */
  note(key: string, reason: RefusalReason, message: string): boolean;
  /** The key's value is good now, or gone. */
  clear(key: string): void;
  clearAll(): void;
  status(): RefusalStatus;
}

/** Makes an empty record. */
export function createRefusals(): Refusals {
  const byKey = new Map<string, RefusalReason>();
  const overflow = new Map<RefusalReason, number>();
  const told = new Set<RefusalReason>();
  let last: string | undefined;
  return {
    note(key, reason, message) {
      last = message;
      if (byKey.size < KEYS_REMEMBERED || byKey.has(key)) byKey.set(key, reason);
      else overflow.set(reason, (overflow.get(reason) ?? 0) + 1);
      const first = !told.has(reason);
      told.add(reason);
      return first;
    },
    clear(key) {
      byKey.delete(key);
      if (byKey.size === 0 && overflow.size === 0) last = undefined;
    },
    clearAll() {
      byKey.clear();
      overflow.clear();
      last = undefined;
    },
    status() {
      const byReason: Partial<Record<RefusalReason, number>> = {};
      for (const reason of byKey.values()) byReason[reason] = (byReason[reason] ?? 0) + 1;
      for (const [reason, count] of overflow) byReason[reason] = (byReason[reason] ?? 0) + count;
      return { byReason, last };
    },
  };
}
