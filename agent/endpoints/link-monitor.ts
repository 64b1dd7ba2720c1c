import { createBell } from '../../mesh/runtime/bell.ts';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';

/** Changes of links come in bursts: a veth is made in several steps. */
const GATHER_MS = 50;
/** Until `ip monitor` surely listens, and between two attempts to start it. */
const SETTLE_MS = 1000;
const FOR_EVER_MS = 2 ** 31 - 1;
/** Without `ip monitor` somebody looks this often. */
const UNWATCHED_MS = 10_000;

/**
 * Says each time that an interface of this network namespace came, went or changed, as the kernel tells it (`ip monitor`), at
 * most once in 50 ms. Also at the start and whenever changes may have been missed; each 10 s where the kernel cannot be asked.
 * Ends when `signal` aborts.
 */
export async function* watchLinks(
  signal: AbortSignal,
  options: {
    readonly clock: Clock;
    readonly logger: Logger;
    /** Folders where `ip` is looked for. Default: as `startChild`. */
    readonly searchPath?: string;
  },
): AsyncGenerator<'changed', void, undefined> {
  const { clock, logger, searchPath } = options;
  const bell = createBell();
  signal.addEventListener('abort', () => bell.ring(), { once: true });
  const startMonitor = (): ChildHandle | undefined => {
    try {
      return startChild('ip', ['-oneline', 'monitor', 'link'], {
        signal,
        name: 'ip monitor',
        graceMs: 1000,
        // Whatever it writes: that it could not keep up is a change, too.
        onLine: () => bell.ring(),
        ...(searchPath === undefined ? {} : { searchPath }),
        clock,
      });
    } catch (err) {
      logger.error({ err }, 'links cannot be watched, they are looked at each 10 s');
      return undefined;
    }
  };
  while (!signal.aborted) {
    await using monitor = startMonitor();
    if (monitor === undefined) {
      yield 'changed';
      await clock.sleep(UNWATCHED_MS, signal).catch(() => undefined);
      continue;
    }
    let hasEnded = false;
    const ended = monitor.exited.then(() => {
      hasEnded = true;
      bell.ring();
    });
    let isSettled = false;
    while (!hasEnded && !signal.aborted) {
      yield 'changed';
      // What changed before it listened was not told: one more look.
      await bell.wait(isSettled ? FOR_EVER_MS : SETTLE_MS, clock);
      isSettled = true;
      await clock.sleep(GATHER_MS, signal).catch(() => undefined);
      bell.clear();
    }
    await monitor.stop();
    await ended;
    if (signal.aborted) return;
    const said = monitor.lastLines.at(-1) ?? '';
    logger.warn({ said }, 'watching links ended, it is started again');
    await clock.sleep(SETTLE_MS, signal).catch(() => undefined);
  }
}
