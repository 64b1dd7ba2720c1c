import type { KvEvent, KvStore } from '../kvstore/kvstore.ts';
import { systemClock } from '../runtime/clock.ts';

/** A watch that runs in the background of a test and remembers what it said. Disposing ends it. */
export interface WatchLog extends AsyncDisposable {
  readonly events: readonly KvEvent[];
  /** Keys and values (as text) that a consumer would hold now. */
  readonly held: ReadonlyMap<string, string>;
  /** Waits until the condition holds; fails after the deadline (15 s by default) with the events so far. */
  until(what: string, condition: (log: WatchLog) => boolean, timeoutMs?: number): Promise<void>;
  /** Events of one kind. */
  of<K extends KvEvent['kind']>(kind: K): Extract<KvEvent, { kind: K }>[];
}

/** Starts a watch. */
export function openWatchLog(
  store: KvStore,
  target: { readonly prefix: string } | { readonly key: string },
): WatchLog {
  const stopping = new AbortController();
  const events: KvEvent[] = [];
  const held = new Map<string, string>();
  let failure: unknown;
  const follow = async (): Promise<void> => {
    for await (const event of store.watch(target, { signal: stopping.signal })) {
      events.push(event);
      if (event.kind === 'put') held.set(event.pair.key, event.pair.value.toString());
      if (event.kind === 'delete') held.delete(event.key);
    }
  };
  const following = follow().catch((error: unknown) => {
    failure = error;
  });

  const log: WatchLog = {
    events,
    held,
    of: (kind) => events.filter((event) => event.kind === kind) as never,
    async until(what, condition, timeoutMs = 15_000) {
      const deadline = systemClock.monotonic() + timeoutMs;
      while (!condition(log)) {
        if (failure !== undefined) throw failure;
        if (systemClock.monotonic() > deadline) {
          const seen = events.slice(-20).map(describeEvent).join('; ');
          throw new Error(`waited ${timeoutMs} ms in vain for ${what}; last events: ${seen}`);
        }
        await systemClock.sleep(5);
      }
    },
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await following;
      if (failure !== undefined) throw failure;
    },
  };
  return log;
}

/** An event in a few words: `put a/b`, `delete a/b derived`, `list-start compacted`. */
export function describeEvent(event: KvEvent): string {
  switch (event.kind) {
    case 'list-start':
      return `list-start ${event.reason}`;
    case 'put':
      return `put ${event.pair.key}`;
    case 'delete':
      return `delete ${event.key}${event.derived ? ' derived' : ''}`;
    case 'synced':
      return `synced ${event.count}`;
    case 'progress':
      return 'progress';
    case 'disconnected':
      return `disconnected ${event.error.code}`;
    default:
      return event satisfies never;
  }
}
