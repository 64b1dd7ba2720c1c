import fc from 'fast-check';
import { CHANGE_KINDS, FAULT_KINDS, type ModelStep } from './model-cluster.ts';

/** Histories of 5 to 40 steps, three of four of them changes. */
export function modelSteps(): fc.Arbitrary<ModelStep[]> {
  const numbers = { a: fc.nat(1000), b: fc.nat(1000), c: fc.nat(1000) };
  const step: fc.Arbitrary<ModelStep> = fc.oneof(
    { weight: 12, arbitrary: fc.record({ kind: fc.constantFrom(...CHANGE_KINDS), ...numbers }) },
    { weight: 4, arbitrary: fc.record({ kind: fc.constantFrom(...FAULT_KINDS), ...numbers }) },
  );
  return fc.array(step, { minLength: 5, maxLength: 40, size: 'max' });
}
