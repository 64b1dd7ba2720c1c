import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** A directory of one test's own, removed with all that is in it when disposed. */
export interface TempDir extends AsyncDisposable {
  readonly path: string;
  /** Absolute path of something inside. */
  file(...parts: readonly string[]): string;
}

/** Makes an empty directory under the system's temporary folder. */
export async function openTempDir(name = 'test'): Promise<TempDir> {
  const path = await mkdtemp(join(tmpdir(), `isthmus-${name}-`));
  return {
    path,
    file: (...parts) => join(path, ...parts),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true, maxRetries: 3 }),
  };
}
