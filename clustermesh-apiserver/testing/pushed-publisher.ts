/** A publisher whose source a test is, over a store in memory. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { createPublisher, type Publisher, type PublisherOptions } from '../publish/publisher.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import { type ClusterObjectKind, parseObject } from '../sources/objects.ts';
import { eventually } from './publishing-rig.ts';

/** A publisher under test. Disposing ends it; keys stay. */
export interface PushedPublisher extends AsyncDisposable {
  readonly publisher: Publisher;
  /** Tells of objects as they stand in YAML. */
  set(...objects: readonly object[]): void;
  remove(...objects: readonly object[]): void;
  synced(...kinds: readonly ClusterObjectKind[]): void;
  /** Tells all of it at once, in one batch. */
  push(...events: readonly ObjectEvent[]): void;
}

/** A store that publishers under test share, and what stands there. */
export interface PushedRig {
  readonly store: MemoryStore;
  /** Starts a publisher of cluster alpha (1). */
  start(options?: Partial<PublisherOptions>): PushedPublisher;
  /** What stands under a prefix. */
  read(prefix: string): Promise<Map<string, string>>;
  /** Kinds of which there is a marker, by their names in keys. */
  markers(): Promise<string[]>;
  /** Waits for a key to stand, or with `false` to be gone. */
  until(key: string, exists?: boolean): Promise<void>;
}

/** Makes a rig with an empty store. */
export function createPushedRig(): PushedRig {
  const store = createMemoryStore();
  const reader = store.connect({ alwaysConnected: true });
  const read = async (prefix: string): Promise<Map<string, string>> => {
    const { pairs } = await reader.list(prefix);
    return new Map(pairs.map(({ key, value }) => [key, value.toString('utf8')]));
  };
  return {
    store,
    read,
    start: (options) => startPublisher(store.connect(), options),
    async markers() {
      const prefix = 'cilium/synced/alpha/cilium/state/';
      return [...(await read(prefix)).keys()].map((key) => key.slice(prefix.length, -'/v1'.length));
    },
    until: (key, exists = true) =>
      eventually(
        `${key} to ${exists ? 'stand' : 'be gone'}`,
        async () => ((await reader.get(key)) !== undefined) === exists,
      ),
  };
}

/** Starts a publisher of cluster alpha (1) over a store, which ends with it. */
export function startPublisher(
  store: KvStore,
  options: Partial<PublisherOptions> = {},
): PushedPublisher {
  const publisher = createPublisher({
    store,
    leaseTtlSeconds: 900,
    cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
    maxConnectedClusters: 255,
    logger: createLogger('test', { level: 'silent' }),
    ...options,
  });
  const ending = new AbortController();
  const queue: (readonly ObjectEvent[])[] = [];
  let wake = (): void => undefined;
  ending.signal.addEventListener('abort', () => wake(), { once: true });
  async function* batches(): AsyncGenerator<readonly ObjectEvent[]> {
    while (!ending.signal.aborted) {
      const batch = queue.shift();
      if (batch !== undefined) yield batch;
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  }
  const push = (...events: readonly ObjectEvent[]): void => {
    queue.push(events);
    wake();
  };
  const running = publisher.run(batches(), ending.signal);
  return {
    publisher,
    push,
    set: (...objects) =>
      push(...objects.map((object) => ({ kind: 'upsert' as const, object: parseObject(object) }))),
    remove: (...objects) =>
      push(...objects.map((object) => ({ kind: 'delete' as const, object: parseObject(object) }))),
    synced: (...kinds) => push({ kind: 'synced', kinds }),
    async [Symbol.asyncDispose]() {
      ending.abort();
      await running;
      await store[Symbol.asyncDispose]();
    },
  };
}
