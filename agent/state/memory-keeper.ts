/**
 * Gives memory back that the process has and does not use. While a mesh is first read, a great many buffers come and go;
 * the C library keeps the space between those that stay, which would be half of what the agent has.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';

/** How often it is looked. */
const LOOK_EVERY_MS = 1000;
/** How much more there must be than after the last time. */
const WORTH_BYTES = 16 * 1024 * 1024;

/** What the keeper needs to know and to do. */
export interface MemoryKeeperOptions {
  /** Resident bytes outside of JavaScript's heap. */
  readonly nativeBytes: () => number;
  /** Gives back what is free. Takes milliseconds, during which nothing else runs. */
  readonly release: () => void;
  readonly clock: Clock;
}

/** Looks after memory until `signal` aborts. */
export async function keepMemory(
  { nativeBytes, release, clock }: MemoryKeeperOptions,
  signal: AbortSignal,
): Promise<void> {
  let left = nativeBytes();
  while (!signal.aborted) {
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
    if (signal.aborted) return;
    const bytes = nativeBytes();
    // What could not be given back is in use: it is not looked through again until there is more.
    left = Math.min(left, bytes);
    if (bytes - left < WORTH_BYTES) continue;
    release();
    left = nativeBytes();
  }
}
