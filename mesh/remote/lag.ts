/**
 * How late changes of other clusters come into use here. A publisher writes a stamp, its own time, in the transaction
 * of a batch of changes, about once a second: the changes that bear the stamp's revision were written at that time. So
 * one batch a second is measured exactly, and nothing is guessed about the others. A peer that writes no stamps has an
 * unknown lag, never none. Pure: it is told what happens, and asks its clock what time it is.
 */
import type { Clock } from '../runtime/clock.ts';
import { type ClockEnvelope, createClockEnvelope } from './clock-envelope.ts';
import type { MeshKind } from './cluster-sink.ts';
import {
  createLagCounts,
  LAG_BOUNDS_SECONDS,
  type LagCounts,
  type RecentLag,
} from './lag-counts.ts';

/** Revisions that are remembered of each kind at first, until their stamp comes; and at most, while they are not in use. */
const REVISIONS = 64;
const MAX_REVISIONS = 4096;
const STAMPS = 32;
/** Measurements that wait for the clocks to be known, or for a late stamp to be explained. */
const HELD = 256;

/** The clocks of a peer and ours. */
export interface ClockDifference {
  /** The peer's wall clock less ours, in milliseconds. */
  readonly differenceMs: number;
  /** By how much that may be wrong, either way. */
  readonly uncertaintyMs: number;
  /** How often the peer's clock was set while it was watched. */
  readonly steps: number;
}

/** Lag of a peer, for people. */
export type LagStatus =
  | { readonly kind: 'unknown'; readonly reason: string }
  | {
      readonly kind: 'measured';
      readonly clock: ClockDifference;
      /** From the peer's write to use here, of the last five minutes, by kind; a kind without changes is absent. */
      readonly recent: Readonly<Partial<Record<MeshKind, RecentLag>>>;
    };

/** Measures one peer. */
export interface LagMeter {
  /** A connection begins: revisions are those of its server. `reason` is why nothing is known until the stamps are found. */
  begin(reason: string): void;
  /** The server has stamps; until then what is seen costs next to nothing. */
  begun(): void;
  /** A watch (not a list) told a change of this kind; it is on its way into use. */
  seen(kind: MeshKind, modRevision: bigint): void;
  /** Everything seen is in use now. */
  settle(): void;
  /** A watch (not a list) told a stamp. */
  stamp(stamp: { readonly revision: bigint; readonly at: number }): void;
  /** A call to the server took so many milliseconds, there and back. */
  roundTrip(milliseconds: number): void;
  status(): LagStatus;
  /** Undefined while the clocks are not known. */
  clock(): ClockDifference | undefined;
  /** Counts since the beginning, by kind. */
  totals(): ReadonlyMap<MeshKind, LagCounts['total']>;
}

/** Upper bounds of `totals`, in seconds. */
export const LAG_BOUNDS = LAG_BOUNDS_SECONDS;

interface Stamp {
  readonly revision: number;
  readonly at: number;
  readonly isHeld: boolean;
}

/** A difference of clocks that somebody should look at, in milliseconds, beyond what it may be wrong by. */
const CLOCK_WARNING_MS = 3000;

/** Whether the clocks of two clusters are seconds apart for certain: certificates and logs suffer from that. */
export function isClockWrong({
  differenceMs,
  uncertaintyMs,
}: Pick<ClockDifference, 'differenceMs' | 'uncertaintyMs'>): boolean {
  return Math.abs(differenceMs) - uncertaintyMs > CLOCK_WARNING_MS;
}

/** Revisions of one kind and when they came into use: a ring, so that an hour of churn costs no garbage. */
interface Revisions {
  /** When each came into use, by the monotonic clock; NaN: not yet. */
  used: Float64Array;
  revision: Float64Array;
  /** How many were ever noted; the latest is at `(noted - 1) % length`. */
  noted: number;
  /** The first that is not in use yet. */
  open: number;
}

