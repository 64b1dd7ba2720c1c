import { systemClock } from '../../runtime/clock.ts';

/** Waits until a condition holds, looking every few milliseconds. Throws after `deadlineMs`, saying what was awaited. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  deadlineMs = 10_000,
): Promise<void> {
  const end = systemClock.monotonic() + deadlineMs;
  while (!(await condition())) {
    if (systemClock.monotonic() > end)
      throw new Error(`waited ${deadlineMs} ms in vain until ${what}`);
    await systemClock.sleep(3);
  }
}
