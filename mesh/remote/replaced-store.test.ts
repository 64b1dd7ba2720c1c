import { once } from 'node:events';
import { test } from 'tap';
import type { KvStore } from '../kvstore/kvstore.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { startPeer } from './testing/started-peer.ts';
import { until } from './testing/until.ts';

async function aborted(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, 'abort');
}

test('a marker of an etcd that is gone does not vouch for the next one, half written', async (t) => {
  let isWiped = false;
  /** Addresses are read only after the wipe, of which no other watch hears. */
  const first = (store: KvStore): KvStore => ({
    ...store,
    async *watch(target, options) {
      for await (const event of store.watch(target, options)) {
        if (isWiped) return void (await aborted(options.signal));
        yield event;
      }
    },
    async *watchBatches(target, options) {
      const isLate = 'prefix' in target && target.prefix.startsWith('cilium/state/ip/');
      if (isLate) await until('the wipe', () => isWiped);
      for await (const batch of store.watchBatches(target, options)) {
        if (isWiped && !isLate) return void (await aborted(options.signal));
        yield batch;
      }
    },
  });
  const { peer, sink } = startPeer(t);
  const cluster = publishCluster('beta', 2);
  await cluster.config();
  await cluster.node('n1', '198.51.100.1');
  await cluster.identity(257, { app: 'web' });
  await cluster.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await cluster.marked();
  let opened = 0;
  peer.connectWith({
    fingerprint: 'one',
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    open: async () => {
      opened += 1;
      const store = cluster.store.connect();
      return opened === 1 ? first(store) : store;
    },
  });
  await until('all before addresses is read', () =>
    ['synced nodes', 'synced identities'].every((line) => sink.log.includes(line)),
  );
  isWiped = true;
  cluster.store.faults.wipe();
  await cluster.config();
  await until('another connection is made', () => opened > 1);
  t.notOk(sink.log.includes('synced ips'), 'what stands there is not taken for whole');
  await cluster.node('n1', '198.51.100.1');
  await cluster.marked();
  await until('ready', () => peer.status().state.kind === 'ready');
  t.ok(sink.log.includes('synced ips'));
});
