/** Numbers for entries of a kernel map. */
export interface IdRing {
  /** Marks a number that is in use already; false: it was marked before, or is none. */
  reserve(id: number): boolean;
  /** A number that nobody uses, from 1. */
  take(): number;
  release(id: number): void;
}

const LAST_ID = 0xffffffff;

/** Numbers go round, so that one that was just freed is not soon another thing for a reader that still holds it. */
export function createIdRing(): IdRing {
  const used = new Set<number>();
  let last = 0;
  return {
    reserve(id) {
      if (id === 0 || used.has(id)) return false;
      used.add(id);
      last = Math.max(last, id);
      return true;
    },
    take() {
      do {
        last = last >= LAST_ID ? 1 : last + 1;
      } while (used.has(last));
      used.add(last);
      return last;
    },
    release(id) {
      used.delete(id);
    },
  };
}
