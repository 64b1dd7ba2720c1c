/** What is wrong with the own cluster, as the steps of a diagnosis: a peer cannot be well where we are not. Pure. */
import type { Clock } from '../runtime/clock.ts';
import { type Diagnosis, verdictOf } from './diagnosis.ts';
import { findOwnProblems } from './mesh-problems.ts';
import type { MeshView } from './mesh-view.ts';
import type { Problem } from './problem.ts';
import type { ProblemId } from './problems.ts';
import { createStepList, type StepResult } from './step-list.ts';

/** Problems that a step tells of; whatever is in none is the apiserver's. */
const STEPS: Readonly<
  Record<'etcd' | 'objects' | 'certificates' | 'agents', readonly ProblemId[]>
> = {
  etcd: ['etcd-full', 'etcd-unavailable'],
  objects: ['crd-missing', 'kubernetes-credentials', 'source-unreadable'],
  certificates: ['certificate-expired', 'certificate-expiring'],
  agents: [
    'agent-missing',
    'agent-silent',
    'agent-not-ready',
    'agent-note',
    'kernel-differs',
    'policy-errors',
    'map-pressure',
    'version-skew',
  ],
};
/** Problems of one step that are told beside its first. */
const MOST_TOLD = 10;

/** Makes the diagnosis of the cluster that a view is of. `from`: who has looked. */
export async function diagnoseOwn(
  from: string,
  view: MeshView,
  clock: Pick<Clock, 'monotonic'>,
): Promise<Diagnosis> {
  const { name } = view.status.cluster;
  const list = createStepList(clock);
  const problems = findOwnProblems(view);
  const known = Object.values(STEPS).flat();
  for (const [step, ids] of Object.entries(STEPS)) {
    await list.always(step, () => told(problems.filter(({ id }) => ids.includes(id))));
  }
  await list.always('apiserver', () => told(problems.filter(({ id }) => !known.includes(id))));
  return { from, peer: name, steps: [...list.steps], verdict: verdictOf(name, list.steps) };
}

/** A step has one problem: the others are in what was seen. */
function told(problems: readonly Problem[]): StepResult {
  const problem = problems.find(({ severity }) => severity === 'error') ?? problems.at(0);
  const others = problems.filter((one) => one !== problem);
  return {
    seen: others
      .slice(0, MOST_TOLD)
      .map(({ id, subject, cause }) => `also ${id}: ${subject}: ${cause}`),
    problem,
  };
}
