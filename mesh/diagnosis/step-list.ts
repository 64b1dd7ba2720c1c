/** Steps of a diagnosis as they are made: each timed, and those after a failed one skipped where they stand on it. */
import type { Clock } from '../runtime/clock.ts';
import type { DiagnosisStep } from './diagnosis.ts';
import type { Problem } from './problem.ts';

/** What a step came to. Without a problem it passed. */
export interface StepResult {
  /** What was seen, a line each. */
  readonly seen: readonly string[];
  readonly problem?: Problem | undefined;
  /** It could not be looked at; `seen` says why. */
  readonly isSkipped?: boolean;
}

/** Steps. */
export interface StepList {
  /** Makes a step; skips it when one before has failed. Rejects only as `make` does. */
  next(step: string, make: () => Promise<StepResult> | StepResult): Promise<void>;
  /** Adds a step whatever became of those before. */
  always(step: string, make: () => Promise<StepResult> | StepResult): Promise<void>;
  readonly hasFailed: boolean;
  readonly steps: readonly DiagnosisStep[];
}

/** Makes an empty list. */
export function createStepList(clock: Pick<Clock, 'monotonic'>): StepList {
  const steps: DiagnosisStep[] = [];
  let failed: string | undefined;
  const always: StepList['always'] = async (step, make) => {
    const began = clock.monotonic();
    const { seen, problem, isSkipped = false } = await make();
    const isError = problem?.severity === 'error';
    if (isError) failed ??= step;
    steps.push({
      step,
      outcome: isSkipped
        ? 'skipped'
        : problem === undefined
          ? 'passed'
          : isError
            ? 'failed'
            : 'warned',
      seen: [...seen],
      ...(problem === undefined ? {} : { problem }),
      tookMs: Math.round(clock.monotonic() - began),
    });
  };
  return {
    always,
    async next(step, make) {
      if (failed === undefined) return always(step, make);
      steps.push({
        step,
        outcome: 'skipped',
        seen: [`not looked at: ${failed} failed`],
        tookMs: 0,
      });
    },
    get hasFailed() {
      return failed !== undefined;
    },
    steps,
  };
}
