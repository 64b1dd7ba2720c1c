import type { AcceptReason } from './accept.ts';
import type { AdmissionReason } from './admission.ts';

/** Keys whose reasons are remembered one by one; beyond, only their number is. A peer decides how many there are. */
const KEYS_REMEMBERED = 10_000;
/** Keys that are shown for each reason. */
const EXAMPLES_EACH = 3;
const MOST_MESSAGE_LENGTH = 500;

/** Why a value of a cluster is not used. */
export type RefusalReason = AcceptReason | AdmissionReason | 'value-too-large' | 'too-many-keys';

/** Values refused for one reason. */
export interface RefusalExample {
  readonly reason: RefusalReason;
  readonly key: string;
  readonly message: string;
}

/** What a cluster says that is not used, for people. */
export interface RefusalStatus {
  /** Values refused now, by reason. */
  readonly byReason: Readonly<Partial<Record<RefusalReason, number>>>;
  /** The latest one, as a sentence. */
  readonly last: string | undefined;
  /** A few for each reason. */
  readonly examples: readonly RefusalExample[];
  /** Values refused since the process began, by reason: each attempt counts. */
  readonly total: Readonly<Partial<Record<RefusalReason, number>>>;
}

/** Keeps which values of a cluster are refused at present. */
export interface Refusals {
  /** Notes a refused value. Returns true for the first one with this reason: worth a line in the log. */
  note(key: string, reason: RefusalReason, message: string): boolean;
  /** The key's value is good now, or gone. */
  clear(key: string): void;
  clearAll(): void;
  /** Whether something is refused now for one of these reasons. */
  has(reasons: readonly RefusalReason[]): boolean;
  status(): RefusalStatus;
}

/** Makes an empty record. */
export function createRefusals(): Refusals {
  const byKey = new Map<string, RefusalReason>();
  const overflow = new Map<RefusalReason, number>();
  const told = new Set<RefusalReason>();
  const total = new Map<RefusalReason, number>();
  const examples = new Map<RefusalReason, Map<string, string>>();
  let last: string | undefined;

  const forgetExample = (key: string): void => {
    for (const [reason, kept] of examples) {
      if (kept.delete(key) && kept.size === 0) examples.delete(reason);
    }
  };

  return {
    note(key, reason, message) {
      last = message.slice(0, MOST_MESSAGE_LENGTH);
      total.set(reason, (total.get(reason) ?? 0) + 1);
      const before = byKey.get(key);
      if (before !== undefined && before !== reason) forgetExample(key);
      if (byKey.size < KEYS_REMEMBERED || before !== undefined) byKey.set(key, reason);
      else overflow.set(reason, (overflow.get(reason) ?? 0) + 1);
      const kept = examples.get(reason) ?? new Map<string, string>();
      if (byKey.has(key) && (kept.size < EXAMPLES_EACH || kept.has(key))) {
        examples.set(reason, kept.set(key, last));
      }
      const first = !told.has(reason);
      told.add(reason);
      return first;
    },
    clear(key) {
      if (byKey.size === 0) return;
      if (byKey.delete(key)) forgetExample(key);
      if (byKey.size === 0 && overflow.size === 0) last = undefined;
    },
    clearAll() {
      byKey.clear();
      overflow.clear();
      examples.clear();
      last = undefined;
    },
    has: (reasons) =>
      reasons.some((reason) => overflow.has(reason)) ||
      (byKey.size > 0 && [...byKey.values()].some((reason) => reasons.includes(reason))),
    status() {
      const byReason: Partial<Record<RefusalReason, number>> = {};
      for (const reason of byKey.values()) byReason[reason] = (byReason[reason] ?? 0) + 1;
      for (const [reason, count] of overflow) byReason[reason] = (byReason[reason] ?? 0) + count;
      return {
        byReason,
        last,
        examples: [...examples].flatMap(([reason, kept]) =>
          [...kept].map(([key, message]) => ({ reason, key, message })),
        ),
        total: Object.fromEntries(total),
      };
    },
  };
}
