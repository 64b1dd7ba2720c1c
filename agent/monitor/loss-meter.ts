/** What was never written: how much since the last look. */
import type { DatapathEvents, EventLosses } from '../datapath/desired.ts';

/** Losses of one kind in one place. */
export interface Loss {
  readonly where: 'rate-limit' | 'ring';
  readonly of: EventLosses['kind'];
  readonly count: number;
}

/** Looks at the kernel's counts. */
export interface LossMeter {
  /** What is counted up to now is not news. */
  reset(): void;
  /** What came since, without zeroes. */
  news(): Loss[];
  /** All since the maps were made. */
  totals(): Loss[];
}

/** Makes a meter; without events it finds nothing. */
export function createLossMeter(events: Pick<DatapathEvents, 'losses'> | undefined): LossMeter {
  let before = new Map<string, number>();
  const totals = (): Loss[] =>
    (events?.losses() ?? []).flatMap(({ kind, suppressed, lost }) => [
      { where: 'rate-limit' as const, of: kind, count: suppressed },
      { where: 'ring' as const, of: kind, count: lost },
    ]);
  const keyOf = ({ where, of }: Loss): string => `${where} ${of}`;
  const remember = (counts: readonly Loss[]): void => {
    before = new Map(counts.map((loss) => [keyOf(loss), loss.count]));
  };
  return {
    reset: () => remember(totals()),
    news() {
      const now = totals();
      const news = now
        .map((loss) => ({ ...loss, count: loss.count - (before.get(keyOf(loss)) ?? 0) }))
        .filter(({ count }) => count > 0);
      remember(now);
      return news;
    },
    totals,
  };
}
