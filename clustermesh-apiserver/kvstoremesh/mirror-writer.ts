/** Writes queued entries: in batches, as many requests at a time as the backlog allows. */
import { KvError, type KvLease, type KvOp, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { Slots } from '../gate/slots.ts';
import type { Stamper } from '../publish/stamp.ts';
import type { LeaderTerm } from './leader.ts';
import type { MirrorEntry } from './mirror-table.ts';
import type { Wake } from './wake.ts';

/** What is the same for all peers of a mirror. */
export interface MirrorWriterContext {
  /** The local etcd. */
  readonly store: KvStore;
  readonly lease: KvLease;
  /** Stamps the writes, so that readers of the mirror can tell how late they see them. Default: none. */
  readonly stamper?: Stamper;
  /** Requests that all peers together may have on their way; taken in turn, so that no peer waits for another's flood. */
  readonly slots: Slots;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What is to be written. */
export interface MirrorBacklog {
  /** Rung when there may be something to do. */
  readonly wake: Wake;
  /** Entries to be written. */
  readonly pending: number;
  /** Requests that may be on their way now; with one, changes arrive in the order in which they were told. */
  readonly width: number;
  /** Counts lost leases: what was written before one is gone. */
  readonly generation: number;
  /** Takes the entries of one request, at most `limit`. */
  take(limit: number): MirrorEntry[];
  giveBack(entries: readonly MirrorEntry[]): void;
  /** Told after each request that succeeded. */
  wrote(): void;
  /** Told when nothing is left to do. */
  idle(): void;
}

/** What the writer is about. */
export interface MirrorWriterStatus {
  readonly written: number;
  readonly refused: ReadonlyMap<string, string>;
  readonly lastError: string | undefined;
}

/** A writer of one peer. */
export interface MirrorWriter {
  /** Writes until `signal` aborts; then nothing is on its way any more. */
  run(term: LeaderTerm, signal: AbortSignal): Promise<void>;
  readonly status: MirrorWriterStatus;
}

/** Operations of one request: etcd's own limit, less one for a stamp. */
const ENTRIES_PER_BATCH = 127;

/** Makes a writer that does nothing yet. */
export function createMirrorWriter(
  backlog: MirrorBacklog,
  context: MirrorWriterContext,
): MirrorWriter {
  const { store, lease, slots, clock, logger } = context;
  const backoff = createBackoff({ minMs: 50, maxMs: 10_000 });
  const refused = new Map<string, string>();
  let written = 0;
  let lastError: string | undefined;
  let mustPause = false;
  /** How many writes are done one by one, to find the one that etcd refuses. */
  let singly = 0;

  const conclude = (entries: readonly MirrorEntry[], values: readonly (Buffer | undefined)[]) => {
    entries.forEach((entry, index) => {
      entry.table.written(entry, values[index]);
    });
    written += entries.length;
    if (refused.size > 0) for (const entry of entries) refused.delete(keyOf(entry));
    singly = Math.max(0, singly - entries.length);
    if (backoff.attempts > 0) logger.info({ pending: backlog.pending }, 'writes work again');
    backoff.reset();
    lastError = undefined;
    backlog.wrote();
  };
  const fail = (entries: readonly MirrorEntry[], error: KvError): void => {
    lastError = error.message;
    const [only] = entries;
    if (error.code === 'too-large') {
      // One value that etcd will never take must not hold back the others.
      if (entries.length === 1 && only !== undefined) {
        logger.error({ key: keyOf(only), err: error }, 'etcd refuses a value: it is left out');
        refused.set(keyOf(only), error.message);
        only.table.refused(only);
        singly = Math.max(0, singly - 1);
        backlog.wrote();
        return;
      }
      singly = entries.length;
      backlog.giveBack(entries);
      return;
    }
    backlog.giveBack(entries);
    if (backoff.attempts === 0) {
      logger.warn({ err: error, pending: backlog.pending }, 'cannot write, will be retried');
    }
    mustPause = true;
  };
  const send = async (
    entries: readonly MirrorEntry[],
    term: LeaderTerm,
    signal: AbortSignal,
  ): Promise<void> => {
    const { generation } = backlog;
    const values = entries.map(({ value }) => value);
    const then = entries.map((entry): KvOp => {
      const { value } = entry;
      const key = keyOf(entry);
      return value === undefined ? { kind: 'delete', key } : { kind: 'put', key, value, lease };
    });
    const stamp = context.stamper?.next();
    if (stamp !== undefined) then.push(stamp);
    try {
      const { succeeded } = await store.transact({ compare: [term.fence], then }, { signal });
      if (succeeded && generation === backlog.generation) return conclude(entries, values);
      backlog.giveBack(entries);
      if (!succeeded) term.end();
    } catch (error) {
      if (error instanceof KvError && !signal.aborted) return fail(entries, error);
      backlog.giveBack(entries);
      if (!signal.aborted) throw error;
    }
  };

  return {
    async run(term, signal) {
      const { wake } = backlog;
      const underway = new Set<Promise<void>>();
      let fault: { readonly error: unknown } | undefined;
      const ring = (): void => wake.ring();
      signal.addEventListener('abort', ring, { once: true });
      while (!signal.aborted && fault === undefined) {
        if (mustPause) {
          mustPause = false;
          await clock.sleep(backoff.next(), signal).catch(() => undefined);
          continue;
        }
        if (backlog.pending === 0 && underway.size === 0) backlog.idle();
        if (backlog.pending === 0 || underway.size >= backlog.width) {
          // What came with one message of a watch was taken in one go: it goes with one request.
          await wake.wait();
          continue;
        }
        const release = await slots.acquire(signal).catch(() => undefined);
        if (release === undefined) break;
        const entries = backlog.take(singly > 0 ? 1 : ENTRIES_PER_BATCH);
        if (entries.length === 0) {
          release();
          continue;
        }
        const request = send(entries, term, signal)
          .catch((error: unknown) => {
            fault = { error };
          })
          .finally(() => {
            release();
            underway.delete(request);
            wake.ring();
          });
        underway.add(request);
      }
      signal.removeEventListener('abort', ring);
      await Promise.all(underway);
      if (fault !== undefined) throw fault.error;
    },
    get status() {
      return { written, refused, lastError };
    },
  };
}

function keyOf({ table, suffix }: MirrorEntry): string {
  return table.prefix + suffix;
}
