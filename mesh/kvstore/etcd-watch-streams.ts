/**
 * Watches of one connection share etcd's Watch streams: a stream of its own costs each of them a call, a timer and a piece
 * of the server. Each keeps its own place to resume from (`etcd-watch.ts`); here is only who gets which answer. One whose
 * reader does not keep up leaves for a stream of its own, which then waits for it: it never makes the others wait.
 */
import type { Clock } from '../runtime/clock.ts';
import { closedError, type EtcdConnection, type EtcdStream } from './etcd-connection.ts';
import type { EtcdEndpoint } from './etcd-endpoint.ts';
import { type KeyTarget, keyRange } from './etcd-list.ts';
import { decodeWatchAnswer, type WatchAnswer } from './etcd-messages.ts';
import {
  createWatchChannel,
  type WatchChannel,
  type WatchInlet,
  type WatchNews,
} from './etcd-watch-channel.ts';
import { KvError } from './kvstore.ts';

/** The streams of one connection. */
export interface WatchStreams {
  /** Creates a watch; `isAlone`: on a stream that it shares with nobody. */
  open(
    target: KeyTarget,
    options: { readonly startRevision: bigint; readonly isAlone: boolean },
  ): WatchChannel;
}

/** What the streams need. */
export interface WatchStreamOptions {
  readonly connection: EtcdConnection;
  readonly clock: Clock;
  /** Silence after which the server is asked for a sign of life; three times as long is a failure. */
  readonly progressIntervalMs: number;
}

/** Watches on one stream: fewer than servers allow (Isthmus' gate 256). */
const MOST_WATCHES = 200;
/** Bytes for watches that have been cancelled: what was under way then, and not more. */
const MOST_STRAY_BYTES = 32 * 1024 * 1024;
/** Id of an answer that is for the whole stream. */
const WHOLE_STREAM = -1;
/** One for all: nobody sees it. */
const ENDED = new Error('the stream has ended');

interface Message {
  readonly answer: WatchAnswer;
  readonly bytes: number;
}

/** A watch on a stream. */
interface Member {
  readonly inlet: WatchInlet;
  /** What the server calls it; undefined before it has said so, and when it has cancelled it. */
  id: number | undefined;
  isGone: boolean;
}

interface Stream {
  readonly endpoint: EtcdEndpoint;
  readonly hasRoom: boolean;
  add(target: KeyTarget, startRevision: bigint): WatchChannel;
}

/** Makes the streams of a connection; none is opened before the first watch. */
export function createWatchStreams(options: WatchStreamOptions): WatchStreams {
  const shared = new Set<Stream>();
  return {
    open(target, { startRevision, isAlone }) {
      const { endpoint } = options.connection;
      if (isAlone) return openStream(options, () => undefined).add(target, startRevision);
      for (const stream of shared) {
        if (stream.endpoint === endpoint && stream.hasRoom) {
          return stream.add(target, startRevision);
        }
      }
      const stream = openStream(options, () => shared.delete(stream));
      shared.add(stream);
      return stream.add(target, startRevision);
    },
  };
}

