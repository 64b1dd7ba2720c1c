import { type FSWatcher, watch as watchFolder } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Clock } from '../../mesh/runtime/clock.ts';

const RESCAN_MS = 2000;
const DEBOUNCE_MS = 20;

/** Content of each file, or why it cannot be read. */
export type FileContents = ReadonlyMap<string, Buffer | Error>;

/**
 * Yields the contents of a few files: once at the start, then whenever one has changed or can be read again or no more.
 * Unlike `watchDirectory` it reads nothing else in their folders. Ends when `signal` aborts.
 */
export async function* watchFiles(
  paths: readonly string[],
  options: { readonly signal: AbortSignal; readonly clock: Clock },
): AsyncGenerator<FileContents, void, undefined> {
  const { signal, clock } = options;
  const watchers = new Map<string, FSWatcher>();
  let ring = (): void => undefined;
  let hasRung = false;
  const onFolderEvent = (): void => {
    hasRung = true;
    ring();
  };
  signal.addEventListener('abort', onFolderEvent, { once: true });
  let shown: FileContents | undefined;
  try {
    while (!signal.aborted) {
      for (const folder of new Set(paths.map((path) => dirname(path)))) {
        if (!watchers.has(folder)) openWatcher(folder, watchers, onFolderEvent);
      }
      const contents = await readAll(paths);
      if (shown === undefined || !sameContents(shown, contents)) {
        shown = contents;
        yield contents;
      }
      if (!hasRung) {
        const pause = new AbortController();
        ring = () => pause.abort();
        await clock.sleep(RESCAN_MS, pause.signal).catch(() => undefined);
        ring = () => undefined;
      }
      // Several files are often replaced together.
      if (hasRung) await clock.sleep(DEBOUNCE_MS, signal).catch(() => undefined);
      hasRung = false;
    }
  } finally {
    for (const watcher of watchers.values()) watcher.close();
  }
}

function openWatcher(folder: string, watchers: Map<string, FSWatcher>, onEvent: () => void): void {
  try {
    const watcher = watchFolder(folder, { persistent: false }, onEvent);
    watchers.set(folder, watcher);
    watcher.on('error', () => {
      watcher.close();
      watchers.delete(folder);
    });
  } catch {
    // No such folder yet, or the kernel has no watches left: the rescan stands in.
  }
}

async function readAll(paths: readonly string[]): Promise<FileContents> {
  const contents = new Map<string, Buffer | Error>();
  for (const path of paths) {
    const content = await readFile(path).catch((error: unknown) =>
      error instanceof Error ? error : new Error(String(error)),
    );
    contents.set(path, content);
  }
  return contents;
}

function sameContents(a: FileContents, b: FileContents): boolean {
  for (const [path, content] of b) {
    const other = a.get(path);
    if (content instanceof Error || other instanceof Error) {
      if (
        !(content instanceof Error && other instanceof Error && content.message === other.message)
      ) {
        return false;
      }
    } else if (other === undefined || !other.equals(content)) return false;
  }
  return true;
}
