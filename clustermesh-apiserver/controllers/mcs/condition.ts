/** Conditions in the status of Kubernetes objects. */

/** A condition as it should be. */
export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  /** One word in camel case. */
  readonly reason: string;
  readonly message: string;
}

/** A condition as it stands in an object. */
export interface StoredCondition extends Condition {
  /** Generation of the object that was judged, where it is said. */
  readonly observedGeneration: number | undefined;
  /** When `status` last changed, as Kubernetes writes times. */
  readonly lastTransitionTime: string;
}

/** What conditions are to be told of. */
export interface ConditionContext {
  readonly before: readonly StoredCondition[];
  /** Generation of the object that was looked at. */
  readonly generation: number;
  /** Milliseconds since 1970. */
  readonly now: number;
}

/** The conditions to be stored: the time of one whose status is as before stays. */
export function storeConditions(
  conditions: readonly Condition[],
  { before, generation, now }: ConditionContext,
): readonly StoredCondition[] {
  return conditions.map((condition) => {
    const old = before.find(({ type }) => type === condition.type);
    return {
      ...condition,
      observedGeneration: generation,
      lastTransitionTime:
        old?.status === condition.status
          ? old.lastTransitionTime
          : new Date(now).toISOString().replace(/\.\d{3}Z$/, 'Z'),
    };
  });
}

/** Whether stored conditions say the same, for the same generation. */
export function sameConditions(
  a: readonly StoredCondition[],
  b: readonly StoredCondition[],
): boolean {
  return (
    a.length === b.length &&
    a.every((one) => {
      const other = b.find(({ type }) => type === one.type);
      return (
        other !== undefined &&
        other.status === one.status &&
        other.reason === one.reason &&
        other.message === one.message &&
        other.observedGeneration === one.observedGeneration
      );
    })
  );
}
