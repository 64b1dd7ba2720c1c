import { type Test, test } from 'tap';
import { KvError } from '../kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../kvstore/memory.ts';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { parseIpAddress } from '../wire/ip.ts';
import { ipKey, nodeKey } from '../wire/keys.ts';
import { type ClusterIds, createClusterIds } from './cluster-ids.ts';
import { createPeer, type Peer } from './peer.ts';
import { type PublishedCluster, publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink, type RecordingSink } from './testing/recording-sink.ts';
import { until } from './testing/until.ts';

interface Rig {
  readonly cluster: PublishedCluster;
  readonly peer: Peer;
  readonly sink: RecordingSink;
  readonly ids: ClusterIds;
  readonly opened: () => number;
  connect(fingerprint: string, store?: MemoryStore): void;
  stop(): Promise<void>;
}

/** A peer `beta` (id 2) of cluster alpha (id 1), or the cluster named, running. */
function startPeer(
  t: Test,
  options: { name?: string; id?: number; max?: 255 | 511; open?: () => void } = {},
): Rig {
  const { name = 'beta', id = 2, max = 255 } = options;
  const cluster = publishCluster(name, id);
  const sink = createRecordingSink();
  const ids = createClusterIds({ id: 1, name: parseClusterName('alpha') });
  const stopping = new AbortController();
  let opened = 0;
  const peer = createPeer(cluster.name, {
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max },
    nodeIps: [parseIpAddress('192.0.2.1')],
    sink,
    ids,
    onIdentified: () => undefined,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const connect = (fingerprint: string, store = cluster.store): void =>
    peer.connectWith({
      fingerprint,
      endpoints: ['https://beta.mesh.cilium.io:2379'],
      open: async () => {
        options.open?.();
        opened += 1;
        return store.connect();
      },
    });
  connect('first');
  const running = peer.run(stopping.signal);
  const stop = async (): Promise<void> => {
    stopping.abort();
    await running;
  };
  t.teardown(stop);
  return { cluster, peer, sink, ids, opened: () => opened, connect, stop };
}

async function publishAll(cluster: PublishedCluster): Promise<void> {
  await cluster.config();
  await cluster.node('n1', '198.51.100.1');
  await cluster.identity(257, { app: 'web' });
  await cluster.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await cluster.service('web', { '10.2.0.5': 8080 });
}

const isReady = (peer: Peer) => () => peer.status().state.kind === 'ready';
const isDisconnected = (peer: Peer) => () =>
  peer.status().notes.some(({ code }) => code === 'connection-lost');

test('a peer goes from connecting over syncing to ready, and shows what it holds', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  t.same(peer.status().state, { kind: 'connecting' });
  await publishAll(cluster);
  await until('the configuration is accepted', () => peer.status().state.kind === 'syncing');
  t.match(peer.status().state, { outstanding: ['nodes', 'identities', 'ips', 'services'] });
  t.equal(sink.held.size, 0, 'nothing is read before its marker');
  await cluster.marked();
  await until('ready', isReady(peer));
  t.same([...sink.held.keys()].sort(), [
    'identity 131329',
    'ip 10.2.0.5/32',
    'node n1',
    'service demo/web',
  ]);
  t.match(peer.status(), {
    clusterId: 2,
    counts: { nodes: 1, identities: 1, ips: 1, services: 1 },
    endpoints: ['https://beta.mesh.cilium.io:2379'],
    failures: 0,
    config: { syncedCanaries: true },
  });
});

test('each kind is read after its own marker, addresses after identities', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked('ips');
  await cluster.marked('nodes');
  await until('nodes are synced', () => sink.log.includes('synced nodes'));
  t.same(
    [...sink.held.keys()],
    ['node n1'],
    'addresses wait for identities although their marker is there',
  );
  await cluster.marked('identities');
  await until('addresses are synced', () => sink.log.includes('synced ips'));
  t.ok(sink.log.indexOf('synced identities') < sink.log.indexOf('+ip 10.2.0.5/32'));
  t.match(peer.status().state, { kind: 'syncing', outstanding: ['services'] });
});

test('a cluster without markers is read at once', async (t) => {
  const { cluster, peer } = startPeer(t);
  await publishAll(cluster);
  await cluster.config({ capabilities: { syncedCanaries: false } });
  await until('ready', isReady(peer));
});

