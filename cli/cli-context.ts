/** What commands are given of the process that they run in: they touch nothing else of it. */
import type { PipeWriter } from './pipe-writer.ts';

/** The process, as commands see it. */
export interface CliContext {
  readonly input: AsyncIterable<Buffer>;
  /** Writes to standard output, as it stands. */
  readonly print: (text: string) => void;
  /** Writes to standard error: progress and remarks, apart from the result. */
  readonly say: (text: string) => void;
  /** Standard output for much text. */
  readonly output: () => PipeWriter;
  readonly setExitCode: (code: number) => void;
  /** Exit code 1. */
  readonly setProblem: () => void;
  /** Aborts at SIGINT and SIGTERM. */
  readonly signal: AbortSignal;
  /** Whether results may have colours: a person's terminal reads them, and NO_COLOR is not set. */
  readonly hasColours: boolean;
  /** Whether a person's terminal reads progress. */
  readonly isWatched: boolean;
}