/** Makes a meter. `onDirty` is told when something waits for `settle`. */
export function createLagMeter(clock: Clock, onDirty: () => void = () => undefined): LagMeter {
  const envelope: ClockEnvelope = createClockEnvelope();
  const kinds = new Map<MeshKind, Revisions>();
  const counts = new Map<MeshKind, LagCounts>();
  let stamps: Stamp[] = [];
  let held: { readonly kind: MeshKind; readonly raw: number }[] = [];
  let unknown: string | undefined = 'its stamps have not been looked for yet';
  let isBegun = false;

  const count = (kind: MeshKind, raw: number, offset: number): void => {
    const total = counts.get(kind) ?? createLagCounts();
    counts.set(kind, total);
    total.add(Math.max(0, raw - offset), clock.monotonic());
  };
  /** A change came into use at `used`; its stamp says when it was written. */
  const measure = (kind: MeshKind, used: number, { at, isHeld }: Stamp): void => {
    const { offset } = envelope;
    if (!isHeld && offset !== undefined) count(kind, used - at, offset);
    else if (held.length < HELD) held.push({ kind, raw: used - at });
  };
  const release = (): void => {
    const { offset } = envelope;
    if (offset === undefined) return;
    for (const { kind, raw } of held) count(kind, raw, offset);
    held = [];
    stamps = stamps.map((stamp) => ({ ...stamp, isHeld: false }));
  };
  const difference = (): ClockDifference | undefined => {
    const { offset, uncertainty, steps } = envelope;
    if (unknown !== undefined || offset === undefined || uncertainty === undefined)
      return undefined;
    return {
      differenceMs: clock.monotonic() - offset - clock.now(),
      uncertaintyMs: uncertainty,
      steps,
    };
  };
  const stampOf = (revision: number): Stamp | undefined =>
    stamps.find((stamp) => stamp.revision === revision);

  return {
    begin(reason) {
      kinds.clear();
      stamps = [];
      held = [];
      isBegun = false;
      unknown = reason;
    },
    begun() {
      isBegun = true;
      unknown = undefined;
    },
    seen(kind, modRevision) {
      if (!isBegun) return;
      const revisions = kinds.get(kind) ?? createRevisions();
      kinds.set(kind, revisions);
      note(revisions, Number(modRevision));
      onDirty();
    },
    settle() {
      const now = clock.monotonic();
      for (const [kind, revisions] of kinds) {
        const size = revisions.used.length;
        for (let index = revisions.open; index < revisions.noted; index += 1) {
          revisions.used[index % size] = now;
          const stamp = stampOf(revisions.revision[index % size] ?? Number.NaN);
          if (stamp !== undefined) measure(kind, now, stamp);
        }
        revisions.open = revisions.noted;
      }
    },
    stamp({ revision, at }) {
      const verdict = envelope.add({ at, arrival: clock.monotonic() });
      if (verdict === 'step') {
        held = [];
        stamps = [];
      }
      const isHeld = verdict === 'wait' || envelope.offset === undefined;
      const stamp = { revision: Number(revision), at, isHeld };
      stamps = [...stamps, stamp].slice(-STAMPS);
      for (const [kind, revisions] of kinds) {
        const used = usedAt(revisions, stamp.revision);
        if (used !== undefined) measure(kind, used, stamp);
      }
      if (!isHeld) release();
    },
    roundTrip: (milliseconds) => envelope.addRoundTrip(milliseconds),
    clock: difference,
    status() {
      if (unknown !== undefined) return { kind: 'unknown', reason: unknown };
      const clocks = difference();
      if (clocks === undefined) {
        return { kind: 'unknown', reason: 'too few of its stamps have been seen yet' };
      }
      const now = clock.monotonic();
      const recent: Partial<Record<MeshKind, RecentLag>> = {};
      for (const [kind, total] of counts) {
        const lag = total.recent(now);
        if (lag !== undefined) recent[kind] = lag;
      }
      return { kind: 'measured', clock: clocks, recent };
    },
    totals: () => new Map([...counts].map(([kind, { total }]) => [kind, total])),
  };
}

/** The meters of all clusters that are read. */
export interface LagBook {
  /** Meter of a cluster, made when it is first asked for. */
  meterOf(cluster: string): LagMeter;
  /** Forgets a cluster that has left. */
  forget(cluster: string): void;
  /** Everything that any cluster was seen to say is in use now. Costs nothing where nothing was seen. */
  settle(): void;
  /** What cached clusters, which are read from the own cluster's etcd, share with it. */
  readonly own: StampRelay;
  meters(): Iterable<readonly [string, LagMeter]>;
}

