/** A mirror between real etcds: peers' on one side, the local one on the other. */
import { rename, rm, writeFile } from 'node:fs/promises';
import type { Test } from 'tap';
import { openEtcd } from '../../../mesh/kvstore/etcd.ts';
import type { KvPair, KvStore } from '../../../mesh/kvstore/kvstore.ts';
import { connectionReader } from '../../../mesh/remote/connection.ts';
import { createLagBook } from '../../../mesh/remote/lag.ts';
import { systemClock } from '../../../mesh/runtime/clock.ts';
import { createLogger } from '../../../mesh/runtime/log.ts';
import { type EtcdServer, openEtcdServer } from '../../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../../mesh/wire/ids.ts';
import {
  createKvstoremesh,
  type Kvstoremesh,
  type KvstoremeshOptions,
  startKvstoremesh,
} from '../kvstoremesh.ts';

/** A mirror that runs. Disposing ends it in order. */
export interface RunningMirror extends AsyncDisposable {
  readonly mesh: Kvstoremesh;
  readonly ended: Promise<void>;
}

/** An etcd with a client of the test's own. */
export interface EtcdSide {
  readonly server: EtcdServer;
  readonly store: KvStore;
}

/** Etcds, a directory of peers, and mirrors. */
export interface MirrorRig {
  readonly local: EtcdSide;
  /** Starts the etcd of a peer. */
  openSource(): Promise<EtcdSide>;
  /** Writes a peer's file, whole, by rename. */
  configure(peer: string, endpoint: string): Promise<void>;
  unconfigure(peer: string): Promise<void>;
  /** Starts a mirror of cluster `local` (id 9) on a connection of its own; it ends with the test. */
  start(options?: Partial<KvstoremeshOptions>): Promise<RunningMirror>;
  readonly directory: string;
}

/** Makes a rig with an empty local etcd. */
export async function openMirrorRig(t: Test): Promise<MirrorRig> {
  const dir = await openTempDir('mirror');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const openSide = async (): Promise<EtcdSide> => {
    const server = await openEtcdServer();
    t.teardown(() => server[Symbol.asyncDispose]());
    const store = await openEtcd({ endpoints: [server.endpoint], callTimeoutMs: 2000 });
    t.teardown(() => store[Symbol.asyncDispose]());
    return { server, store };
  };
  const local = await openSide();
  return {
    local,
    directory: dir.path,
    openSource: openSide,
    async configure(peer, endpoint) {
      await writeFile(dir.file(`.${peer}`), `endpoints:\n- ${endpoint}\n`);
      await rename(dir.file(`.${peer}`), dir.file(peer));
    },
    unconfigure: (peer) => rm(dir.file(peer)),
    async start(options = {}) {
      const store = await openEtcd({ endpoints: [local.server.endpoint], callTimeoutMs: 2000 });
      const mesh = createKvstoremesh({
        store,
        own: { name: parseClusterName('local'), id: parseClusterId(9), max: 255 },
        directory: dir.path,
        readConnection: connectionReader({ clock: systemClock }),
        leaseTtlSeconds: 900,
        perClusterReadyTimeoutMs: 15_000,
        globalReadyTimeoutMs: 600_000,
        lockTtlSeconds: 2,
        rescanMs: 100,
        lag: createLagBook(systemClock),
        clock: systemClock,
        logger: createLogger('test', {
          level: process.env.MIRROR_LOG === 'true' ? 'debug' : 'silent',
        }),
        ...options,
      });
      const running = startKvstoremesh(mesh, new AbortController().signal);
      const dispose = async (): Promise<void> => {
        await running[Symbol.asyncDispose]();
        await store[Symbol.asyncDispose]();
      };
      t.teardown(dispose);
      return { mesh, ended: running.ended, [Symbol.asyncDispose]: dispose };
    },
  };
}

/** What a store holds of one peer, locks, reports and times of markers apart: key to value in hexadecimal. */
export async function mirrored(store: KvStore, peer: string): Promise<Map<string, string>> {
  const all = [
    ...(await store.list('cilium/cache/')).pairs,
    ...(await store.list('cilium/cluster-config/')).pairs,
    ...(await store.list('cilium/synced/')).pairs,
  ].filter(({ key }) => key.split('/').includes(peer));
  return new Map(all.map((pair) => [pair.key, textOf(pair)]));
}

function textOf({ key, value }: KvPair): string {
  return key.startsWith('cilium/synced/') ? '' : value.toString('latin1');
}
