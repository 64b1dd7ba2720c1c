/**
 * Promises 2 and 4: whatever order changes, cuts, compactions, wipes and restarts come in, the agent ends with what was
 * published, and what did not change is never taken away meanwhile. The seed of a failure is printed; to repeat it:
 * ISTHMUS_MODEL_SEED, and with ISTHMUS_MODEL_SHRINK=true the shortest history that fails is looked for.
 * ISTHMUS_MODEL_RUNS asks for more of them.
 */
import fc from 'fast-check';
import { test } from 'tap';
import { runModel } from './testing/model-run.ts';
import { modelSteps } from './testing/model-steps.ts';

const RUNS = Number(process.env.ISTHMUS_MODEL_RUNS ?? 200);
const SEED = Number(process.env.ISTHMUS_MODEL_SEED ?? Date.now() % 2 ** 31);

test('any history of a peer ends in the tables that the model says', async (t) => {
  t.comment(`seed ${SEED}, ${RUNS} runs`);
  await fc.assert(
    fc.asyncProperty(modelSteps(), async (steps) => {
      const undo: (() => Promise<void>)[] = [];
      try {
        await runModel(steps, { teardown: (last) => undo.push(last) });
      } finally {
        for (const last of undo.reverse()) await last();
      }
    }),
    {
      numRuns: RUNS,
      seed: SEED,
      endOnFailure: process.env.ISTHMUS_MODEL_SHRINK !== 'true',
      includeErrorInReport: true,
    },
  );
});
