/**
 * Identities that this node gives for itself and that never leave it: to addresses outside the mesh that policies name, and
 * to nodes by their labels (Cilium's local scopes, `pkg/identity/numericidentity.go`).
 */
import {
  type LocalIdentity,
  type LocalScope,
  localIdentity,
  localIdentityScope,
} from '../../mesh/wire/ids.ts';

/** Whom an identity stands for: a prefix of addresses, or nodes that are alike to policies. */
export interface LocalHolding {
  readonly key: string;
  readonly identity: LocalIdentity;
}

/** Is told of identities: `isThere` false once nobody may carry it any more, and before its number is given again. */
export type LocalIdentityWatch = (holding: LocalHolding, isThere: boolean) => void;

/**
 * Keys that somebody names, each with an identity. The address table of the kernel is to hold those of `takeChanges` alone;
 * identities outlive that for LINGER_MS, so that no packet of an address which had one is judged by rows that have gone
 * already. No clock: who calls says what time it is.
 */
export interface LocalIdentities {
  /**
   * Names a key; as often as that is done, it must be released. `preferred`: the number it had in a previous process,
   * which it gets if that was reserved and nobody else has it.
   */
  hold(key: string, preferred?: number): LocalHolding;
  /** `now`: monotonic milliseconds. */
  release(key: string, now: number): void;
  /** Takes over what a previous process gave: the key keeps its number, whether or not somebody names it again. */
  adopt(key: string, identity: number, now: number): void;
  /** Keeps a number that a previous process gave to somebody who is not known yet for whoever turns out to be that. */
  reserve(identity: number): void;
  /** Forgets identities that nobody has named for LINGER_MS. */
  expire(now: number): void;
  /** When `expire` is worth a call, in monotonic milliseconds; undefined: not until something is released. */
  nextExpiry(): number | undefined;
  /** Keys that were named for the first time, or (undefined) for the last, since the last call. */
  takeChanges(): ReadonlyMap<string, LocalIdentity | undefined>;
  /** All of them, those that nobody names any more included. */
  all(): Iterable<LocalHolding>;
  readonly size: number;
}

interface Counted extends LocalHolding {
  count: number;
  /** When it was released last; counts where `count` is 0. */
  releasedAt: number;
}

/** How long an identity that nobody names keeps its rows and its number. */
export const LINGER_MS = 10 * 60_000;

/** Numbers of identities are 1 to this. */
const MAX_NUMBER = 0xffffff;

/** Makes an empty one. `watch`: see LocalIdentityWatch. */
export function createLocalIdentities(
  scope: LocalScope,
  watch: LocalIdentityWatch,
): LocalIdentities {
  const byKey = new Map<string, Counted>();
  const taken = new Set<number>();
  /** Given by a previous process to somebody who is not known yet. */
  const reserved = new Set<number>();
  /** Those that nobody names, oldest first. */
  const unused = new Set<Counted>();
  const changed = new Set<string>();
  let last = 0;

  const nextNumber = (): number => {
    // Upwards and round: a number that was given back is the last one to be given again.
    do last = last >= MAX_NUMBER ? 1 : last + 1;
    while (taken.has(last) || reserved.has(last));
    return last;
  };
  const add = (key: string, number: number): Counted => {
    const holding = { key, identity: localIdentity(scope, number), count: 0, releasedAt: 0 };
    byKey.set(key, holding);
    taken.add(number);
    watch(holding, true);
    return holding;
  };
  const forget = (holding: Counted): void => {
    unused.delete(holding);
    byKey.delete(holding.key);
    taken.delete(numberOf(holding.identity));
    watch(holding, false);
  };
  /** A number of a previous process, for what is known now to have had it. */
  const claim = (preferred: number | undefined): number | undefined => {
    const found = preferred === undefined ? undefined : localIdentityScope(preferred);
    if (found?.scope !== scope || !reserved.delete(found.number)) return undefined;
    return found.number;
  };

  return {
    hold(key, preferred) {
      const holding = byKey.get(key) ?? add(key, claim(preferred) ?? nextNumber());
      if (holding.count === 0) {
        unused.delete(holding);
        changed.add(key);
      }
      holding.count += 1;
      return holding;
    },
    release(key, now) {
      const holding = byKey.get(key);
      if (holding === undefined || holding.count === 0) return;
      holding.count -= 1;
      if (holding.count > 0) return;
      holding.releasedAt = now;
      unused.add(holding);
      changed.add(key);
    },
    adopt(key, identity, now) {
      const found = localIdentityScope(identity);
      if (found?.scope !== scope || byKey.has(key) || taken.has(found.number)) return;
      const holding = add(key, found.number);
      holding.releasedAt = now;
      unused.add(holding);
      last = Math.max(last, found.number);
    },
    reserve(identity) {
      const found = localIdentityScope(identity);
      if (found?.scope === scope && !taken.has(found.number)) reserved.add(found.number);
    },
    expire(now) {
      for (const holding of unused) {
        if (holding.releasedAt + LINGER_MS > now) return;
        forget(holding);
      }
    },
    nextExpiry() {
      for (const { releasedAt } of unused) return releasedAt + LINGER_MS;
      return undefined;
    },
    takeChanges() {
      const changes = new Map<string, LocalIdentity | undefined>();
      for (const key of changed) {
        const holding = byKey.get(key);
        const isNamed = holding !== undefined && holding.count > 0;
        changes.set(key, isNamed ? holding.identity : undefined);
      }
      changed.clear();
      return changes;
    },
    all: () => byKey.values(),
    get size() {
      return byKey.size;
    },
  };
}

function numberOf(identity: number): number {
  return identity % (MAX_NUMBER + 1);
}
