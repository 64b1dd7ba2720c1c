/** What a benchmark prints: one JSON line a result on standard output. */

/** One measured number, beside that of a peer where there is one. */
export interface BenchResult {
  readonly bench: string;
  readonly metric: string;
  readonly value: number;
  readonly unit: string;
  /** What was promised, in words; undefined where nothing was. */
  readonly budget?: string;
  readonly met?: boolean;
  readonly peer?: string;
  readonly peerValue?: number;
  /** `value / peerValue`. */
  readonly ratio?: number;
  /** Sizes, rounds, versions: whatever is needed to repeat it. Raw rounds, too. */
  readonly conditions: Readonly<Record<string, unknown>>;
}

/** A benchmark. */
export type Bench = (context: BenchContext) => Promise<void>;

/** What a benchmark is given. */
export interface BenchContext {
  readonly args: readonly string[];
  /** Command line that runs this benchmark again. */
  readonly program?: readonly string[];
  readonly signal: AbortSignal;
  /** Flags of Node for the agents that are measured, to profile them. Default: none. */
  readonly agentFlags?: readonly string[];
  /** Prints a result. */
  emit(result: BenchResult): void;
  /** Tells people, on standard error. */
  say(text: string): void;
}

/** Middle value of a non-empty list. */
export function median(values: readonly number[]): number {
  return percentile(values, 0.5);
}

/** Value below which `part` (0 to 1) of the list lies. */
export function percentile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? Number.NaN;
}

/** Rounds for people and for JSON: three digits that count. */
export function rounded(value: number): number {
  return Number(value.toPrecision(3));
}
