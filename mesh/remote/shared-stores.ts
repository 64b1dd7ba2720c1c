/**
 * One connection for all clusters whose files are the same: in a mirror they all stand in one etcd, and a connection with
 * its own streams for each of them costs both ends more than what is read over it.
 */
import type { KvStore } from '../kvstore/kvstore.ts';

/** Stores by what they are opened with. */
export interface SharedStores {
  /** Opens a store, or hands out one that was opened with the same key and is still in use. Whoever takes it disposes of it. */
  open(key: string, make: () => Promise<KvStore>): Promise<KvStore>;
}

interface Shared {
  readonly store: Promise<KvStore>;
  users: number;
}

/** Makes an empty record. */
export function createSharedStores(): SharedStores {
  const stores = new Map<string, Shared>();

  const leave = async (key: string, shared: Shared): Promise<void> => {
    shared.users -= 1;
    if (shared.users > 0) return;
    if (stores.get(key) === shared) stores.delete(key);
    const store = await shared.store;
    await store[Symbol.asyncDispose]();
  };
  return {
    async open(key, make) {
      const shared = stores.get(key) ?? { store: make(), users: 0 };
      stores.set(key, shared);
      shared.users += 1;
      let store: KvStore;
      try {
        store = await shared.store;
      } catch (error) {
        if (stores.get(key) === shared) stores.delete(key);
        throw error;
      }
      let isMine = true;
      return {
        ...store,
        get clusterId() {
          return store.clusterId;
        },
        async [Symbol.asyncDispose]() {
          if (!isMine) return;
          isMine = false;
          await leave(key, shared);
        },
      };
    },
  };
}
