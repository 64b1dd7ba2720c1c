/**
 * What registries tell one another: each hangs keys of its own on a lease, a key for each subject, and reads those of all. What a
 * dead one has told goes with its lease.
 */
import { randomBytes } from 'node:crypto';
import { KvError, type KvEvent, type KvLease, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { untilAnswered } from '../publish/until-answered.ts';

const LEASE_TTL_SECONDS = 10;

/** Keys that one registry tells others by. */
export interface ToldKeys {
  /** Whether a key is one of this registry's. */
  isOwn(key: string): boolean;
  /** What is told of a subject may be another: it is looked at. */
  touch(subject: string): void;
  /** A key of this registry's is gone, by mistake or by force: it is written again if it is still to be told. */
  lost(subject: string): void;
  /** Tells, and hears, until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes them. */
export function createToldKeys(options: {
  readonly store: KvStore;
  /** Of the keys of all registries; ends in "/". */
  readonly prefix: string;
  /** Called before each round of writing. */
  readonly prepare: () => void;
  /** What is to be told of a subject now; undefined: nothing. */
  readonly valueFor: (subject: string) => string | undefined;
  /** Whether a value that differs from the one that was written so long ago is to be told now. Default: always. */
  readonly isDue?: (
    value: string,
    last: { readonly value: string; readonly ageMs: number },
  ) => boolean;
  /** Hears of every key, those of this registry included. */
  readonly onEvent: (event: KvEvent) => void;
  /** Logged, with the subject, where etcd takes no write. */
  readonly failure: string;
  /** Changes within this time are written together, in milliseconds. */
  readonly settleMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
}): ToldKeys {
  const { store, prepare, valueFor, isDue = () => true, onEvent, failure, clock, logger } = options;
  const prefix = `${options.prefix}${randomBytes(8).toString('hex')}/`;
  const written = new Map<string, { readonly value: string; readonly at: number }>();
  const dirty = new Set<string>();

  const write = async (subject: string, lease: KvLease, signal: AbortSignal): Promise<void> => {
    const value = valueFor(subject);
    const last = written.get(subject);
    if (last?.value === value) return;
    const key = prefix + encodeURIComponent(subject);
    if (value === undefined) {
      await store.delete(key, { signal });
      written.delete(subject);
      return;
    }
    const ageMs = last === undefined ? 0 : clock.monotonic() - last.at;
    if (last !== undefined && !isDue(value, { value: last.value, ageMs })) return;
    await store.put(key, value, { lease, signal });
    written.set(subject, { value, at: clock.monotonic() });
  };
  const writeAll = async (lease: KvLease, signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(options.settleMs, signal).catch(() => undefined);
      prepare();
      for (const subject of [...dirty]) {
        if (signal.aborted) return;
        dirty.delete(subject);
        try {
          await write(subject, lease, signal);
        } catch (error) {
          if (signal.aborted) return;
          if (!(error instanceof KvError)) throw error;
          logger.warn({ subject, err: error }, failure);
          dirty.add(subject);
          break;
        }
      }
    }
  };

  return {
    isOwn: (key) => key.startsWith(prefix),
    touch: (subject) => void dirty.add(subject),
    lost(subject) {
      if (written.delete(subject)) dirty.add(subject);
    },
    async run(signal) {
      await using lease = await untilAnswered(() => store.lease(LEASE_TTL_SECONDS, { signal }), {
        clock,
        logger,
        signal,
      });
      lease.onLost(() => {
        for (const subject of written.keys()) dirty.add(subject);
        written.clear();
      });
      const follow = async (): Promise<void> => {
        const watched = { prefix: options.prefix };
        for await (const event of store.watch(watched, { signal })) onEvent(event);
      };
      await Promise.all([writeAll(lease, signal), follow()]);
    },
  };
}
