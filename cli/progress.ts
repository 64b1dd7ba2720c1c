/** A line for who waits, on a terminal: what is being done, and for how long already. Elsewhere nothing is said. */
import type { CliContext } from './cli-context.ts';

/** What takes less is nothing to speak of. */
const PATIENCE_MS = 1000;
const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'] as const;
const FRAME_MS = 100;
const ERASE = '\r\u001b[K';

/** A line that goes when it is disposed of. */
export interface Progress extends Disposable {
  /** What is being done from now on. */
  tell(text: string): void;
}

/** Begins one. It is seen after a second. */
export function beginProgress(
  text: string,
  { say, isWatched }: Pick<CliContext, 'say' | 'isWatched'>,
): Progress {
  if (!isWatched) return { tell: () => undefined, [Symbol.dispose]: () => undefined };
  const began = performance.now();
  let doing = text;
  let frame = 0;
  let isShown = false;
  const show = (): void => {
    const elapsedMs = performance.now() - began;
    if (elapsedMs < PATIENCE_MS) return;
    const symbol = FRAMES[frame % FRAMES.length];
    frame += 1;
    isShown = true;
    say(`${ERASE}${symbol} ${doing} (${Math.floor(elapsedMs / 1000)} s)`);
  };
  const timer = setInterval(show, FRAME_MS);
  // It shall keep nobody from ending.
  timer.unref();
  return {
    tell(next) {
      doing = next;
    },
    [Symbol.dispose]() {
      clearInterval(timer);
      if (isShown) say(ERASE);
      isShown = false;
    },
  };
}
