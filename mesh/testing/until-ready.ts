import type { ChildHandle } from '../runtime/child-process.ts';
import { systemClock } from '../runtime/clock.ts';

/** Asks a started program until it answers. Throws with its last lines when it ends before, or takes too long. */
export async function untilReady(
  child: ChildHandle,
  probe: () => Promise<unknown>,
  options: { readonly what: string; readonly timeoutMs: number },
): Promise<void> {
  const { what, timeoutMs } = options;
  const deadline = systemClock.monotonic() + timeoutMs;
  let ended = false;
  void child.exited.then(() => {
    ended = true;
  });
  for (;;) {
    try {
      await probe();
      return;
    } catch (cause) {
      if (ended || systemClock.monotonic() > deadline) {
        const why = ended ? 'it ended' : `it did not answer within ${timeoutMs} ms`;
        throw new Error(`cannot start ${what}: ${why}: ${child.lastLines.join(' | ')}`, { cause });
      }
    }
    await systemClock.sleep(50);
  }
}
