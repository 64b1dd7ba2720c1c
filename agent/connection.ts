import { readEtcdClientConfig } from '../mesh/kvstore/client-config.ts';
import { openEtcd } from '../mesh/kvstore/etcd.ts';
import type { Clock } from '../mesh/runtime/clock.ts';
import type { PeerConnection } from './remote/peer.ts';

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
