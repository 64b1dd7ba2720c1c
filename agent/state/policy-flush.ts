/** In which order rows of the policy table go to the kernel, and what becomes of an endpoint whose rows do not. */
import type { PolicyEntry } from '../datapath/desired.ts';
import { isKnownRow } from './known-identities.ts';
import type { PolicyState } from './policy-state.ts';
import type { Reconciler } from './reconciler.ts';

/**
 * Makes a function that writes policy rows, those that are not wanted any more excepted. What denies comes first, and an
 * endpoint for which it cannot be written is closed; then who is known, then what allows. `now`: monotonic milliseconds.
 */
export function createPolicyFlush(
  reconciler: Reconciler<PolicyEntry, Omit<PolicyEntry, 'verdict'>>,
  policies: Pick<PolicyState, 'setRefused'>,
): (now: number) => void {
  return (now) => {
    reconciler.flush(now, { deletes: isKnownRow });
    reconciler.flush(now, { upserts: isDenyRow });
    const refused = new Set<number>();
    for (const change of reconciler.table.failures()) {
      if (change.kind === 'upsert' && isDenyRow(change.row)) refused.add(change.row.endpointId);
    }
    policies.setRefused(refused);
    if (refused.size > 0) {
      reconciler.flush(now, { deletes: ({ endpointId }) => refused.has(endpointId) });
    }
    reconciler.flush(now, { upserts: isKnownRow });
    reconciler.flush(now, { upserts: () => true });
  };
}

/** Whether two rows of one key say the same. */
export function samePolicy(a: PolicyEntry, b: PolicyEntry): boolean {
  return a.verdict === b.verdict && (a.knownOnly ?? false) === (b.knownOnly ?? false);
}

function isDenyRow({ verdict }: PolicyEntry): boolean {
  return verdict === 'deny';
}
