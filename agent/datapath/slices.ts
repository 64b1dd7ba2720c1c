/** Long work in short steps, between which others have the main loop. */
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Milliseconds for which steps go on before others have their turn. */
const SLICE_MS = 10;

/** Takes all steps, with a turn for others at least after the step that ends a slice. Throws the signal's reason. */
export async function inSlices<Result>(
  steps: Generator<undefined, Result>,
  signal?: AbortSignal,
): Promise<Result> {
  for (;;) {
    const ends = performance.now() + SLICE_MS;
    do {
      const step = steps.next();
      if (step.done === true) return step.value;
    } while (performance.now() < ends);
    await nextTurn();
    signal?.throwIfAborted();
  }
}

/** Takes all steps in one go. */
export function atOnce<Result>(steps: Generator<undefined, Result>): Result {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
  }
}
