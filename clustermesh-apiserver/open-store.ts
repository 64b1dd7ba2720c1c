/** The etcd of an apiserver, started or not, and a connection to it. */
import { type EtcdStore, openEtcd } from '../mesh/kvstore/etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import type { KvStore } from '../mesh/kvstore/kvstore.ts';
import { type KvStatistics, measureStore } from '../mesh/kvstore/measured-store.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { Logger } from '../mesh/runtime/log.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from './etcd/embedded-etcd.ts';
import type { EtcdTlsFiles } from './etcd/follow-tls-files.ts';

/** Which etcd holds what is published. */
export type EtcdSettings =
  | {
      readonly kind: 'embedded';
      readonly binary: string;
      readonly dataDir: string;
      readonly port: number;
    }
  | {
      readonly kind: 'external';
      readonly endpoints: readonly string[];
      /** Whether other replicas use it, too. Default: they do. */
      readonly isShared?: boolean | undefined;
      readonly tls: EtcdTls | undefined;
      /** Where `tls` was read from: it is read again when they change. */
      readonly tlsFiles?: EtcdTlsFiles | undefined;
    };

/** What an etcd is opened with. */
export interface StoreOptions {
  readonly etcd: EtcdSettings;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly signal: AbortSignal;
}

/** Opens the etcd; one that is our own is started. Disposing ends that, too. */
export async function openStore(
  options: StoreOptions,
  statistics: KvStatistics,
): Promise<
  AsyncDisposable & {
    readonly store: KvStore;
    readonly embedded: EmbeddedEtcd | undefined;
    readonly upstream: { readonly endpoints: readonly string[]; readonly tls: EtcdTls | undefined };
    readonly renewTls: (tls: EtcdTls) => void;
  }
> {
  const embedded = await startEtcd(options);
  const upstream =
    options.etcd.kind === 'external'
      ? { endpoints: options.etcd.endpoints, tls: options.etcd.tls }
      : embeddedUpstream(embedded);
  const { endpoints, tls } = upstream;
  let store: KvStore;
  let opened: EtcdStore;
  try {
    opened = await openEtcd({
      endpoints,
      clock: options.clock,
      ...(tls === undefined ? {} : { tls }),
    });
    store = measureStore(opened, { statistics, clock: options.clock });
  } catch (error) {
    await embedded?.[Symbol.asyncDispose]();
    throw error;
  }
  return {
    store,
    embedded,
    upstream,
    renewTls: opened.renewTls,
    async [Symbol.asyncDispose]() {
      await store[Symbol.asyncDispose]();
      await embedded?.[Symbol.asyncDispose]();
    },
  };
}

/** The name is given because TLS knows no addresses there: the certificate has both. */
function embeddedUpstream(embedded: EmbeddedEtcd | undefined): {
  readonly endpoints: readonly string[];
  readonly tls: EtcdTls | undefined;
} {
  if (embedded === undefined) return { endpoints: [], tls: undefined };
  return { endpoints: [embedded.endpoint], tls: { ...embedded.tls, serverName: 'localhost' } };
}

/** Starts the embedded etcd. While it starts, `signal` stops it; after that it ends last, when it is disposed of. */
async function startEtcd(options: StoreOptions): Promise<EmbeddedEtcd | undefined> {
  const { etcd, clock, logger, signal } = options;
  if (etcd.kind === 'external') return undefined;
  const { binary, dataDir, port } = etcd;
  const starting = new AbortController();
  const stop = (): void => starting.abort(signal.reason);
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await openEmbeddedEtcd({
      binary,
      dataDir,
      port,
      clock,
      logger,
      signal: starting.signal,
    });
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
