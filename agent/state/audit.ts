/**
 * Looks now and then whether the kernel holds what it should. The reconciler knows what it wrote; what somebody else
 * changed, or a fault of ours, shows only when the maps are read back. What is wrong is written again.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { AuditFindings, Reconciler } from './reconciler.ts';

/** How often, within a third more or less so that the nodes of a cluster do not do it together. */
const INTERVAL_MS = 300_000;
/** How soon it is looked again after something was found. */
const AGAIN_MS = 1000;

/** A table that can be compared with the kernel. */
export type AuditedTable = Pick<Reconciler<never, never>, 'name' | 'audit'>;

/** What is known of one table. */
export interface TableAudit {
  readonly table: string;
  /** What the latest comparison found. */
  readonly latest: AuditFindings;
  /** Rows that were found wrong since the process began. */
  readonly wrong: number;
}

/** The comparisons so far, for people. */
export interface AuditStatus {
  /** Milliseconds since 1970 at which the latest one ended; undefined before the first. */
  readonly at: number | undefined;
  /** How long that took, turns of others included. */
  readonly durationMs: number | undefined;
  readonly tables: readonly TableAudit[];
}

/** Compares tables with the kernel. */
export interface Audit {
  /** Does so until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** What the latest comparison found wrong, a sentence each; empty once another one finds it mended. */
  problems(): readonly string[];
  status(): AuditStatus;
}

/** Makes an audit that has not looked yet. */
export function createAudit(options: {
  readonly tables: readonly AuditedTable[];
  /** Has what was found wrong written. */
  readonly flush: () => void;
  readonly intervalMs?: number;
  readonly clock: Clock;
  readonly logger: Logger;
}): Audit {
  const { tables, flush, intervalMs = INTERVAL_MS, clock, logger } = options;
  const known = new Map<string, TableAudit>();
  let problems: readonly string[] = [];
  let at: number | undefined;
  let durationMs: number | undefined;

  const look = async (table: AuditedTable, signal: AbortSignal): Promise<string[]> => {
    const { name } = table;
    try {
      const steps = table.audit();
      let step = steps.next();
      while (step.done !== true) {
        await nextTurn();
        if (signal.aborted) return [];
        step = steps.next();
      }
      const latest = step.value;
      const wrong = latest.unwanted + latest.different + latest.missing;
      known.set(name, { table: name, latest, wrong: (known.get(name)?.wrong ?? 0) + wrong });
      if (wrong === 0) return [];
      logger.error(
        { table: name, ...latest },
        'the kernel did not hold what it should, written again',
      );
      return [describe(name, latest)];
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      logger.error({ table: name, err: error }, 'a table cannot be compared with the kernel');
      return [`table ${name} cannot be compared with the kernel: ${reason}; restart the agent`];
    }
  };
  const lookAtAll = async (signal: AbortSignal): Promise<void> => {
    const began = clock.monotonic();
    const found: string[] = [];
    for (const table of tables) found.push(...(await look(table, signal)));
    if (signal.aborted) return;
    problems = found;
    at = clock.now();
    durationMs = clock.monotonic() - began;
    if (found.length > 0) flush();
  };

  return {
    async run(signal) {
      while (!signal.aborted) {
        const pause =
          problems.length > 0 ? AGAIN_MS : intervalMs * (2 / 3 + (Math.random() * 2) / 3);
        await clock.sleep(pause, signal).catch(() => undefined);
        if (!signal.aborted) await lookAtAll(signal);
      }
    },
    problems: () => problems,
    status: () => ({ at, durationMs, tables: [...known.values()] }),
  };
}

function describe(name: string, { unwanted, different, missing }: AuditFindings): string {
  const parts = [
    missing === 0 ? [] : [`${missing} rows were missing`],
    different === 0 ? [] : [`${different} were not as wanted`],
    unwanted === 0 ? [] : [`${unwanted} were too many`],
  ].flat();
  return `the kernel did not hold what it should, table ${name}: ${parts.join(', ')}; they are written again, and looked at again at once: find out who else writes these maps (bpftool), or report it`;
}
