/** A directory of manifests that is published into a store, for tests. */
import { rename, rm, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvLease, KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { type EtcdServer, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import {
  type PublishedManifests,
  type PublishManifestsOptions,
  publishManifests,
} from '../publish/publish-manifests.ts';

/** A store with what a test does to it behind its clients. */
export interface StoreUnderTest {
  readonly kind: 'memory' | 'etcd';
  /** Another client of the same data. */
  connect(): Promise<KvStore>;
  /** Ends a lease as if its time had run out. */
  expireLease(lease: KvLease): Promise<void>;
  /** Cuts the clients off, and lets them back in. */
  cut(): Promise<void>;
  mend(): Promise<void>;
  /** Throws all data away: another etcd under the same address. */
  wipe(): Promise<void>;
  /** The server, where there is one. */
  readonly server: EtcdServer | undefined;
}

/** Opens a store in memory. */
export function openMemoryUnderTest(options: { maxValueBytes?: number } = {}): StoreUnderTest {
  const store = createMemoryStore(options);
  return {
    kind: 'memory',
    connect: async () => store.connect(),
    expireLease: async (lease) => store.faults.expireLease(lease),
    cut: async () => store.faults.disconnect(),
    mend: async () => store.faults.reconnect(),
    wipe: async () => store.faults.wipe(),
    server: undefined,
  };
}

/** Starts a real etcd, ended with the test. */
export async function openEtcdUnderTest(t: Test): Promise<StoreUnderTest> {
  const server = await openEtcdServer();
  t.teardown(() => server[Symbol.asyncDispose]());
  return {
    kind: 'etcd',
    connect: () => openEtcd({ endpoints: [server.endpoint], callTimeoutMs: 2000 }),
    expireLease: async (lease) => {
      await server.etcdctl('lease', 'revoke', lease.id.toString(16));
    },
    cut: () => server.kill(),
    mend: () => server.start(),
    wipe: () => server.wipe(),
    server,
  };
}

/** One process's worth of publishing. */
export interface RunningPublisher extends PublishedManifests {
  readonly store: KvStore;
  /** Of what is published; throws while it does not lead. */
  readonly lease: KvLease;
}

/** A directory, a store, and publishers between them. */
export interface PublishingRig {
  readonly under: StoreUnderTest;
  readonly folder: string;
  /** Writes a file as one must: whole, by rename. */
  write(name: string, text: string): Promise<void>;
  remove(name: string): Promise<void>;
  /** Starts to publish with a connection and lease of its own; it ends with the test. */
  start(
    options?: Pick<PublishManifestsOptions, 'clock' | 'identityGraceMs' | 'conversion' | 'kinds'>,
  ): Promise<RunningPublisher>;
  /** What the store holds under a prefix, as text. */
  read(prefix: string): Promise<Map<string, string>>;
  /** A client of the test's own. */
  readonly reader: KvStore;
}

/** Makes a rig for cluster alpha (1). */
export async function openPublishingRig(t: Test, under: StoreUnderTest): Promise<PublishingRig> {
  const dir = await openTempDir('publish');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const reader = await under.connect();
  t.teardown(() => reader[Symbol.asyncDispose]());
  return {
    under,
    folder: dir.path,
    reader,
    async write(name, text) {
      await writeFile(dir.file(`.${name}`), text);
      await rename(dir.file(`.${name}`), dir.file(name));
    },
    remove: (name) => rm(dir.file(name)),
    async start(options = {}) {
      const store = await under.connect();
      const published = publishManifests({
        store,
        leaseTtlSeconds: 900,
        cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
        maxConnectedClusters: 255,
        directory: dir.path,
        rescanMs: 200,
        logger: createLogger('test', { level: 'silent' }),
        ...options,
      });
      let disposed: Promise<void> | undefined;
      const dispose = async (): Promise<void> => {
        await published[Symbol.asyncDispose]();
        await store[Symbol.asyncDispose]();
      };
      const running: RunningPublisher = {
        publisher: published.publisher,
        ended: published.ended,
        ready: published.ready,
        get problems() {
          return published.problems;
        },
        store,
        get lease() {
          const { lease } = published.publisher;
          if (lease === undefined) throw new Error('this publisher does not lead');
          return lease;
        },
        [Symbol.asyncDispose]() {
          disposed ??= dispose();
          return disposed;
        },
      };
      t.teardown(() => running[Symbol.asyncDispose]());
      return running;
    },
    async read(prefix) {
      const { pairs } = await reader.list(prefix);
      return new Map(pairs.map(({ key, value }) => [key, value.toString('utf8')]));
    },
  };
}

/** Waits until a condition holds; fails after 20 s with what it was waiting for. */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
): Promise<void> {
  const deadline = systemClock.monotonic() + 20_000;
  for (;;) {
    try {
      if (await condition()) return;
    } catch (error) {
      if (systemClock.monotonic() > deadline) throw error;
    }
    if (systemClock.monotonic() > deadline) throw new Error(`waited 20 s in vain for ${what}`);
    await systemClock.sleep(10);
  }
}
