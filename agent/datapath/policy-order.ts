/** In which order rows of the policy map are written and removed. Pure. */
import { POLICY_PROTOCOL_BITS } from '../../mesh/wire/maps.ts';
import type { PolicyEntry, RowChange } from './desired.ts';

type PolicyKey = Omit<PolicyEntry, 'verdict'>;

/**
 * The order of changes of one kind in which no flow that is allowed both before and after is denied meanwhile, and none that
 * is denied in both is allowed, if all rows are written before any is removed: the narrower a row, the earlier it is written
 * and the later it is removed; of equally narrow ones, denies are written first and removed last. `verdictOf`: what stands
 * there now.
 */
export function inPolicyOrder(
  changes: readonly RowChange<PolicyEntry, PolicyKey>[],
  verdictOf: (key: PolicyKey) => PolicyEntry['verdict'] | undefined,
): readonly RowChange<PolicyEntry, PolicyKey>[] {
  if (changes.length < 2) return changes;
  const ranked = changes.map((change) => ({
    change,
    rank:
      change.kind === 'upsert'
        ? -precedence(change.row, change.row.verdict)
        : precedence(change.key, verdictOf(change.key)),
  }));
  return ranked.sort((a, b) => a.rank - b.rank).map(({ change }) => change);
}

/** Bits of protocol and port that count. */
function policyWidth(key: PolicyKey): number {
  return key.protocol === 0 ? 0 : POLICY_PROTOCOL_BITS + key.portPrefixBits;
}

/** Greater for the row that decides where both match. */
function precedence(key: PolicyKey, verdict: PolicyEntry['verdict'] | undefined): number {
  return 2 * policyWidth(key) + (verdict === 'deny' ? 1 : 0);
}
