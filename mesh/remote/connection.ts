import { readEtcdClientConfig } from '../kvstore/client-config.ts';
import { openEtcd } from '../kvstore/etcd.ts';
import { type KvStatistics, measureStore } from '../kvstore/measured-store.ts';
import { certificateExpiry } from '../runtime/certificate-expiry.ts';
import type { Clock } from '../runtime/clock.ts';
import { createEndpointNames, type ResolveHost, resolveHost } from './endpoint-names.ts';
import type { PeerConnection } from './peer.ts';

/**
 * Makes the function that turns an etcd client file into a connection of a cluster. Names in it are resolved for each
 * connection, and can be asked again whether they lead elsewhere.
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
  return async (path) => {
    const { endpoints, tls, hostAliases, fingerprint } = await readEtcdClientConfig(path);
    const names = createEndpointNames(endpoints, { fixed: hostAliases, resolve, clock });
    return {
      fingerprint,
      endpoints,
      certificateExpiresAt: tls === undefined ? undefined : certificateExpiry(tls.cert),
      haveMoved: (state) => names.haveMoved(state),
      open: async () => {
        const store = await openEtcd({
          endpoints: [...endpoints],
          ...(tls === undefined ? {} : { tls }),
          hostAliases: [...hostAliases, ...(await names.dial())],
          ...(options.progressIntervalMs === undefined
            ? {}
            : { progressIntervalMs: options.progressIntervalMs }),
          clock,
        });
        return statistics === undefined ? store : measureStore(store, { statistics, clock });
      },
    };
  };
}
