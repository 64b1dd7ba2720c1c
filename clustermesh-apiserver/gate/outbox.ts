import type { Clock } from '../../mesh/runtime/clock.ts';

/** Bytes on their way to a client above which nothing more is taken for it. */
const OUTSTANDING_BYTES = 1024 * 1024;
/** A client that has not taken anything for so long gives up what is held for it alone. */
const STALL_MS = 10_000;

/** Messages on their way to one client. */
export interface Outbox {
  /** False while the client reads too slowly: nothing more should be taken for it. */
  readonly isReady: boolean;
  /** Aborted by `close`. */
  readonly closed: AbortSignal;
  /** Writes whatever the state. */
  write(message: Buffer): void;
  /** Resolves when more may be written, or the outbox is closed. */
  ready(): Promise<void>;
  close(): void;
}

/**
 * Counts what is under way over `send`, which calls back when a message has left. `onReady` is called when more may be written
 * again, `onStall` when nothing has left for a long time.
 */
export function createOutbox(
  send: (message: Buffer, onSent: () => void) => void,
  clock: Clock,
  options: {
    readonly onReady: () => void;
    readonly onStall: () => void;
    /** Told of bytes that are on their way, and with a negative number of those that have left or never will. */
    readonly onBytes?: (bytes: number) => void;
  },
): Outbox {
  const closing = new AbortController();
  const waiting = new Set<() => void>();
  let outstanding = 0;
  let stall: AbortController | undefined;

  const isReady = (): boolean => outstanding < OUTSTANDING_BYTES;
  const watchForStall = (): void => {
    stall?.abort();
    stall = undefined;
    if (isReady() || closing.signal.aborted) return;
    stall = new AbortController();
    clock.sleep(STALL_MS, stall.signal).then(options.onStall, () => undefined);
  };
  return {
    get isReady() {
      return isReady();
    },
    write(message: Buffer): void {
      outstanding += message.length;
      if (!closing.signal.aborted) options.onBytes?.(message.length);
      send(message, () => {
        const wasReady = isReady();
        outstanding -= message.length;
        if (!closing.signal.aborted) options.onBytes?.(-message.length);
        watchForStall();
        if (wasReady || !isReady()) return;
        for (const wake of waiting) wake();
        waiting.clear();
        options.onReady();
      });
      if (stall === undefined && !isReady()) watchForStall();
    },
    closed: closing.signal,
    async ready(): Promise<void> {
      if (isReady() || closing.signal.aborted) return;
      await new Promise<void>((resolve) => waiting.add(resolve));
    },
    close(): void {
      if (!closing.signal.aborted) options.onBytes?.(-outstanding);
      closing.abort();
      stall?.abort();
      for (const wake of waiting) wake();
      waiting.clear();
    },
  };
}