function openStream(options: WatchStreamOptions, onEnd: () => void): Stream {
  const { connection, clock, progressIntervalMs } = options;
  const { endpoint } = connection;
  const call: EtcdStream<Message> = connection.openStream('watch', (bytes) => ({
    answer: decodeWatchAnswer(bytes),
    bytes: bytes.length,
  }));
  const stopped = new AbortController();
  const byId = new Map<number, Member>();
  /** Those that the server has not answered yet; it answers in the order in which it was asked. */
  const pending: Member[] = [];
  /** Ids of watches that have gone, while the server may still speak of them. */
  const leaving = new Set<number>();
  let count = 0;
  let strayBytes = 0;
  let isPaused = false;
  let heardAt = clock.monotonic();

  const end = (error: Error): void => {
    if (stopped.signal.aborted) return;
    stopped.abort(ENDED);
    onEnd();
    call.cancel();
    for (const { inlet } of [...byId.values(), ...pending]) inlet.fail(error);
  };
  const distrust = (why: string): void =>
    end(new KvError('invalid', `cannot watch: the server ${why}`, { retryable: true }));
  const resume = (): void => {
    if (!isPaused) return;
    isPaused = false;
    call.resume();
  };
  const cancel = (id: number): void => {
    byId.delete(id);
    leaving.add(id);
    call.write({ cancel_request: { watch_id: id } });
  };
  const leave = (member: Member): void => {
    if (member.isGone || stopped.signal.aborted) return;
    member.isGone = true;
    count -= 1;
    if (count === 0) end(closedError());
    else if (member.id !== undefined) cancel(member.id);
  };

  /** An answer for the whole stream is for those that have heard nothing for some time. */
  const tellSilent = (news: WatchNews): void => {
    const now = clock.monotonic();
    for (const { inlet } of byId.values()) {
      if (inlet.silence(now) >= progressIntervalMs / 2) inlet.take(news, 0);
    }
  };
  const takeCreated = (news: WatchNews, { watchId, canceled }: WatchAnswer): void => {
    const member = pending.shift();
    if (member === undefined) return;
    member.inlet.take(news, 0);
    // One that is refused has no id.
    if (canceled) return;
    if (byId.has(watchId) || leaving.has(watchId)) {
      distrust(`gave the id ${watchId} to two watches`);
    } else if (member.isGone) cancel(watchId);
    else {
      member.id = watchId;
      byId.set(watchId, member);
    }
  };
  const takeStray = ({ answer, bytes }: Message): void => {
    const { watchId, canceled } = answer;
    strayBytes += bytes;
    if (!leaving.has(watchId)) distrust(`speaks of watch ${watchId}, which is not open`);
    else if (strayBytes > MOST_STRAY_BYTES) distrust(`does not end watch ${watchId}`);
    else if (canceled) leaving.delete(watchId);
    if (leaving.size === 0) strayBytes = 0;
  };
  const takeFor = (member: Member, news: WatchNews, { answer, bytes }: Message): void => {
    const { inlet } = member;
    inlet.take(news, bytes);
    if (answer.canceled) {
      byId.delete(answer.watchId);
      member.id = undefined;
    } else if (inlet.isFull && count === 1) {
      isPaused = true;
      call.pause();
    } else if (inlet.isFull) {
      inlet.take({ kind: 'evicted' }, 0);
      leave(member);
    }
  };
  const take = (message: Message): void => {
    const { answer } = message;
    const news: WatchNews = { kind: 'answer', answer };
    heardAt = clock.monotonic();
    const member = byId.get(answer.watchId);
    if (answer.created) takeCreated(news, answer);
    else if (answer.watchId === WHOLE_STREAM) tellSilent(news);
    else if (member === undefined) takeStray(message);
    else takeFor(member, news, message);
  };
  call.on('data', (message: Message) => {
    if (!stopped.signal.aborted) take(message);
  });
  call.on('error', end);
  call.on('end', () =>
    end(new KvError('unavailable', 'the server ended the watch', { retryable: true })),
  );

  const supervise = (): void => {
    const now = clock.monotonic();
    const silences = (members: Iterable<Member>): number =>
      Math.max(0, ...[...members].map(({ inlet }) => inlet.silence(now)));
    const unanswered = silences(pending);
    const silence = Math.max(unanswered, silences(byId.values()));
    const unheard = now - heardAt;
    const limit = 3 * progressIntervalMs;
    if (unanswered >= limit || (silence >= limit && unheard >= limit)) {
      const message = `the server has not answered for ${Math.round(silence)} ms`;
      end(new KvError('unavailable', message, { retryable: true }));
    } else if (silence >= progressIntervalMs / 2) {
      // It may owe the answer until the last watch has caught up (etcd from 3.5.8 on), and speaks nevertheless.
      if (silence >= limit / 2 && unheard < progressIntervalMs) tellSilent({ kind: 'alive' });
      call.write({ progress_request: {} });
    }
  };
  const superviseUntilEnd = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.sleep(progressIntervalMs, stopped.signal).catch(() => undefined);
      if (!stopped.signal.aborted) supervise();
    }
  };
  void superviseUntilEnd();

  return {
    endpoint,
    get hasRoom() {
      return !isPaused && count < MOST_WATCHES;
    },
    add(target, startRevision) {
      const member: Member = {
        inlet: createWatchChannel({ clock, onClose: () => leave(member), onDrained: resume }),
        id: undefined,
        isGone: false,
      };
      count += 1;
      pending.push(member);
      call.write({
        create_request: {
          ...keyRange(target),
          start_revision: String(startRevision),
          fragment: true,
        },
      });
      return member.inlet.channel;
    },
  };
}
