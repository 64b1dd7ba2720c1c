/** What is done for machines as time passes: absent ones lose their addresses, lost records are written again. */
import { type KvCompare, KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { isForgettable } from './machine-keys.ts';
import type { MachineRecords } from './machine-records.ts';
import type { MachineSeats } from './machine-seats.ts';
import type { SessionBoard } from './session-board.ts';

const EXPIRY_CHECK_MS = 1000;

/** What is shared with other registries on the same etcd. */
export interface MachineReplicas {
  readonly board: SessionBoard;
  /** Condition that holds while this replica may take machines away; undefined when it may not. */
  readonly fence: () => KvCompare | undefined;
}

/** Makes a function that goes on until its signal aborts. */
export function machineUpkeep(options: {
  readonly records: MachineRecords;
  readonly seats: MachineSeats;
  readonly replicas: MachineReplicas | undefined;
  /** How long a machine's addresses stay after its session has ended. */
  readonly graceMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}): (signal: AbortSignal) => Promise<void> {
  const { records, seats, replicas, graceMs, clock, logger } = options;
  /** Takes the addresses of a machine that has been away for the grace time; the machine itself stays enrolled. */
  const expire = async (name: string, signal: AbortSignal): Promise<void> => {
    const fence = replicas?.fence();
    if (replicas !== undefined && fence === undefined) return;
    const compare: readonly KvCompare[] =
      replicas === undefined || fence === undefined
        ? []
        : [fence, { key: replicas.board.keyOf(name), exists: false }];
    const outcome = await records.change<undefined>(
      name,
      (record) => {
        const isBack = record === undefined || seats.of(name)?.kind !== 'gone';
        return isBack
          ? { refusal: undefined }
          : { record: { ...record, addresses: [], checks: new Map() } };
      },
      { signal, compare },
    );
    if (outcome.kind === 'written') {
      logger.info({ machine: name }, 'machine is gone, its addresses are withdrawn');
    }
  };
  const lookAround = async (signal: AbortSignal): Promise<void> => {
    const isLeading = replicas === undefined || replicas.fence() !== undefined;
    await records.writeLost((name) => isLeading || seats.of(name)?.kind === 'connected', signal);
    if (!isLeading) return;
    for (const record of records.all) {
      const { name, addresses } = record;
      if (isForgettable(record, clock.now())) await records.delete(name, { signal });
      // A registry that died before its session was seen here: its absence begins now.
      if (addresses.length > 0 && seats.of(name) === undefined) {
        seats.put(name, { kind: 'gone', since: clock.monotonic() });
      }
      const seat = seats.of(name);
      const isOver = seat?.kind === 'gone' && clock.monotonic() - seat.since >= graceMs;
      if (isOver && addresses.length > 0) await expire(name, signal);
    }
  };
  return async (signal) => {
    while (!signal.aborted) {
      await clock.sleep(EXPIRY_CHECK_MS, signal).catch(() => undefined);
      if (signal.aborted) return;
      try {
        await lookAround(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof KvError)) throw error;
        logger.warn({ err: error }, 'cannot write what is kept of machines, will be retried');
      }
    }
  };
}
