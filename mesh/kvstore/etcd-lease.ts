import { createBackoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { EtcdConnection } from './etcd-connection.ts';
import { decodeKeepAliveAnswer } from './etcd-messages.ts';
import { KvError, type KvLease } from './kvstore.ts';

/** Longest time between two keepalives: so soon is a lease missed that went with a wiped etcd, whatever its TTL. */
const MAX_KEEPALIVE_INTERVAL_MS = 10_000;

/** What a lease needs from the store. */
export interface LeaseOptions {
  readonly connection: EtcdConnection;
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly retry: { readonly minMs: number; readonly maxMs: number };
  /** Lease to be taken over, if it still lives. */
  readonly adopt?: bigint | undefined;
  readonly grant: (ttlSeconds: number) => Promise<bigint>;
  readonly revoke: (id: bigint) => Promise<void>;
  readonly onEnd: (lease: EtcdLease) => void;
}

/** A lease, and the way for the store to say that it may be gone. */
export interface EtcdLease extends KvLease {
  /** Asks the server now instead of at the next keepalive. */
  checkNow(): void;
}

/** Makes a lease and keeps it alive at a third of its TTL, at most 10 s. Fails when it cannot be granted at all. */
export async function openEtcdLease(ttlSeconds: number, options: LeaseOptions): Promise<EtcdLease> {
  if (!Number.isInteger(ttlSeconds) || ttlSeconds < 1) {
    throw new KvError(
      'invalid',
      `cannot make a lease of ${ttlSeconds} s: expected a whole number from 1`,
      {
        retryable: false,
      },
    );
  }
  const { clock, connection, retry } = options;
  const ended = new AbortController();
  const signal = AbortSignal.any([ended.signal, connection.closed]);
  const lost: (() => void)[] = [];
  const backoff = createBackoff(retry);
  const intervalMs = Math.min((ttlSeconds * 1000) / 3, MAX_KEEPALIVE_INTERVAL_MS);
  let id =
    options.adopt !== undefined && (await keepAliveOnce(options.adopt, options)) === ttlSeconds
      ? options.adopt
      : await options.grant(ttlSeconds);
  let wake = new AbortController();

  const pause = async (milliseconds: number): Promise<void> => {
    await clock.sleep(milliseconds, AbortSignal.any([signal, wake.signal])).catch(() => undefined);
    if (wake.signal.aborted) wake = new AbortController();
  };
  const renew = async (): Promise<void> => {
    const ttlLeft = await keepAliveOnce(id, options);
    if (ttlLeft > 0 || signal.aborted) return;
    id = 0n;
    id = await grantUntilDone();
    if (id !== 0n) for (const callback of lost) callback();
  };
  const grantUntilDone = async (): Promise<bigint> => {
    while (!signal.aborted) {
      try {
        return await options.grant(ttlSeconds);
      } catch (error) {
        // Whoever puts on the lease meets the same error and reports it.
        if (!(error instanceof KvError)) throw error;
        await pause(backoff.next());
      }
    }
    return 0n;
  };
  const keep = async (): Promise<void> => {
    await pause(intervalMs);
    while (!signal.aborted) {
      try {
        await renew();
        backoff.reset();
        await pause(intervalMs);
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
        // The server alone knows whether the lease is gone: silence is no reason to give it up.
        await pause(Math.min(backoff.next(), intervalMs));
      }
    }
  };
  const checkNow = (): void => wake.abort();
  const forget = connection.onClusterChange(checkNow);
  const keeping = keep();
  const stop = async (): Promise<void> => {
    forget();
    ended.abort();
    await keeping;
    options.onEnd(lease);
  };

  const lease: EtcdLease = {
    get id() {
      return id;
    },
    ttlSeconds,
    onLost: (callback) => {
      lost.push(callback);
    },
    checkNow,
    revoke: async () => {
      await stop();
      if (id !== 0n) await options.revoke(id);
      id = 0n;
    },
    [Symbol.asyncDispose]: stop,
  };
  return lease;
}

/** Sends one keepalive; resolves to the seconds that the lease lives from now on: those it was made with, 0 if it is gone. */
async function keepAliveOnce(id: bigint, options: LeaseOptions): Promise<number> {
  const { connection } = options;
  const { endpoint } = connection;
  const deadline = new Date(Date.now() + options.timeoutMs);
  const stream = connection.openStream('keepAlive', decodeKeepAliveAnswer, deadline);
  const answers = stream[Symbol.asyncIterator]();
  try {
    stream.write({ ID: String(id) });
    const answer: IteratorResult<
      ReturnType<typeof decodeKeepAliveAnswer>,
      unknown
    > = await answers.next();
    if (answer.done) {
      throw new KvError('unavailable', 'the server ended the stream', { retryable: true });
    }
    connection.seen(answer.value.header);
    return Number(answer.value.ttlSeconds);
  } catch (error) {
    throw connection.failed(error, `keep lease ${id.toString(16)} alive`, endpoint);
  } finally {
    stream.cancel();
  }
}
