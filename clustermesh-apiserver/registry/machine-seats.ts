/** Where the sessions of machines are, and who tries to take a seat that is taken: a clone, or the same machine after a crash. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { MachineGreeting } from './machine-visits.ts';

/**
 * How long a session of another boot may stand in the way before it counts as alive. The server asks silent clients after 10 s
 * and gives up those that do not answer after 5 more.
 */
const PROOF_MS = 20_000;
/** A contender that has not tried for so long has gone. */
const CONTENDER_MS = 120_000;
/** How long people are told of a clone after it has tried last. */
const TOLD_MS = 600_000;

/** The session of one machine. `since` is monotonic. */
export type Seat =
  | {
      readonly kind: 'connected';
      readonly since: number;
      readonly greeting: MachineGreeting;
      readonly onReplaced: (reason: string) => void;
    }
  | { readonly kind: 'elsewhere'; readonly since: number }
  | { readonly kind: 'gone'; readonly since: number };

/** Whether a machine may take its seat. */
export type SeatVerdict =
  | { readonly kind: 'free' }
  /** Another boot has it, and it is not known yet whether that one is alive. */
  | { readonly kind: 'occupied' }
  /** Another boot has it and is alive. `isNews`: this was not known before. */
  | { readonly kind: 'cloned'; readonly isNews: boolean };

/** The seats. */
export interface MachineSeats {
  of(name: string): Seat | undefined;
  put(name: string, seat: Seat): void;
  clear(name: string): void;
  /** `lastBootId`: the boot that was accepted last, at whichever registry. */
  judge(
    name: string,
    contender: { readonly greeting: MachineGreeting; readonly lastBootId: string },
  ): SeatVerdict;
  /** A clone that has tried lately, in words. */
  describeClone(name: string): string | undefined;
  /** Absences count from now on. */
  restartAbsences(): void;
}

interface Contender {
  readonly instanceId: string;
  readonly since: number;
  lastAt: number;
  isClone: boolean;
}

/** Makes an empty row of seats. */
export function createMachineSeats({ clock }: { readonly clock: Clock }): MachineSeats {
  const seats = new Map<string, Seat>();
  const contenders = new Map<string, Contender>();

  const isTakenByOther = (
    seat: Seat | undefined,
    { greeting, lastBootId }: { readonly greeting: MachineGreeting; readonly lastBootId: string },
  ): boolean => {
    switch (seat?.kind) {
      case 'connected': {
        const { instanceId, runId } = seat.greeting;
        const isSameRun = runId !== '' && runId === greeting.runId;
        return instanceId !== greeting.instanceId && !isSameRun;
      }
      case 'elsewhere':
        return lastBootId !== '' && lastBootId !== greeting.instanceId;
      case 'gone':
      case undefined:
        return false;
      default:
        throw seat satisfies never;
    }
  };
  return {
    of: (name) => seats.get(name),
    put: (name, seat) => seats.set(name, seat),
    clear(name) {
      seats.delete(name);
      contenders.delete(name);
    },
    judge(name, contender) {
      const seat = seats.get(name);
      if (!isTakenByOther(seat, contender)) return { kind: 'free' };
      const now = clock.monotonic();
      const { instanceId } = contender.greeting;
      const known = contenders.get(name);
      const isSame =
        known !== undefined &&
        known.instanceId === instanceId &&
        now - known.lastAt < CONTENDER_MS &&
        // The seat was taken meanwhile by one more boot: it has proven nothing yet.
        known.since >= (seat?.since ?? 0);
      const entry = isSame ? known : { instanceId, since: now, lastAt: now, isClone: false };
      entry.lastAt = now;
      contenders.set(name, entry);
      if (now - entry.since < PROOF_MS) return { kind: 'occupied' };
      const isNews = !entry.isClone;
      entry.isClone = true;
      return { kind: 'cloned', isNews };
    },
    describeClone(name) {
      const contender = contenders.get(name);
      if (contender === undefined || !contender.isClone) return undefined;
      const agoMs = clock.monotonic() - contender.lastAt;
      if (agoMs > TOLD_MS) return undefined;
      return `cloned: another machine (boot ${contender.instanceId}) tries to be this one, ${Math.round(agoMs / 1000)} s ago for the last time`;
    },
    restartAbsences() {
      for (const [name, seat] of seats) {
        if (seat.kind === 'gone') seats.set(name, { kind: 'gone', since: clock.monotonic() });
      }
    },
  };
}
