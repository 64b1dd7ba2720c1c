/** What `troubleshoot` finds: steps one after the other, and a verdict in one sentence. Pure. */
import { z } from 'zod';
import { parseJsonAs } from '../wire/agent-report.ts';
import type { Problem } from './problem.ts';
import { isProblemId } from './problems.ts';

/** A problem as it is sent. */
export const problemSchema = z.object({
  id: z.string().refine(isProblemId, 'a problem that this version does not know'),
  severity: z.enum(['error', 'warning']),
  subject: z.string(),
  cause: z.string(),
  nextCommand: z.string(),
  docs: z.string(),
});

const stepSchema = z.object({
  /** Short name: `dns`, `tcp`, `tls`. */
  step: z.string(),
  /** `skipped`: it says nothing, because of one before or for want of something. */
  outcome: z.enum(['passed', 'warned', 'failed', 'skipped']),
  /** What was seen, a line each. */
  seen: z.array(z.string()).default([]),
  problem: problemSchema.optional(),
  tookMs: z.number().default(0),
});

/** Two ends of traffic, in the words of `clustermesh policy trace`. `isAsked`: somebody named them, else they are an example. */
const pairSchema = z.object({
  from: z.string(),
  to: z.string(),
  port: z.string(),
  isAsked: z.boolean(),
});

const diagnosisSchema = z.object({
  /** Who looked: `apiserver of alpha`, `agent on worker-1`, `this machine`. */
  from: z.string(),
  /** At whom. */
  peer: z.string(),
  steps: z.array(stepSchema),
  /** Whose policies were judged; absent: nobody's. */
  pair: pairSchema.optional(),
  /** One sentence. */
  verdict: z.string(),
});

/** A step. */
export type DiagnosisStep = z.infer<typeof stepSchema>;
/** Whose policies were judged. */
export type DiagnosedPair = NonNullable<Diagnosis['pair']>;
/** What was found of one peer. */
export type Diagnosis = z.infer<typeof diagnosisSchema>;

/** Writes diagnoses as TroubleshootResponse carries them. */
export function encodeDiagnoses(diagnoses: readonly Diagnosis[]): string {
  return JSON.stringify(diagnoses);
}

/** Reads them. Throws WireError `bad-value`. */
export function decodeDiagnoses(json: string): Diagnosis[] {
  return parseJsonAs(z.array(diagnosisSchema), { json, key: 'what was found' });
}

/** The first problem that keeps something from working, else the first that is to be looked at. */
export function leadingProblem(steps: readonly DiagnosisStep[]): Problem | undefined {
  const problems = steps.flatMap(({ problem }) => (problem === undefined ? [] : [problem]));
  const first = problems.find(({ severity }) => severity === 'error') ?? problems[0];
  // With a wrong clock the dates of good certificates are wrong.
  const isDate = first !== undefined && /-(not-yet-valid|expired)$/.test(first.id);
  return (isDate ? problems.find(({ id }) => id === 'peer-clock') : undefined) ?? first;
}

/** The verdict over steps, in one sentence. */
export function verdictOf(peer: string, steps: readonly DiagnosisStep[]): string {
  const problem = leadingProblem(steps);
  if (problem === undefined) {
    const skipped = steps.filter(({ outcome }) => outcome === 'skipped').map(({ step }) => step);
    const open = skipped.length === 0 ? '' : ` (not looked at: ${skipped.join(', ')})`;
    return `cluster ${peer} works as far as was looked${open}`;
  }
  const cause = problem.cause.replace(/\.$/, '');
  // One Service, or one pair, is not the whole cluster.
  const what = /^(Service|traffic) /.test(problem.subject) ? problem.subject : `cluster ${peer}`;
  return problem.severity === 'error'
    ? `${what} does not work because ${cause} (${problem.id})`
    : `cluster ${peer} works, but ${cause} (${problem.id})`;
}
