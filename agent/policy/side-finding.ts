/** What policies of one side decide about traffic between two clusters, as a step of a diagnosis. */
import type { DiagnosedPair, DiagnosisStep } from '../../mesh/diagnosis/diagnosis.ts';
import { type Problem, problemOf } from '../../mesh/diagnosis/problem.ts';
import type { StepResult } from '../../mesh/diagnosis/step-list.ts';
import { verdictReason } from './sources-of-verdict-info.ts';
import type { SideAnswer } from './trace.ts';

/** Step that tells of the side which another cluster's policies decide. */
export const PEER_POLICY_STEP = 'peer-policy';

/** A side, and the direction that its policies decide. */
export interface JudgedSide {
  readonly direction: 'ingress' | 'egress';
  /** Of the cluster that was asked. */
  readonly side: SideAnswer;
}

/** What one side says, as a step tells it. */
export function judgeSide(pair: DiagnosedPair, about: JudgedSide): StepResult {
  const { direction, side } = about;
  if (side.kind !== 'known') return { seen: [`no policy is about its ${direction}`] };
  const spared = side.audit && side.says.verdict === 'denied' ? ' (audit mode: it passes)' : '';
  const seen = [
    `${pair.from} to ${pair.to} ${pair.port}: ${direction} at ${side.cluster} is ${side.says.verdict}${spared}, ${reasonOf(side)}`,
    ...(side.kernel === undefined || side.kernel === side.says.verdict
      ? []
      : [`the rows of node ${side.node} say ${side.kernel}: they may be being written`]),
  ];
  return { seen, problem: sideProblem(pair, about) };
}

/** Puts what the other side says in the place of `peer-policy`; a denial there explains silence that was only guessed about. */
export function withPeerPolicy(
  steps: readonly DiagnosisStep[],
  { seen, problem }: StepResult,
): DiagnosisStep[] {
  const guess = problem?.nextCommand;
  return steps.map((step): DiagnosisStep => {
    if (step.step === PEER_POLICY_STEP) {
      const outcome = problem === undefined ? 'passed' : OUTCOMES[problem.severity];
      const found = problem === undefined ? {} : { problem };
      return { step: step.step, outcome, seen: [...seen], ...found, tookMs: step.tookMs };
    }
    const { problem: guessed, ...rest } = step;
    return guessed !== undefined && guessed.nextCommand === guess ? rest : step;
  });
}

const OUTCOMES = { error: 'failed', warning: 'warned' } as const;

/** Why a side denies the traffic; undefined: it does not. */
export function sideProblem(
  pair: DiagnosedPair,
  { direction, side }: JudgedSide,
): Problem | undefined {
  if (side.kind !== 'known' || side.audit || side.says.verdict !== 'denied') return undefined;
  const { from, to, port } = pair;
  const problem = problemOf('policy-denies', {
    subject: `traffic from ${from} to ${to} ${port}`,
    cause: `policies of cluster ${side.cluster} deny ${direction} of ${from} to ${to} ${port}: ${reasonOf(side)}`,
    values: { from, to, port },
  });
  return { ...problem, severity: pair.isAsked ? 'error' : 'warning' };
}

function reasonOf({ says }: Extract<SideAnswer, { kind: 'known' }>): string {
  const rules = says.rules.map(({ policy, path }) => `${policy} ${path}`).join(', ');
  return `${verdictReason(says)}${rules === '' ? '' : `: ${rules}`}`;
}
