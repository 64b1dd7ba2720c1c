/** Lines for one reader who may be slow: a bounded queue that says where lines are missing. */

/** Lines in their order. */
export interface LineQueue {
  /** Adds a line, or counts it as lost. */
  push(line: () => string): void;
  /** Everything queued as text, behind it what was lost since; empty: nothing. */
  take(): string;
  readonly isEmpty: boolean;
}

/** Makes an empty queue of at most `limit` lines. `lostLine` makes the line that stands for lost ones. */
export function createLineQueue(limit: number, lostLine: (count: number) => string): LineQueue {
  let lines: string[] = [];
  let lost = 0;
  return {
    push(line) {
      // Once some are lost, those behind them are, too, until they are told: the order must not lie.
      if (lost > 0 || lines.length >= limit) lost += 1;
      else lines.push(line());
    },
    take() {
      if (lost > 0) lines.push(lostLine(lost));
      const text = lines.map((line) => `${line}\n`).join('');
      lines = [];
      lost = 0;
      return text;
    },
    get isEmpty() {
      return lines.length === 0 && lost === 0;
    },
  };
}
