/**
 * Upkeep of the embedded etcd: a database that has run full is made to take writes again, and one that is mostly air is made
 * small. An etcd that others run is theirs to keep.
 */
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { openUpstream, type Upstream, type UpstreamOptions } from '../gate/upstream.ts';
import {
  ALARM_METHOD,
  type Alarm,
  COMPACT_METHOD,
  type DatabaseStatus,
  DEFRAGMENT_METHOD,
  decodeAlarms,
  decodeStatus,
  EMPTY_REQUEST,
  encodeAlarmQuery,
  encodeCompact,
  encodeDisarm,
  STATUS_METHOD,
} from './maintenance-messages.ts';

/** How often etcd is looked after. */
const CHECK_MS = 5_000;
/** Air in the file below which a defragmentation, which stops etcd for a moment, is not worth it. */
const MIN_AIR_BYTES = 64 * 1024 * 1024;
/** Time between two defragmentations that no alarm asks for. */
const DEFRAGMENT_INTERVAL_MS = 10 * 60_000;
/** Part of the quota from which on a database without history counts as crowded. */
const CROWDED = 0.8;
/** Pause before a database is emptied of its history once more; it grows to `MAX_RECOVERY_PAUSE_MS` when that does not help. */
const RECOVERY_PAUSE_MS = 5_000;
const MAX_RECOVERY_PAUSE_MS = 5 * 60_000;

/** What upkeep has found and done. */
export interface MaintenanceStatus {
  /** Of the latest look; undefined before the first. */
  readonly database: DatabaseStatus | undefined;
  /** Size at which etcd takes no more writes. */
  readonly quotaBytes: number;
  /** etcd refuses writes for want of space. */
  readonly isFull: boolean;
  /** Most of the quota is taken by what stands: throwing history away will not help for long. */
  readonly isCrowded: boolean;
  /** How often it was made to take writes again. */
  readonly recoveries: number;
  readonly defragmentations: number;
  readonly lastError: string | undefined;
}

/** Running upkeep. Disposing ends it. */
export interface Maintenance extends AsyncDisposable {
  readonly status: MaintenanceStatus;
}

/** Looks after an etcd until disposed of. */
export function startMaintenance(
  upstreamOptions: UpstreamOptions,
  options: {
    readonly quotaBytes: number;
    readonly clock: Clock;
    readonly logger?: Logger;
    readonly checkMs?: number;
    readonly minAirBytes?: number;
  },
): Maintenance {
  const { quotaBytes, clock, logger, checkMs = CHECK_MS, minAirBytes = MIN_AIR_BYTES } = options;
  const upstream = openUpstream(upstreamOptions);
  const stopping = new AbortController();
  let database: DatabaseStatus | undefined;
  let isFull = false;
  let isCrowded = false;
  let recoveries = 0;
  const pause = createBackoff({ minMs: RECOVERY_PAUSE_MS, maxMs: MAX_RECOVERY_PAUSE_MS });
  let recoverAt = Number.NEGATIVE_INFINITY;
  let defragmentations = 0;
  let defragmentedAt = Number.NEGATIVE_INFINITY;
  let lastError: string | undefined;

  const look = async (): Promise<DatabaseStatus> => {
    database = decodeStatus(await upstream.call(STATUS_METHOD, EMPTY_REQUEST));
    return database;
  };
  const defragment = async (before: DatabaseStatus): Promise<DatabaseStatus> => {
    await upstream.call(DEFRAGMENT_METHOD, EMPTY_REQUEST);
    defragmentations += 1;
    defragmentedAt = clock.monotonic();
    const after = await look();
    logger?.info(
      { beforeBytes: before.sizeBytes, afterBytes: after.sizeBytes },
      'etcd was defragmented',
    );
    return after;
  };
  /** Frees what history takes and lets etcd write again. Watches that are behind have to list again. */
  const recover = async (alarms: readonly Alarm[], before: DatabaseStatus): Promise<void> => {
    if (!isFull) {
      logger?.error(
        { quotaBytes, sizeBytes: before.sizeBytes },
        'etcd has run full and takes no writes: its history is thrown away',
      );
    }
    isFull = true;
    if (clock.monotonic() < recoverAt) return;
    recoverAt = clock.monotonic() + pause.next();
    await compact(upstream, before.revision);
    const after = await defragment(before);
    isCrowded = after.inUseBytes > quotaBytes * CROWDED;
    if (isCrowded) {
      logger?.error(
        { quotaBytes, inUseBytes: after.inUseBytes },
        'etcd is full of what stands, not of history: it needs a larger quota or fewer keys',
      );
    } else pause.reset();
    // Without an alarm it would take one small write more, and then sound it again.
    if (after.sizeBytes >= quotaBytes) return;
    for (const alarm of alarms) await upstream.call(ALARM_METHOD, encodeDisarm(alarm));
    isFull = false;
    recoveries += 1;
    logger?.warn(
      { beforeBytes: before.sizeBytes, afterBytes: after.sizeBytes },
      'etcd takes writes again',
    );
  };
  const check = async (): Promise<void> => {
    const found = await look();
    const alarms = decodeAlarms(await upstream.call(ALARM_METHOD, encodeAlarmQuery()));
    const noSpace = alarms.filter((alarm) => alarm.isNoSpace);
    if (noSpace.length > 0) return recover(noSpace, found);
    isFull = false;
    const air = found.sizeBytes - found.inUseBytes;
    const isDue = clock.monotonic() - defragmentedAt >= DEFRAGMENT_INTERVAL_MS;
    if (isDue && air >= minAirBytes && air > found.inUseBytes) await defragment(found);
  };
  const run = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      try {
        await check();
        lastError = undefined;
      } catch (error) {
        const message = error instanceof Error ? error.message : String(error);
        // An etcd that is being started again is told of by its supervisor.
        if (!stopping.signal.aborted && isFull && message !== lastError) {
          logger?.error({ err: error }, 'cannot make room in etcd, will be retried');
        }
        lastError = message;
      }
      await clock.sleep(checkMs, stopping.signal).catch(() => undefined);
    }
  };

  const running = run();
  return {
    get status() {
      return { database, quotaBytes, isFull, isCrowded, recoveries, defragmentations, lastError };
    },
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await upstream[Symbol.asyncDispose]();
      await running;
    },
  };
}

/** Compacts up to now. What is compacted already is no error. */
async function compact(upstream: Upstream, revision: number): Promise<void> {
  try {
    await upstream.call(COMPACT_METHOD, encodeCompact(revision));
  } catch (error) {
    if (!(error instanceof Error && error.message.includes('has been compacted'))) throw error;
  }
}
