/**
 * How a policy stands, as conditions of its object. `Valid` is Cilium's (its operator's `pkg/policy`-validator writes the same
 * words); `Enforced` is ours. Their fields are those that Cilium's CustomResourceDefinition has: no `observedGeneration`. Pure.
 */
import type { PolicyStanding } from '../registry/policy-report.ts';
import { listOf, recordOf, textOf } from './kubernetes-object.ts';
import type { Condition, StoredCondition } from './mcs/condition.ts';
import { storeConditions } from './mcs/condition.ts';

/** Longest message that is written, in characters. */
const MAX_MESSAGE_LENGTH = 4096;

/** A condition of a policy as it stands in its object. */
export type PolicyCondition = Omit<StoredCondition, 'observedGeneration'>;

/** What a change of conditions is about. */
export type ConditionsChange =
  | { readonly kind: 'none' }
  /** Counts alone: they may wait, lest every pod that comes is a write for each of its policies. */
  | { readonly kind: 'counts' }
  | { readonly kind: 'state' };

/** What the conditions of a policy are to say. */
export function policyConditions(standing: PolicyStanding): readonly Condition[] {
  const { problems } = standing;
  return [
    problems.length === 0
      ? {
          type: 'Valid',
          status: 'True',
          reason: 'Valid',
          message: 'Policy validation succeeded',
        }
      : {
          type: 'Valid',
          status: 'False',
          reason: 'NotEnforcedAsWritten',
          message: cut(problems.join('; ')),
        },
    enforcedCondition(standing),
  ];
}

function enforcedCondition(standing: PolicyStanding): Condition {
  const { generation, nodes, behind, selecting, endpoints, entries, errors, problems } = standing;
  const counts = `generation ${generation}: ${endpoints} endpoints on ${selecting} of ${nodes} nodes, ${entries} entries`;
  const type = 'Enforced';
  if (errors.length > 0) {
    const message = cut(`${counts}; ${errors.join('; ')}`);
    return { type, status: 'False', reason: 'Failing', message };
  }
  if (behind > 0) {
    const message = `${counts}; ${behind} of the nodes do not know this generation yet`;
    return { type, status: 'Unknown', reason: 'RollingOut', message };
  }
  if (problems.length > 0) {
    return { type, status: 'False', reason: 'NotEnforcedAsWritten', message: counts };
  }
  return { type, status: 'True', reason: 'Enforced', message: counts };
}

/** The conditions to be written; the time of one whose status is as before stays. `now`: milliseconds since 1970. */
export function conditionsToStore(
  wanted: readonly Condition[],
  { before, now }: { readonly before: readonly PolicyCondition[]; readonly now: number },
): readonly PolicyCondition[] {
  const old = before.map((condition) => ({ ...condition, observedGeneration: undefined }));
  return storeConditions(wanted, { before: old, generation: 0, now }).map(
    ({ observedGeneration: _, ...condition }) => condition,
  );
}

/** What of the conditions would change. Conditions of others, of other types, are no matter of ours. */
export function changeOfConditions(
  wanted: readonly Condition[],
  before: readonly PolicyCondition[],
): ConditionsChange {
  let kind: ConditionsChange['kind'] = 'none';
  for (const condition of wanted) {
    const old = before.find(({ type }) => type === condition.type);
    if (old?.status !== condition.status || old.reason !== condition.reason) {
      return { kind: 'state' };
    }
    if (old.message === condition.message) continue;
    // Another generation is in force: that is not to wait, nor other words about what is wrong.
    if (withoutCounts(old) !== withoutCounts(condition)) return { kind: 'state' };
    kind = 'counts';
  }
  return { kind };
}

/** Conditions of an object as it came; what is no condition is left out. */
export function readPolicyConditions(raw: unknown): readonly PolicyCondition[] {
  return listOf(recordOf(recordOf(raw)?.status)?.conditions).flatMap((entry) => {
    const fields = recordOf(entry);
    const status = (['True', 'False', 'Unknown'] as const).find((one) => one === fields?.status);
    if (fields === undefined || status === undefined) return [];
    return [
      {
        type: textOf(fields, 'type'),
        status,
        reason: textOf(fields, 'reason'),
        message: textOf(fields, 'message'),
        lastTransitionTime: textOf(fields, 'lastTransitionTime'),
      },
    ];
  });
}

function withoutCounts({ message }: Pick<Condition, 'message'>): string {
  return message.replace(/: \d+ endpoints on \d+ of \d+ nodes, \d+ entries/, '');
}

function cut(text: string): string {
  return text.length <= MAX_MESSAGE_LENGTH ? text : `${text.slice(0, MAX_MESSAGE_LENGTH - 1)}…`;
}
