import { readEtcdClientConfig } from '../kvstore/client-config.ts';
import { openEtcd } from '../kvstore/etcd.ts';
import type { Clock } from '../runtime/clock.ts';
import type { PeerConnection } from './peer.ts';

/** Makes the function that turns an etcd client file into a connection of a cluster. */
export function connectionReader(options: {
  readonly clock: Clock;
}): (path: string) => Promise<PeerConnection> {
  return async (path) => {
    const { endpoints, tls, hostAliases, fingerprint } = await readEtcdClientConfig(path);
    return {
      fingerprint,
      endpoints,
      open: () =>
        openEtcd({
          endpoints: [...endpoints],
          ...(tls === undefined ? {} : { tls }),
          hostAliases,
          clock: options.clock,
        }),
    };
  };
}
