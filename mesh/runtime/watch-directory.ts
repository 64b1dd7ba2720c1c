import { type FSWatcher, watch as watchFile } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Clock, systemClock } from './clock.ts';
import { stampFile, stampFiles } from './file-stamp.ts';
import type { FreshLook } from './fresh-look.ts';

const DEBOUNCE_MS = 20;

/** Options of `watchDirectory`. */
export interface WatchDirectoryOptions {
  readonly signal: AbortSignal;
  /** How often everything is read again, whatever the kernel said. Default 5000. */
  readonly rescanMs?: number;
  readonly clock?: Clock;
  /** By which somebody asks for a look at once. */
  readonly freshLook?: FreshLook;
  /**
   * Called when the directory (`file` undefined) or one file cannot be read, once until its error changes or it can be
   * read again. Default: nobody is told.
   */
  readonly onError?: (error: Error, file: string | undefined) => void;
}

/**
 * Yields the content of the regular files directly in a directory, by name: once at the start, then on each change.
 * Names that begin with a dot are left out. Symbolic links are followed, so the way Kubernetes swaps mounted
 * volumes is one change. A file that cannot be read keeps its last content; when the directory itself cannot be
 * read nothing is yielded until it can be. Ends when `signal` aborts.
 */
export async function* watchDirectory(
  directory: string,
  options: WatchDirectoryOptions,
): AsyncGenerator<ReadonlyMap<string, Buffer>, void, undefined> {
  const { signal, rescanMs = 5000, clock = systemClock } = options;
  const report = reportOnce(options.onError ?? (() => undefined));
  const bell = createBell(signal);
  const stamps = new Map<string, string | undefined>();
  options.freshLook?.onAsked(bell.ring);
  let watcher: FSWatcher | undefined;
  let shown: ReadonlyMap<string, Buffer> | undefined;
  try {
    while (!signal.aborted) {
      // Watched before it is read, so that a change between the two is not missed.
      watcher ??= tryWatch(directory, bell.ring, () => {
        watcher?.close();
        watcher = undefined;
      });
      const taken = options.freshLook?.begin();
      const content = await readDirectory(
        directory,
        { before: shown, stamps, now: clock.now() },
        report,
      );
      if (content === undefined) {
        watcher?.close();
        watcher = undefined;
      } else if (shown === undefined || !sameContent(shown, content)) {
        shown = content;
        yield content;
        if (signal.aborted) return;
      }
      taken?.();
      await bell.wait(rescanMs, clock);
      if (!signal.aborted) await clock.sleep(DEBOUNCE_MS, signal).catch(() => undefined);
      bell.clear();
    }
  } finally {
    watcher?.close();
  }
}

function tryWatch(directory: string, ring: () => void, onGone: () => void): FSWatcher | undefined {
  try {
    // The rescan stands in where the kernel has no watches left, or the directory is not there yet.
    const watcher = watchFile(directory, { persistent: false }, ring);
    watcher.on('error', onGone);
    return watcher;
  } catch {
    return undefined;
  }
}

async function readDirectory(
  directory: string,
  {
    before,
    stamps,
    now,
  }: {
    readonly before: ReadonlyMap<string, Buffer> | undefined;
    /** Of files that were read, as they were before that. */
    readonly stamps: Map<string, string | undefined>;
    readonly now: number;
  },
  report: ReturnType<typeof reportOnce>,
): Promise<ReadonlyMap<string, Buffer> | undefined> {
  let names: string[];
  try {
    names = (await readdir(directory)).filter((name) => !name.startsWith('.')).sort();
    report.clear(undefined);
  } catch (error) {
    report.tell(error, undefined);
    return undefined;
  }
  const content = new Map<string, Buffer>();
  for (const name of names) {
    try {
      const path = join(directory, name);
      if (!stampFile(path).isFile) continue;
      const stamp = stampFiles([path], now);
      const known = before?.get(name);
      const isSame = stamp !== undefined && stamp === stamps.get(name);
      content.set(name, isSame && known !== undefined ? known : await readFile(path));
      stamps.set(name, stamp);
      report.clear(name);
    } catch (error) {
      // Removed between the listing and the reading: gone, not unreadable. A dangling link is told.
      if (isMissing(error) && !(await readdir(directory).catch((): string[] => [])).includes(name))
        continue;
      stamps.delete(name);
      report.tell(error, name);
      const last = before?.get(name);
      if (last !== undefined) content.set(name, last);
    }
  }
  return content;
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function sameContent(a: ReadonlyMap<string, Buffer>, b: ReadonlyMap<string, Buffer>): boolean {
  if (a.size !== b.size) return false;
  for (const [name, bytes] of b) {
    const other = a.get(name);
    if (other === undefined || !other.equals(bytes)) return false;
  }
  return true;
}

function reportOnce(onError: (error: Error, file: string | undefined) => void) {
  const told = new Map<string | undefined, string>();
  return {
    tell(cause: unknown, file: string | undefined): void {
      const error = cause instanceof Error ? cause : new Error(String(cause));
      if (told.get(file) === error.message) return;
      told.set(file, error.message);
      onError(error, file);
    },
    clear(file: string | undefined): void {
      told.delete(file);
    },
  };
}

/** A bell that remembers that it rang until it is cleared. */
function createBell(signal: AbortSignal) {
  let rung = false;
  let wake = (): void => undefined;
  signal.addEventListener('abort', () => wake(), { once: true });
  return {
    ring: (): void => {
      rung = true;
      wake();
    },
    clear: (): void => {
      rung = false;
    },
    async wait(milliseconds: number, clock: Clock): Promise<void> {
      if (rung || signal.aborted) return;
      const timer = new AbortController();
      wake = () => timer.abort();
      await clock.sleep(milliseconds, timer.signal).catch((error: unknown) => {
        if (!timer.signal.aborted) throw error;
      });
      wake = () => undefined;
    },
  };
}
