import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import type { Backoff } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import type { ClusterName } from '../wire/ids.ts';
import { clusterConfigKey } from '../wire/keys.ts';
import type { PeerConnection } from './peer.ts';
import { explainFailure, PeerError } from './peer-error.ts';

/** A connection that has shown that it works. Whoever takes it disposes of the store. */
export interface ProvenConnection {
  readonly connection: PeerConnection;
  readonly store: KvStore;
}

/**
 * Tries a connection again and again until the configuration of the cluster can be read over it, while the one before
 * is still in use: a bad certificate in a changed file ends nothing that works. Resolves to undefined when `signal`
 * aborts.
 */
export async function proveConnection(
  connection: PeerConnection,
  options: {
    readonly name: ClusterName;
    /** Throws when the store is one that must not be read as this cluster. */
    readonly check: (store: KvStore, signal: AbortSignal) => Promise<void>;
    readonly onRefused: (reason: string) => void;
    readonly backoff: Backoff;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
): Promise<ProvenConnection | undefined> {
  const { name, check, onRefused, backoff, clock, signal } = options;
  while (!signal.aborted) {
    let store: KvStore | undefined;
    try {
      store = await connection.open(signal);
      await readAnyConfig(store, { name, attempts: connection.endpoints.length, signal });
      await check(store, signal);
      return { connection, store };
    } catch (error) {
      await store?.[Symbol.asyncDispose]();
      if (signal.aborted) return undefined;
      onRefused(explainFailure(error, name, connection.explain?.(error)));
    }
    await clock.sleep(backoff.next(), signal).catch(() => undefined);
  }
  return undefined;
}

/** Each failed call makes the store go on to the next of its endpoints. */
async function readAnyConfig(
  store: KvStore,
  options: {
    readonly name: ClusterName;
    readonly attempts: number;
    readonly signal: AbortSignal;
  },
): Promise<void> {
  const { name, attempts, signal } = options;
  const key = clusterConfigKey(name);
  for (let attempt = 1; ; attempt += 1) {
    try {
      if ((await store.get(key, { signal })) !== undefined) return;
      throw new PeerError('config-missing', `key ${key} is missing there`);
    } catch (error) {
      if (!(error instanceof KvError) || attempt >= attempts) throw error;
    }
  }
}
