/** Sessions of machines with this registry: who may begin one, what it says, and what of it is not taken. */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { HealthCheck } from '../convert/health-check.ts';
import type { Machine } from '../convert/machine.ts';
import type { MachineOutcome } from './machine-book.ts';
import type { MachineRefusal } from './machine-enrolment.ts';
import {
  type MachineClaim,
  parseHealthReport,
  parseMachineFacts,
  refusalOf,
} from './machine-messages.ts';
import { type MachineRecord, machineOf } from './machine-record.ts';
import type { MachineRecords } from './machine-records.ts';
import type { MachineSeats, Seat } from './machine-seats.ts';
import type { MachineReplicas } from './machine-upkeep.ts';
import {
  clonedReason,
  occupiedReason,
  removedReason,
  replacedReason,
  unknownReason,
} from './machine-words.ts';

/** Who opens a session. */
export interface MachineGreeting {
  /** Differs after each boot, and on each clone of a disk. */
  readonly instanceId: string;
  /** Random for each process of the agent. */
  readonly runId: string;
  readonly agentVersion: string;
}

/** What came of a greeting. */
export type MachineOpening =
  | { readonly kind: 'open'; readonly session: MachineSession }
  /** Nothing is wrong with the machine itself, and it may soon be let in: an earlier session may be dead. */
  | ({ readonly kind: 'wait' } & MachineRefusal)
  | ({ readonly kind: 'refused' } & MachineRefusal);

/** One stream of one machine. */
export interface MachineSession {
  /** Takes facts as they came, or says what is wrong with them: then those before still count. */
  offer(message: unknown, signal: AbortSignal): Promise<MachineRefusal | undefined>;
  /** Takes what a HealthReport says, as it came; what cannot be read of it counts for nothing. */
  takeHealth(message: unknown, signal: AbortSignal): Promise<void>;
  /** The stream has ended. A session that was replaced may end without consequence. */
  close(): void;
}

/** Sessions of machines. */
export interface MachineVisits {
  /** Begins one. An earlier one that this replaces is told by its `onReplaced`, with the reason in words. */
  open(
    name: string,
    greeting: MachineGreeting,
    onReplaced: (reason: string) => void,
  ): MachineOpening;
  /** Facts that a machine offered last and that were not taken. */
  rejectionOf(name: string): MachineRefusal | undefined;
  /** Forgets what was not taken. */
  forget(name: string): void;
}

/** Makes it over what the book knows. `amend` changes a machine that is there, `judge` says what is wrong with addresses. */
export function createMachineVisits(options: {
  readonly records: Pick<MachineRecords, 'get' | 'assume'>;
  readonly seats: MachineSeats;
  readonly amend: (
    name: string,
    change: (record: MachineRecord) => MachineRecord | MachineRefusal,
    signal: AbortSignal,
  ) => Promise<MachineOutcome>;
  readonly judge: (
    name: string,
    claim: { readonly addresses: readonly IpAddress[]; readonly ranges: readonly IpPrefix[] },
  ) => MachineRefusal | undefined;
  readonly checksOf: (machine: Machine) => readonly HealthCheck[];
  readonly replicas: MachineReplicas | undefined;
  /** Told of each session that begins or ends. */
  readonly tell: (name: string) => void;
  readonly graceMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}): MachineVisits {
  const { records, seats, amend, judge, checksOf, replicas, tell, graceMs, clock, logger } =
    options;
  const rejections = new Map<string, MachineRefusal>();

  const offer = async (
    name: string,
    message: unknown,
    signal: AbortSignal,
  ): Promise<MachineRefusal | undefined> => {
    const record = records.get(name);
    if (record === undefined) return { field: '', reason: unknownReason(name) };
    let claim: MachineClaim;
    try {
      claim = parseMachineFacts(message);
    } catch (error) {
      return refusalOf(error);
    }
    const { addresses } = claim;
    const refusal = judge(name, { addresses, ranges: record.addressRanges });
    if (refusal !== undefined) return refusal;
    const seat = seats.of(name);
    const { instanceId: bootId = record.bootId, agentVersion = record.agentVersion } =
      seat?.kind === 'connected' ? seat.greeting : {};
    const claimed = (before: MachineRecord): MachineRecord => ({
      ...before,
      addresses,
      bootId,
      agentVersion,
    });
    const settled = records.assume(name, claimed);
    try {
      const outcome = await amend(name, claimed, signal);
      return outcome.kind === 'refused' ? outcome : undefined;
    } finally {
      settled();
    }
  };
  const takeHealth = async (name: string, message: unknown, signal: AbortSignal): Promise<void> => {
    const news = parseHealthReport(message);
    if (news === undefined) {
      logger.warn({ machine: name }, 'cannot read what a machine says of its checks');
      return;
    }
    await amend(
      name,
      (record) => {
        const wanted = new Set(checksOf(machineOf(record)).map(({ check }) => check));
        const checks = [...record.checks, ...news].filter(([check]) => wanted.has(check));
        return { ...record, checks: new Map(checks) };
      },
      signal,
    );
  };

  const open: MachineVisits['open'] = (name, greeting, onReplaced) => {
    const record = records.get(name);
    if (record === undefined || record.removedAt !== undefined) {
      const reason = record === undefined ? unknownReason(name) : removedReason(name);
      return { kind: 'refused', field: 'hello.node_name', reason };
    }
    const verdict = seats.judge(name, { greeting, lastBootId: record.bootId });
    if (verdict.kind !== 'free') {
      const reason =
        verdict.kind === 'cloned' ? clonedReason(name, greeting.instanceId) : occupiedReason(name);
      if (verdict.kind === 'cloned' && verdict.isNews) {
        logger.error(
          { machine: name, bootId: greeting.instanceId },
          'a clone of a machine was refused',
        );
        tell(name);
      }
      const kind = verdict.kind === 'cloned' ? 'refused' : 'wait';
      return { kind, field: 'hello.instance_id', reason };
    }
    const seat: Seat = { kind: 'connected', since: clock.monotonic(), greeting, onReplaced };
    const before = seats.of(name);
    seats.put(name, seat);
    if (before?.kind === 'connected') before.onReplaced(replacedReason(name));
    replicas?.board.announce(name);
    tell(name);
    logger.info({ machine: name }, 'session of a machine begins');
    const isCurrent = (): boolean => seats.of(name) === seat;
    const session: MachineSession = {
      async offer(message, signal) {
        if (!isCurrent()) return { field: '', reason: replacedReason(name) };
        const refusal = await offer(name, message, signal);
        const isNews = refusal?.reason !== rejections.get(name)?.reason;
        if (refusal === undefined) rejections.delete(name);
        else rejections.set(name, refusal);
        if (isNews) tell(name);
        return refusal;
      },
      async takeHealth(message, signal) {
        if (isCurrent()) await takeHealth(name, message, signal);
      },
      close() {
        if (!isCurrent()) return;
        seats.put(name, { kind: 'gone', since: clock.monotonic() });
        replicas?.board.withdraw(name);
        rejections.delete(name);
        tell(name);
        logger.info({ machine: name, graceMs }, 'session of a machine has ended');
      },
    };
    return { kind: 'open', session };
  };

  return {
    open,
    rejectionOf: (name) => rejections.get(name),
    forget: (name) => void rejections.delete(name),
  };
}