test('changes and deletions arrive', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  await cluster.ip('10.2.0.6', { host: '198.51.100.1', local: 257 });
  await until('it is there', () => sink.held.has('ip 10.2.0.6/32'));
  await cluster.removeIp('10.2.0.6');
  await cluster.removeService('web');
  await until(
    'both are gone',
    () => !sink.held.has('ip 10.2.0.6/32') && !sink.held.has('service demo/web'),
  );
  t.match(peer.status().counts, { ips: 1, services: 0 });
});

const refusals: readonly [
  name: string,
  max: 255 | 511,
  config: Parameters<PublishedCluster['config']>[0],
  reason: string,
][] = [
  [
    'our own id',
    255,
    { id: 1 },
    'has our own cluster id 1: give one of the two another --cluster-id',
  ],
  [
    'an id that another peer holds',
    255,
    { id: 3 },
    'has cluster id 3, which cluster gamma holds already',
  ],
  ['id 0', 255, { id: 0 }, 'says its id is 0, expected 1 to 255'],
  ['255 clusters where we have 511', 511, {}, 'both need the same --max-connected-clusters'],
  [
    'an unknown export mode',
    255,
    { capabilities: { endpointSlicesExportMode: 'new' } },
    'upgrade this side',
  ],
];

for (const [name, max, config, reason] of refusals) {
  test(`a peer with ${name} is refused with one line, and read once that is mended`, async (t) => {
    const { cluster, peer, sink, ids } = startPeer(t, { max });
    ids.take(3, parseClusterName('gamma'));
    await cluster.config(config);
    await until('it is refused', () => peer.status().state.kind === 'failed');
    const { state } = peer.status();
    t.match('reason' in state ? state.reason : '', reason);
    t.notMatch('reason' in state ? state.reason : '', '\n');
    t.equal(sink.held.size, 0);
    t.equal(ids.holderOf(3), 'gamma', 'the first holder keeps the id');
    await publishAll(cluster);
    await cluster.marked();
    await cluster.config({ capabilities: { maxConnectedClusters: max } });
    await until('ready', isReady(peer));
  });
}

test('a configuration that is no JSON is reported with its key', async (t) => {
  const { cluster, peer } = startPeer(t);
  await cluster.store.put('cilium/cluster-config/beta', '{"id":');
  await until('it is refused', () => peer.status().state.kind === 'failed');
  t.match(peer.status().state, { reason: /cannot parse cilium\/cluster-config\/beta/ });
});

test('a file named after another cluster says so', async (t) => {
  const { cluster, peer } = startPeer(t);
  await publishAll(publishCluster('delta', 4, cluster.store));
  await until('it is refused', () => peer.status().state.kind === 'failed');
  t.match(peer.status().state, {
    reason: /cilium\/cluster-config\/beta is missing: either the cluster there is not called beta/,
  });
});

test("values that are not the peer's to publish are counted by reason and harm nothing else", async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  const foreign = publishCluster('beta', 3, cluster.store);
  await foreign.ip('10.2.0.7', { host: '198.51.100.1', local: 1 });
  await foreign.identity(300, {});
  await cluster.identity(301, { 'io.cilium.k8s.policy.cluster': 'alpha' });
  await cluster.ip('127.0.0.1', { host: '198.51.100.1', local: 257 });
  await cluster.ip('10.2.0.8', { host: '192.0.2.1', local: 257 });
  await cluster.store.put(ipKey(parseIpAddress('10.2.0.9')), 'no json');
  await cluster.store.put(
    nodeKey(cluster.name, 'n2'),
    '{"Name":"n3","Cluster":"beta","ClusterID":2}',
  );
  await cluster.marked();
  await until('ready', isReady(peer));
  t.same([...sink.held.keys()].sort(), [
    'identity 131329',
    'ip 10.2.0.5/32',
    'node n1',
    'service demo/web',
  ]);
  t.same(peer.status().refused.byReason, {
    'identity-out-of-range': 2,
    'cluster-label-foreign': 1,
    'address-not-allowed': 1,
    'host-ip-ours': 1,
    'bad-value': 1,
    'key-mismatch': 1,
  });
  t.type(peer.status().refused.last, 'string');
  await cluster.ip('10.2.0.9', { host: '198.51.100.1', local: 257 });
  await until('the mended one is there', () => sink.held.has('ip 10.2.0.9/32'));
  t.notOk(peer.status().refused.byReason['bad-value'], 'a mended value is refused no more');
});

