import type { Clock } from '../runtime/clock.ts';
import { closedError } from './etcd-connection.ts';
import type { WatchAnswer } from './etcd-messages.ts';

/** What a watch hears of the stream that it is on. */
export type WatchNews =
  | { readonly kind: 'answer'; readonly answer: WatchAnswer }
  /** The stream is alive, though nothing was answered for this watch. */
  | { readonly kind: 'alive' }
  /** It did not keep up: what was not read must be asked for again, on a stream of its own. */
  | { readonly kind: 'evicted' };

/** One watch, as its reader sees it. */
export interface WatchChannel {
  /** The next news. Rejects with what the stream ended of, or when the channel was closed. */
  read(): Promise<WatchNews>;
  /** Cancels the watch. */
  close(): void;
}

/** One watch, as its stream sees it. */
export interface WatchInlet {
  readonly channel: WatchChannel;
  take(news: WatchNews, bytes: number): void;
  /** What is unread is read first. */
  fail(error: Error): void;
  /** Whether as much waits for the reader as may. */
  readonly isFull: boolean;
  /** For how long the reader has waited. Silence counts only while somebody reads: a slow reader is no dead server. */
  silence(now: number): number;
}

/** Bytes and messages that may wait for the reader. One message is always taken. */
const MOST_UNREAD = { bytes: 1024 * 1024, messages: 1024 } as const;

/** Makes a channel and its other end. */
export function createWatchChannel(options: {
  readonly clock: Clock;
  readonly onClose: () => void;
  /** The reader has caught up. */
  readonly onDrained: () => void;
}): WatchInlet {
  const { clock, onClose, onDrained } = options;
  const unread: { readonly news: WatchNews; readonly bytes: number }[] = [];
  let bytes = 0;
  let failure: Error | undefined;
  let isClosed = false;
  let waitingSince: number | undefined;
  let reader:
    | { readonly resolve: (news: WatchNews) => void; readonly reject: (error: Error) => void }
    | undefined;

  const fail = (error: Error): void => {
    failure ??= error;
    waitingSince = undefined;
    reader?.reject(failure);
    reader = undefined;
  };
  return {
    channel: {
      read() {
        const next = unread.shift();
        if (next !== undefined) {
          bytes -= next.bytes;
          if (unread.length === 0) onDrained();
          return Promise.resolve(next.news);
        }
        if (failure !== undefined) return Promise.reject(failure);
        return new Promise((resolve, reject) => {
          waitingSince = clock.monotonic();
          reader = { resolve, reject };
        });
      },
      close() {
        if (isClosed) return;
        isClosed = true;
        unread.length = 0;
        onClose();
        fail(closedError());
      },
    },
    get isFull() {
      return bytes >= MOST_UNREAD.bytes || unread.length >= MOST_UNREAD.messages;
    },
    take(news, size) {
      if (isClosed || failure !== undefined) return;
      if (reader === undefined) {
        unread.push({ news, bytes: size });
        bytes += size;
        return;
      }
      const { resolve } = reader;
      reader = undefined;
      waitingSince = undefined;
      resolve(news);
    },
    fail,
    silence: (now) => (waitingSince === undefined ? 0 : now - waitingSince),
  };
}