/** Stamps of one etcd handed on to readers of other data in the same etcd, so that its stamps are watched once. */
export interface StampRelay {
  /** Hands on what the etcd of that id said. */
  tell(clusterId: string | undefined, stamp: { revision: bigint; at: number }): void;
  tellRoundTrip(clusterId: string | undefined, milliseconds: number): void;
  /** Follows until the returned function is called. */
  follow(clusterId: () => string | undefined, meter: LagMeter): () => void;
}

/** Makes an empty book. */
export function createLagBook(clock: Clock): LagBook {
  const meters = new Map<string, LagMeter>();
  const dirty = new Set<LagMeter>();
  return {
    meterOf(cluster) {
      const known = meters.get(cluster);
      if (known !== undefined) return known;
      const meter: LagMeter = createLagMeter(clock, () => dirty.add(meter));
      meters.set(cluster, meter);
      return meter;
    },
    forget(cluster) {
      const meter = meters.get(cluster);
      if (meter !== undefined) dirty.delete(meter);
      meters.delete(cluster);
    },
    settle() {
      for (const meter of dirty) meter.settle();
      dirty.clear();
    },
    own: createStampRelay(),
    meters: () => meters.entries(),
  };
}

function createStampRelay(): StampRelay {
  const followers = new Set<{ clusterId: () => string | undefined; meter: LagMeter }>();
  const each = (clusterId: string | undefined, tell: (meter: LagMeter) => void): void => {
    if (clusterId === undefined) return;
    for (const follower of followers) {
      // Two etcds behind one name have revisions of their own.
      if (follower.clusterId() === clusterId) tell(follower.meter);
    }
  };
  return {
    tell(clusterId, stamp) {
      each(clusterId, (meter) => {
        meter.begun();
        meter.stamp(stamp);
      });
    },
    tellRoundTrip(clusterId, milliseconds) {
      each(clusterId, (meter) => meter.roundTrip(milliseconds));
    },
    follow(clusterId, meter) {
      const follower = { clusterId, meter };
      followers.add(follower);
      return () => followers.delete(follower);
    },
  };
}

function createRevisions(): Revisions {
  return {
    used: new Float64Array(REVISIONS),
    revision: new Float64Array(REVISIONS),
    noted: 0,
    open: 0,
  };
}

function note(revisions: Revisions, revision: number): void {
  const latest = (revisions.noted - 1) % revisions.used.length;
  const isOpen = revisions.open < revisions.noted;
  // A batch has one revision and many changes.
  if (isOpen && revisions.revision[latest] === revision) return;
  if (revisions.noted - revisions.open >= revisions.used.length) {
    // What is not in use yet is what is late: it is the last that may be forgotten.
    if (revisions.used.length >= MAX_REVISIONS) return;
    grow(revisions);
  }
  const index = revisions.noted % revisions.used.length;
  revisions.revision[index] = revision;
  revisions.used[index] = Number.NaN;
  revisions.noted += 1;
}

function grow(revisions: Revisions): void {
  const size = revisions.used.length;
  const used = new Float64Array(size * 2);
  const revision = new Float64Array(size * 2);
  for (let index = revisions.noted - size; index < revisions.noted; index += 1) {
    used[index % (size * 2)] = revisions.used[index % size] ?? Number.NaN;
    revision[index % (size * 2)] = revisions.revision[index % size] ?? Number.NaN;
  }
  revisions.used = used;
  revisions.revision = revision;
}

/** When a revision came into use; undefined: it is not known, or not in use yet. */
function usedAt(revisions: Revisions, revision: number): number | undefined {
  const size = revisions.used.length;
  for (let index = revisions.noted - 1; index >= Math.max(0, revisions.noted - size); index -= 1) {
    if (revisions.revision[index % size] !== revision) continue;
    const used = revisions.used[index % size] ?? Number.NaN;
    return Number.isNaN(used) ? undefined : used;
  }
  return undefined;
}
