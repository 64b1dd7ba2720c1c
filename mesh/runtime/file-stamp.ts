import { statSync } from 'node:fs';

/** What tells one content of a file from the next without reading it. */
export interface FileStamp {
  readonly isFile: boolean;
  /** Differs when the file was replaced, written or cut. */
  readonly text: string;
  /** When it changed, milliseconds since 1970. */
  readonly changedAt: number;
}

/** A change this soon after the one before may bear the same time. */
const SETTLED_AFTER_MS = 2000;

/** Looks at a file; links are followed. Throws what `stat` throws. */
export function stampFile(path: string): FileStamp {
  const stat = statSync(path, { bigint: true });
  return {
    isFile: stat.isFile(),
    text: `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`,
    changedAt: Number(stat.ctimeNs / 1_000_000n),
  };
}

/**
 * Stamps of several files, taken before they are read: what was read then is still their content while this is the same.
 * Undefined where that cannot be said, since one of them is missing or has only just changed.
 */
export function stampFiles(paths: readonly string[], now: number): string | undefined {
  try {
    const stamps = paths.map(stampFile);
    const isSettled = stamps.every(({ changedAt }) => now - changedAt > SETTLED_AFTER_MS);
    return isSettled ? stamps.map(({ text }) => text).join('\n') : undefined;
  } catch {
    // Whoever reads them says what is wrong.
    return undefined;
  }
}
