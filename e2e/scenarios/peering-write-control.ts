/** A test's side of `peering-write-faults.ts`: says at which write the apiserver shall end, and reads which there were. */
import { randomUUID } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { FAULT_FILES, type WriteFault } from './peering-write-faults.ts';

/** The faults of one program. */
export interface WriteFaults {
  /** Flags of Node by which a program has them. */
  readonly nodeFlags: readonly string[];
  /** Counts from 1 again. */
  arm(wish: Omit<WriteFault, 'id'>): Promise<void>;
  /** Writes since the latest wish, in their order. */
  writes(): Promise<readonly string[]>;
}

/** Prepares them; nothing is wished yet. */
export async function openWriteFaults(t: Test): Promise<WriteFaults> {
  const dir = await openTempDir('write-faults');
  t.teardown(() => dir[Symbol.asyncDispose]());
  let id = '';
  const arm: WriteFaults['arm'] = async (wish) => {
    id = randomUUID();
    await writeFile(dir.file('next'), JSON.stringify({ id, ...wish }));
    await rename(dir.file('next'), dir.file(FAULT_FILES.wish));
  };
  await writeFile(dir.file(FAULT_FILES.writes), '');
  await arm({ at: 0, when: 'before' });
  const preload = new URL('./peering-write-faults.js', import.meta.url);
  preload.searchParams.set('folder', dir.path);
  return {
    nodeFlags: [`--import=${preload.href}`],
    arm,
    async writes() {
      const lines = (await readFile(dir.file(FAULT_FILES.writes), 'utf8')).split('\n');
      return lines.flatMap((line) =>
        line.startsWith(`${id} `) ? [line.slice(id.length + 1)] : [],
      );
    },
  };
}
