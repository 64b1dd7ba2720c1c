/**
 * Identities of pods that the kernel takes for known: those whose rows are written. Rows for anybody beside rules that deny
 * some by their labels are about these alone, since nobody can say whom of the others such a rule denies.
 */
import type { Labels } from '../../mesh/wire/identity.ts';
import { MINIMUM_ALLOCATED_IDENTITY } from '../../mesh/wire/ids.ts';
import { KNOWN_TO, type PolicyEntry } from '../datapath/desired.ts';
import type { DesiredTable } from './table.ts';

/** Rows of KNOWN_TO. There are none before rows of endpoints ask for them: most never do. */
export interface KnownIdentities {
  /** Rows of endpoints ask for them from now on. `identities`: who is known by now. */
  begin(identities: Iterable<readonly [number, Labels]>): void;
  /** No rows ask for them any more. */
  end(): void;
  /** Somebody has said what an identity is, or has taken it back. */
  set(identity: number, isKnown: boolean): void;
  /**
   * Forgets those that only a previous process knew: a rule that it did not have may deny them. They are strangers until
   * their cluster has said what they are.
   */
  forgetFormer(): void;
  readonly isBegun: boolean;
  /** Rows there are. */
  readonly count: number;
}

/** Identities of local scope begin here: the node gives them itself. */
const FIRST_OF_LOCAL_SCOPE = 1 << 24;

/** Makes it over the policy table, with nobody known but those whom a previous process left there. */
export function createKnownIdentities(
  table: DesiredTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>>,
): KnownIdentities {
  const known = new Set<number>();
  let isBegun = false;

  const set = (identity: number, isKnown: boolean): void => {
    if (!isBegun || identity < MINIMUM_ALLOCATED_IDENTITY || identity >= FIRST_OF_LOCAL_SCOPE) {
      return;
    }
    if (isKnown) {
      known.add(identity);
      table.set(rowOf(identity));
    } else {
      known.delete(identity);
      table.remove(rowOf(identity));
    }
  };

  return {
    get isBegun() {
      return isBegun;
    },
    get count() {
      return known.size;
    },
    begin(identities) {
      if (isBegun) return;
      isBegun = true;
      for (const [identity] of identities) set(identity, true);
    },
    end() {
      for (const identity of known) table.remove(rowOf(identity));
      known.clear();
      isBegun = false;
    },
    set,
    forgetFormer() {
      for (const row of table.adopted()) if (isKnownRow(row)) table.remove(row);
    },
  };
}

/** Whether a row says that an identity is known, and no verdict. */
export function isKnownRow({ endpointId }: Pick<PolicyEntry, 'endpointId'>): boolean {
  return endpointId === KNOWN_TO;
}

function rowOf(identity: number): PolicyEntry {
  return {
    endpointId: KNOWN_TO,
    direction: 'ingress',
    identity,
    protocol: 0,
    port: 0,
    portPrefixBits: 0,
    verdict: 'allow',
  };
}