test('a bad value keeps the good one before it until a list says otherwise', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  await cluster.store.put(ipKey(parseIpAddress('10.2.0.5')), '{}');
  await until('it is refused', () => peer.status().refused.last !== undefined);
  t.ok(sink.held.has('ip 10.2.0.5/32'));
  cluster.store.faults.compact();
  cluster.store.faults.disconnect();
  await until('disconnected', isDisconnected(peer));
  cluster.store.faults.reconnect();
  await until('connected again', () => !isDisconnected(peer)());
  t.equal(peer.status().state.kind, 'ready');
});

test('a lost connection withdraws nothing, says why, and passes', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  const held = [...sink.held.keys()];
  const count = sink.log.length;
  cluster.store.faults.disconnect(
    new KvError('unavailable', 'connect ECONNREFUSED 198.51.100.9:2379', { retryable: true }),
  );
  await until('disconnected', isDisconnected(peer));
  t.equal(peer.status().state.kind, 'ready', 'for as long as it may come back at any moment');
  t.match(peer.status().notes, [
    { message: /ECONNREFUSED.*: check endpoints, and that the server runs.*after 30 s/ },
  ]);
  cluster.store.faults.reconnect();
  await until('connected again', () => !isDisconnected(peer)());
  t.equal(peer.status().state.kind, 'ready');
  t.same([...sink.held.keys()], held);
  t.notOk(sink.log.slice(count).some((line) => line.startsWith('-')));
  t.same(peer.status().notes, []);
});

test('a changed file reconnects without withdrawing anything, and drops what is not listed again', async (t) => {
  const { cluster, peer, sink, connect, opened } = startPeer(t);
  await publishAll(cluster);
  await cluster.node('n2', '198.51.100.2');
  await cluster.marked();
  await until('ready', isReady(peer));
  const count = sink.log.length;
  const other = publishCluster('beta', 2, createMemoryStore());
  await publishAll(other);
  connect('second', other.store);
  await until(
    'the new connection is read',
    () => opened() === 2 && peer.status().state.kind === 'syncing',
  );
  t.ok(sink.held.has('node n2'), 'still in use while the new connection syncs');
  await other.marked();
  await until('ready', isReady(peer));
  t.notOk(sink.held.has('node n2'), 'not listed again');
  t.same(
    sink.log.slice(count).filter((line) => line.startsWith('-')),
    ['-node n2'],
  );
  t.equal(peer.status().failures, 0);
  connect('second', other.store);
  t.equal(opened(), 2, 'the same file again changes nothing');
});

test('an etcd that lost its data shows its markers before anything is dropped', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  cluster.store.faults.wipe();
  await until('it is noticed', () => peer.status().state.kind !== 'ready');
  await cluster.config();
  await until('it is read anew', () => peer.status().state.kind === 'syncing');
  t.equal(sink.held.size, 4, 'nothing is withdrawn');
  await cluster.node('n1', '198.51.100.1');
  await cluster.marked();
  await until('ready', isReady(peer));
  t.same([...sink.held.keys()], ['node n1'], 'now it is known what is gone');
});

test('a changed id takes everything back and begins anew under the new one', async (t) => {
  const { cluster, peer, sink, ids } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  const renumbered = publishCluster('beta', 5, cluster.store);
  await renumbered.config();
  await until('it is taken back', () => sink.log.includes('removed'));
  await publishAll(renumbered);
  await until('ready', isReady(peer));
  t.equal(peer.status().clusterId, 5);
  t.equal(ids.holderOf(2), undefined);
  t.equal(ids.holderOf(5), 'beta');
  t.ok(sink.held.has('identity 327937'));
});

test('ending takes nothing back, draining everything', async (t) => {
  const { cluster, peer, sink, ids, stop } = startPeer(t);
  await publishAll(cluster);
  await cluster.marked();
  await until('ready', isReady(peer));
  await stop();
  t.equal(sink.held.size, 4);
  peer.drain();
  t.equal(sink.held.size, 0);
  t.equal(sink.log.at(-1), 'removed');
  t.equal(ids.holderOf(2), undefined);
});

