import { readEtcdClientConfig } from '../kvstore/client-config.ts';
import { openEtcd } from '../kvstore/etcd.ts';
import type { HostAlias } from '../kvstore/etcd-endpoint.ts';
import { type KvStatistics, measureStore } from '../kvstore/measured-store.ts';
import { certificateDue, certificateExpiry } from '../runtime/certificate-expiry.ts';
import type { Clock } from '../runtime/clock.ts';
import { stampFiles } from '../runtime/file-stamp.ts';
import { createCertificateLook } from './certificate-look.ts';
import { createEndpointNames, type ResolveHost, resolveHost } from './endpoint-names.ts';
import type { PeerConnection } from './peer.ts';
import { createSharedStores } from './shared-stores.ts';

/**
 * Makes the function that turns an etcd client file into a connection of a cluster. Names in it are resolved for each
 * connection, and can be asked again whether they lead elsewhere. Clusters with the same file, certificates and addresses
 * share one connection.
 */
export function connectionReader(options: {
  readonly clock: Clock;
  /** Default: the machine's resolver. */
  readonly resolve?: ResolveHost;
  /** Silence after which a server is asked for a sign of life, in milliseconds. Default 10,000. */
  readonly progressIntervalMs?: number;
  /** Where calls are counted. Default: nowhere. */
  readonly statistics?: KvStatistics;
}): (path: string) => Promise<PeerConnection> {
  const { clock, resolve = resolveHost, statistics } = options;
  const stores = createSharedStores();
  /** What files held when they were read last. Each is asked for every few seconds, and seldom changes. */
  const known = new Map<
    string,
    { files: readonly string[]; stamp: string | undefined; connection: PeerConnection }
  >();

  const read = async (
    path: string,
  ): Promise<{ files: readonly string[]; connection: PeerConnection }> => {
    const config = await readEtcdClientConfig(path);
    const { endpoints, tls, hostAliases, fingerprint } = config;
    const names = createEndpointNames(endpoints, { fixed: hostAliases, resolve, clock });
    let dialled: readonly HostAlias[] = hostAliases;
    const connection: PeerConnection = {
      fingerprint,
      endpoints,
      certificateExpiresAt: tls === undefined ? undefined : certificateExpiry(tls.cert),
      certificateDueAt: tls === undefined ? undefined : certificateDue(tls.cert),
      haveMoved: (state) => names.haveMoved(state),
      ...(tls === undefined
        ? {}
        : { explain: createCertificateLook({ endpoints, tls, aliases: () => dialled, clock }) }),
      open: async () => {
        const aliases = [...hostAliases, ...(await names.dial())];
        dialled = aliases;
        const store = await stores.open(`${fingerprint} ${JSON.stringify(aliases)}`, () =>
          openEtcd({
            endpoints: [...endpoints],
            ...(tls === undefined ? {} : { tls }),
            hostAliases: aliases,
            ...(options.progressIntervalMs === undefined
              ? {}
              : { progressIntervalMs: options.progressIntervalMs }),
            clock,
          }),
        );
        return statistics === undefined ? store : measureStore(store, { statistics, clock });
      },
    };
    return { files: [path, ...config.certificateFiles], connection };
  };
  return async (path) => {
    const last = known.get(path);
    // Before it is read, so that no change between the two is missed: which files it names is known from the last time.
    const stamp = last === undefined ? undefined : stampFiles(last.files, clock.now());
    if (last !== undefined && stamp !== undefined && stamp === last.stamp) return last.connection;
    known.delete(path);
    const { files, connection } = await read(path);
    const isSameFiles = files.join('\n') === last?.files.join('\n');
    known.set(path, { files, stamp: isSameFiles ? stamp : undefined, connection });
    return connection;
  };
}
