import type { KvStore } from '../kvstore/kvstore.ts';
import { createBackoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger } from '../runtime/log.ts';
import type { ClusterName } from '../wire/ids.ts';
import { type ProvenConnection, proveConnection } from './connection-trial.ts';
import type { PeerConnection } from './peer.ts';

/** Which of the connections that a cluster's file has named is used: a new one takes over only when it works. */
export interface ConnectionChoice {
  readonly current: PeerConnection | undefined;
  /** Why what the file says now is not in use; undefined when it is. */
  readonly refused: string | undefined;
  /** Takes what the file says now. While the current connection works, another is tried beside it first. */
  offer(next: PeerConnection, options: { readonly isWorking: boolean }): void;
  /** Drops the current connection, for the same one to be made anew. */
  renew(): void;
  /** The current connection has failed: nothing is worth keeping, so what the file says now is used. */
  giveUp(): void;
  /** A signal that aborts when the current connection is to be left. The one of before is void. */
  begin(): AbortSignal;
  /** Opens the current connection, or hands over the store by which it was tried. */
  open(connection: PeerConnection, signal: AbortSignal): Promise<KvStore>;
  /** Ends what is being tried. */
  end(): Promise<void>;
}

/** Makes a choice without any connection. */
export function createConnectionChoice(options: {
  readonly name: ClusterName;
  readonly retry: { readonly minMs: number; readonly maxMs: number };
  /** Throws when a store must not be read as this cluster. */
  readonly check: (store: KvStore, signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  readonly logger: Logger;
}): ConnectionChoice {
  const { name, retry, check, clock, logger } = options;
  let current: PeerConnection | undefined;
  let candidate:
    | { readonly connection: PeerConnection; readonly stop: AbortController }
    | undefined;
  let proven: ProvenConnection | undefined;
  let refused: string | undefined;
  let trial: Promise<void> = Promise.resolve();
  let leaving = new AbortController();

  const forget = (): void => {
    candidate?.stop.abort();
    candidate = undefined;
    refused = undefined;
  };
  const use = (next: PeerConnection): void => {
    forget();
    current = next;
    leaving.abort();
  };
  const onRefused = (reason: string): void => {
    if (reason === refused) return;
    refused = reason;
    logger.warn({ reason }, 'changed file does not work, the connection of before is kept');
  };

  const tryBeside = async (next: PeerConnection, signal: AbortSignal): Promise<void> => {
    const backoff = createBackoff(retry);
    const found = await proveConnection(next, { name, check, onRefused, backoff, clock, signal });
    if (found === undefined) return;
    if (signal.aborted) {
      await found.store[Symbol.asyncDispose]();
      return;
    }
    // One that was proven before and never taken has no other owner.
    const unused = proven;
    proven = found;
    use(next);
    await unused?.store[Symbol.asyncDispose]();
  };

  return {
    get current() {
      return current;
    },
    get refused() {
      return refused;
    },
    offer(next, { isWorking }) {
      if (candidate?.connection.fingerprint === next.fingerprint) return;
      // The same file again, or again what it was before a change that did not work.
      if (current?.fingerprint === next.fingerprint) forget();
      else if (!isWorking) use(next);
      else {
        forget();
        const stop = new AbortController();
        candidate = { connection: next, stop };
        trial = Promise.all([trial, tryBeside(next, stop.signal)]).then(() => undefined);
      }
    },
    renew: () => leaving.abort(),
    giveUp() {
      if (candidate !== undefined) use(candidate.connection);
    },
    begin() {
      leaving = new AbortController();
      return leaving.signal;
    },
    async open(connection, signal) {
      const ready = proven;
      proven = undefined;
      if (ready?.connection === connection) return ready.store;
      await ready?.store[Symbol.asyncDispose]();
      return connection.open(signal);
    },
    async end() {
      forget();
      await trial;
      await proven?.store[Symbol.asyncDispose]();
      proven = undefined;
    },
  };
}
