import { type Test, test } from 'tap';
import { openEtcd } from '../kvstore/etcd.ts';
import type { KvStore } from '../kvstore/kvstore.ts';
import { type EtcdServer, etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import type { Peer } from './peer.ts';
import { type PublishedCluster, publishCluster } from './testing/published-cluster.ts';
import { startPeer } from './testing/started-peer.ts';
import { until } from './testing/until.ts';

const skip = etcdSkipReason(process.env);

const isReady = (peer: Peer) => () => peer.status().state.kind === 'ready';

async function openReplica(
  t: Test,
): Promise<{ server: EtcdServer; beta: PublishedCluster<KvStore> }> {
  const server = await openEtcdServer();
  t.teardown(() => server[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [server.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const beta = publishCluster<KvStore>('beta', 2, store);
  await beta.config();
  for (let index = 1; index <= 3; index += 1) {
    await beta.node(`m${index}`, `198.51.100.${index}`);
    await beta.identity(256 + index, { app: `a${index}` });
    await beta.ip(`10.2.0.${index}`, { host: `198.51.100.${index}`, local: 256 + index });
  }
  await beta.service('web', { '10.2.0.1': 8080 });
  await beta.marked();
  return { server, beta };
}

test("Cilium's layout, replicas with an etcd each behind one name: going over to the other deletes nothing that did not change", {
  skip,
  timeout: 60_000,
}, async (t) => {
  const [one, two] = [await openReplica(t), await openReplica(t)];
  await using proxy = await openFaultyProxy({ targetPort: one.server.port });
  const { peer, sink } = startPeer(t);
  const endpoints = [`http://127.0.0.1:${proxy.port}`];
  peer.connectWith({ fingerprint: 'one', endpoints, open: () => openEtcd({ endpoints }) });
  await until('ready', isReady(peer));
  const held = [...sink.held.keys()].sort();
  t.ok(held.length >= 10);

  const goOver = async (port: number): Promise<string[]> => {
    const from = sink.log.length;
    const listed = sink.log.filter((line) => line.startsWith('synced')).length;
    proxy.setTarget(port);
    proxy.cut();
    await until(
      'everything is listed at the other one',
      () => sink.log.filter((line) => line.startsWith('synced')).length >= listed + 4,
    );
    await until('ready', isReady(peer));
    return sink.log.slice(from).filter((line) => line.startsWith('-'));
  };
  t.same(await goOver(two.server.port), [], 'nothing goes');
  t.same([...sink.held.keys()].sort(), held);
  t.same(await goOver(one.server.port), [], 'nor on the way back');
  // A replica that is behind or ahead: what differs changes, and nothing else.
  await two.beta.removeNode('m3');
  await two.beta.node('m4', '198.51.100.4');
  const gone = await goOver(two.server.port);
  t.equal(gone.length, 1);
  t.match(gone[0], /m3/);
  t.ok(sink.held.has('node m4'));
});
