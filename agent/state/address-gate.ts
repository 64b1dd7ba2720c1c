/**
 * Identities before the addresses that carry them, whichever is heard of first: an address that gets another identity keeps
 * its former one until somebody has said what the new one is. Else whoever may be talked to throughout would be nobody in
 * between.
 */
import { MINIMUM_ALLOCATED_IDENTITY } from '../../mesh/wire/ids.ts';
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';

/** How long an address waits at most; then it has an identity that nobody knows, and no rule is about it. */
export const GATE_MS = 10_000;

/** Identities of local scope begin here. Those are given by this node itself, and known. */
const FIRST_OF_LOCAL_SCOPE = 1 << 24;

/** Addresses that wait. No clock: who calls says what time it is, in monotonic milliseconds. */
export interface AddressGate {
  /** Whether a row is written as it is wanted, whatever is there: nearly all are, and then that need not be looked up. */
  isOpenTo(row: IpcacheEntry): boolean;
  /** The row to write in place of a wanted one. `before`: the one that is there. */
  pass(row: IpcacheEntry, before: IpcacheEntry | undefined, now: number): IpcacheEntry;
  /** Nobody has the address any more. */
  forget(prefix: IpPrefix): void;
  /** Somebody has said what an identity is: what waits for it is to be passed again. */
  open(identity: number): void;
  /** Prefixes whose rows are to be passed again; they do not wait any more. */
  takeDue(now: number): IpPrefix[];
  /** When an address has waited long enough; undefined: none waits. */
  nextAt(): number | undefined;
}

/** Makes an empty one. `isKnown`: whether somebody has said what an identity is. */
export function createAddressGate(isKnown: (identity: number) => boolean): AddressGate {
  const waiting = new Map<IpPrefix, { readonly identity: number; readonly until: number }>();
  const due = new Set<IpPrefix>();
  return {
    isOpenTo: ({ prefix, identity }) =>
      (waiting.size === 0 || !waiting.has(prefix)) && (!isOfPod(identity) || isKnown(identity)),
    pass(row, before, now) {
      const { prefix, identity } = row;
      const found = waiting.get(prefix);
      const until = found?.identity === identity ? found.until : now + GATE_MS;
      const isNews =
        before !== undefined &&
        before.identity !== identity &&
        before.clusterId === row.clusterId &&
        isOfPod(identity) &&
        isOfPod(before.identity) &&
        !isKnown(identity);
      if (!isNews || until <= now) {
        waiting.delete(prefix);
        return row;
      }
      waiting.set(prefix, { identity, until });
      return { ...row, identity: before.identity };
    },
    forget(prefix) {
      waiting.delete(prefix);
    },
    open(identity) {
      for (const [prefix, found] of waiting) if (found.identity === identity) due.add(prefix);
    },
    takeDue(now) {
      for (const [prefix, { until }] of waiting) if (until <= now) due.add(prefix);
      const taken = [...due];
      due.clear();
      return taken;
    },
    nextAt() {
      let next: number | undefined;
      for (const { until } of waiting.values()) next = Math.min(until, next ?? until);
      return next;
    },
  };
}

function isOfPod(identity: number): boolean {
  return identity >= MINIMUM_ALLOCATED_IDENTITY && identity < FIRST_OF_LOCAL_SCOPE;
}