const failures: readonly [name: string, error: Error, reason: RegExp][] = [
  [
    'our certificate is refused',
    new KvError('unauthenticated', 'etcd refused us', { retryable: false }),
    /does not take our certificate, check cert-file and key-file/,
  ],
  [
    'the server is of another CA',
    new KvError('unavailable', 'unable to verify the first certificate', { retryable: true }),
    /is not of the CA in trusted-ca-file/,
  ],
  [
    'the server has another name',
    new KvError('unavailable', "Hostname/IP does not match certificate's altnames", {
      retryable: true,
    }),
    /is for another name/,
  ],
  [
    'the server ends the handshake',
    new KvError('unavailable', 'tlsv13 alert certificate required', { retryable: true }),
    /the server refuses our certificate/,
  ],
  [
    'nothing answers',
    new KvError('timeout', 'no answer in 10 s', { retryable: true }),
    /the server does not answer/,
  ],
  [
    'we may not read',
    new KvError('permission-denied', 'etcd: permission denied', { retryable: false }),
    /may not read this, or the file is named after another cluster/,
  ],
];

for (const [name, error, reason] of failures) {
  test(`a failed connection says what to do when ${name}`, async (t) => {
    let broken = true;
    const { cluster, peer } = startPeer(t, {
      open: () => {
        if (broken) throw error;
      },
    });
    await publishAll(cluster);
    await cluster.marked();
    await until('it has failed', () => peer.status().state.kind === 'failed');
    t.match(peer.status().state, { reason });
    t.ok(peer.status().failures > 0);
    broken = false;
    await until('ready', isReady(peer));
  });
}

test('the own cluster must have the id that the agent was given', async (t) => {
  const { cluster, peer } = startPeer(t, { name: 'alpha', id: 7 });
  await cluster.config();
  await until('it is refused', () => peer.status().state.kind === 'failed');
  t.match(peer.status().state, {
    reason: /publishes id 7 and this agent was started with --cluster-id 1/,
  });
});

test('the own cluster is read like a peer, with its services and policies', async (t) => {
  const { cluster, peer, sink } = startPeer(t, { name: 'alpha', id: 1 });
  await publishAll(cluster);
  await cluster.localService('web', {});
  await cluster.policy('p', {});
  await cluster.marked();
  await until('ready', isReady(peer));
  t.ok(sink.held.has('local-service demo/web'));
  t.ok(sink.held.has('local-policy CiliumNetworkPolicy/demo/p'));
});

test('a peer whose id another one holds has its turn when that one leaves', async (t) => {
  const { cluster, peer, ids } = startPeer(t);
  ids.take(2, parseClusterName('gamma'));
  await publishAll(cluster);
  await cluster.marked();
  await until('it is refused', () => peer.status().state.kind === 'failed');
  ids.release(2, parseClusterName('delta'));
  t.equal(ids.holderOf(2), 'gamma', 'nobody frees what another holds');
  ids.release(2, parseClusterName('gamma'));
  await until('ready', isReady(peer));
  t.equal(ids.holderOf(2), 'beta');
});

test('a cluster mirrored in the cache layout is read there', async (t) => {
  const { cluster, peer, sink } = startPeer(t);
  await publishAll(cluster);
  const { pairs } = await cluster.store.list('cilium/state/');
  for (const { key, value } of pairs) {
    const mirrored = key
      .replace('cilium/state', 'cilium/cache')
      .replace('/ip/v1/default/', '/ip/v1/beta/')
      .replace('/identities/v1/id/', '/identities/v1/beta/id/');
    await cluster.store.put(mirrored, value);
    await cluster.store.delete(key);
  }
  await cluster.config({ capabilities: { cached: true } });
  await cluster.marked();
  await until('it is being read', () => peer.status().state.kind === 'syncing');
  t.equal(sink.held.size, 0, 'markers of the source are not those of the mirror');
  for (const kind of ['nodes', 'services', 'ip', 'identities']) {
    await cluster.store.put(`cilium/synced/beta/cilium/cache/${kind}/v1`, '2026-01-01T00:00:00Z');
  }
  await until('ready', isReady(peer));
  t.equal(sink.held.size, 4);
});
