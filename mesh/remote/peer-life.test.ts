import { test } from 'tap';
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../kvstore/memory.ts';
import { createLogger } from '../runtime/log.ts';
import { createManualClock } from '../testing/manual-clock.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { clusterConfigKey, HEARTBEAT_KEY } from '../wire/keys.ts';
import { createClusterIds } from './cluster-ids.ts';
import { createPeer } from './peer.ts';
import {
  codesOf,
  LOST,
  NOW,
  publishAll,
  reasonOf,
  startPeer,
  startReady,
  stateOf,
  taken,
} from './testing/peer-rig.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink } from './testing/recording-sink.ts';
import { until } from './testing/until.ts';

test('a peer that answers when asked stays ready for as long as it does', async (t) => {
  const rig = await startReady(t);
  await rig.pass(600_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.equal(rig.peer.life().isStale, false);
});

test('a server that keeps the connection and says nothing is stale after 30 s, and says what to do (promise 16)', async (t) => {
  const rig = await startReady(t);
  await rig.pass(29_000);
  t.equal(stateOf(rig), 'ready');
  await rig.pass(2000);
  t.match(rig.peer.status().state, {
    kind: 'stale',
    since: NOW + 30_000,
    reason: /keeps the connection and does not answer: look at its clustermesh-apiserver/,
  });
  t.match(rig.peer.life(), { isStale: true, cause: 'peer', clusterId: 2 });
  t.same(taken(rig), [], 'nothing of it is withdrawn by the reader');
});

test('an agent that was stopped for a while marks no healthy peer stale (promise 19)', async (t) => {
  const clock = createManualClock({ now: NOW });
  let stopped = 0;
  const monotonic = (): number => clock.monotonic() + stopped;
  const rig = await startReady(t, { clock: { ...clock, monotonic } });
  const pass = async (milliseconds: number): Promise<void> => {
    for (let passed = 0; passed < milliseconds; passed += 1000) await clock.advance(1000);
  };
  await pass(12_000);
  stopped = 600_000;
  await pass(8000);
  t.equal(stateOf(rig), 'ready');
  t.ok(rig.peer.life().silentMs < 30_000);
  await pass(30_000);
  t.equal(stateOf(rig), 'stale', 'silence counts from then on');
});

test('a lost connection: a note at once, stale later, ready again only when it has lasted', async (t) => {
  const rig = await startReady(t);
  rig.cluster.store.faults.disconnect(LOST);
  await until('it is noted', () => codesOf(rig).includes('connection-lost'));
  t.equal(stateOf(rig), 'ready');
  await rig.pass(31_000);
  t.equal(stateOf(rig), 'stale');
  t.match(reasonOf(rig), /ECONNREFUSED/);
  t.same(codesOf(rig), [], 'the state says it all');
  rig.cluster.store.faults.reconnect();
  await until('it is noticed', () => reasonOf(rig).includes('it is back'));
  await rig.pass(4000, { alive: true });
  t.equal(stateOf(rig), 'stale');
  await rig.pass(2000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), []);
});

test('a link that goes up and down does not make the peer come and go', async (t) => {
  const rig = await startReady(t);
  const { faults } = rig.cluster.store;
  const states = new Set<string>();
  faults.disconnect(LOST);
  await rig.pass(31_000);
  for (let round = 0; round < 10; round += 1) {
    faults.reconnect();
    await until('it is noticed', () => reasonOf(rig).includes('it is back'));
    await rig.pass(3000, { alive: true });
    states.add(stateOf(rig));
    faults.disconnect(LOST);
    await rig.pass(10_000);
    states.add(stateOf(rig));
  }
  t.same([...states], ['stale']);
});

test('a stale peer is ready only after everything of a replaced etcd was read', async (t) => {
  const rig = await startReady(t);
  const { faults } = rig.cluster.store;
  faults.disconnect(LOST);
  await rig.pass(31_000);
  faults.wipe();
  faults.reconnect();
  await rig.pass(2000, { alive: true });
  await rig.cluster.config();
  await rig.pass(20_000, { alive: true });
  t.equal(stateOf(rig), 'stale');
  t.match(reasonOf(rig), /is being read, outstanding: nodes, identities, ips, services/);
  t.equal(rig.sink.held.size, 4, 'what is known stays in use');
  await publishAll(rig.cluster);
  await until('it is read', () => reasonOf(rig).includes('it is back'));
  await rig.pass(6000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), [], 'never an empty interval for data that did not change');
});

test('a stale peer is not trusted before its server has what is held (promise 2)', async (t) => {
  const rig = await startReady(t, { relistJitterMs: 100 });
  let isLying = false;
  const store = rig.cluster.store.connect();
  const count: KvStore['count'] = async (prefix, options) => {
    const found = await store.count(prefix, options);
    return isLying ? { ...found, count: found.count + 1 } : found;
  };
  const lying = new Proxy<KvStore>(store, {
    get: (target, name) => (name === 'count' ? count : Reflect.get(target, name)),
  });
  rig.offer('second', async () => lying);
  await rig.pass(2000, { alive: true });
  await until('ready', () => stateOf(rig) === 'ready');
  const { faults } = rig.cluster.store;
  const writer = rig.cluster.store.connect({ alwaysConnected: true });
  /** A break after which everything must be listed again. */
  const breakFor = async (milliseconds: number): Promise<void> => {
    faults.disconnect(LOST);
    await rig.pass(milliseconds);
    await writer.put('other/key', String(milliseconds));
    faults.compact();
    faults.reconnect();
  };
  isLying = true;
  await breakFor(31_000);
  await until('it was compared', () => reasonOf(rig).includes('not yet known to have'));
  await rig.pass(20_000, { alive: true });
  t.equal(stateOf(rig), 'stale');
  t.match(reasonOf(rig), /identities|nodes|ips|services/);
  isLying = false;
  await breakFor(1000);
  await rig.pass(10_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), []);
});

test('a configuration that comes late is waited for, and its absence is said', async (t) => {
  const rig = startPeer(t);
  await until('it is missed', () => stateOf(rig) === 'failed');
  t.match(reasonOf(rig), /key cilium\/cluster-config\/beta is missing.*has not started/);
  await rig.pass(300_000, { alive: true });
  t.equal(stateOf(rig), 'failed', 'a cluster that never was ready cannot be stale');
  await publishAll(rig.cluster);
  await until('ready', () => stateOf(rig) === 'ready');
});

test('a configuration that is deleted under a live session changes nothing', async (t) => {
  const rig = await startReady(t);
  await rig.cluster.store.delete(clusterConfigKey(rig.cluster.name));
  await rig.pass(60_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), []);
});

test('a configuration that becomes unusable under a live session is reported at once, and stale later', async (t) => {
  const rig = await startReady(t);
  await rig.cluster.config({ capabilities: { maxConnectedClusters: 511 } });
  await until('it has failed', () => stateOf(rig) === 'failed');
  t.match(reasonOf(rig), /both need the same --max-connected-clusters/);
  await rig.pass(31_000, { alive: true });
  t.equal(stateOf(rig), 'stale', 'answers of a server that is not followed are no signs of life');
  t.match(reasonOf(rig), /both need the same --max-connected-clusters/);
  t.equal(rig.sink.held.size, 4);
  await rig.cluster.config();
  await rig.pass(60_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), []);
});

test('a publisher that died while its etcd lives on is a note, and no reason to withdraw', async (t) => {
  const rig = await startReady(t);
  for (let beat = 0; beat < 4; beat += 1) {
    await rig.cluster.store.put(HEARTBEAT_KEY, `2026-01-01T00:0${beat}:00Z`);
    await rig.pass(20_000, { alive: true });
  }
  t.match(rig.peer.status().heartbeat, { periodMs: 20_000, isSilent: false });
  await rig.pass(41_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(codesOf(rig), ['publisher-silent']);
  t.equal(rig.peer.life().isStale, false);
  await rig.cluster.store.put(HEARTBEAT_KEY, '2026-01-01T00:09:00Z');
  await until('the note goes', () => codesOf(rig).length === 0);
});

test('first a bad credential, then a good one: the connection that works is kept meanwhile (promise 18)', async (t) => {
  const rig = await startReady(t);
  const count = rig.sink.log.length;
  let refusing = 0;
  rig.offer('bad', async () => {
    refusing += 1;
    throw new KvError('unavailable', 'tlsv13 alert certificate required', { retryable: true });
  });
  await until('it is noted', () => codesOf(rig).includes('file-refused'));
  t.match(
    rig.peer.status().notes[0]?.message,
    /the server refuses our certificate: check cert-file/,
  );
  t.equal(stateOf(rig), 'ready');
  await rig.cluster.node('n2', '198.51.100.2');
  await until('news come over the old connection', () => rig.sink.held.has('node n2'));
  await rig.pass(120_000, { alive: true });
  t.ok(refusing > 3, 'it is tried again');
  t.ok(refusing < 20, `but not all the time: ${refusing}`);
  t.equal(stateOf(rig), 'ready');
  rig.offer('good', async () => rig.cluster.store.connect());
  await until(
    'it is read over the new connection',
    () => rig.sink.log.slice(count).filter((line) => line === 'synced services').length === 1,
  );
  await until('ready', () => stateOf(rig) === 'ready');
  t.same(codesOf(rig), []);
  t.same(taken(rig), []);
  t.equal(rig.peer.status().failures, 0);
  await rig.cluster.node('n3', '198.51.100.3');
  await until('no watch is stuck', () => rig.sink.held.has('node n3'));
});

test('a bad file is taken as it is once the old connection has failed, and a good one cures it', async (t) => {
  const rig = await startReady(t);
  rig.offer('bad', async () => {
    throw LOST;
  });
  await until('it is noted', () => codesOf(rig).includes('file-refused'));
  // The session ends: the key of the configuration is of no use any more.
  await rig.cluster.store.put(clusterConfigKey(rig.cluster.name), '{"id":');
  await rig.pass(31_000);
  t.equal(stateOf(rig), 'stale');
  t.match(reasonOf(rig), /ECONNREFUSED/);
  await rig.cluster.config();
  rig.offer('good', async () => rig.cluster.store.connect());
  await rig.pass(40_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(taken(rig), []);
});

test('a file that goes back to what it was ends the trial', async (t) => {
  const rig = await startReady(t);
  const open = async (): Promise<KvStore> => rig.cluster.store.connect();
  rig.offer('bad', async () => {
    throw LOST;
  });
  await until('it is noted', () => codesOf(rig).includes('file-refused'));
  const before = rig.opened();
  rig.offer('first', open);
  await rig.pass(60_000, { alive: true });
  t.same(codesOf(rig), []);
  t.equal(rig.opened(), before);
  t.equal(stateOf(rig), 'ready');
});

test('endpoints that lead to our own etcd are refused, and say so (promise 8)', async (t) => {
  const own = publishCluster('alpha', 1);
  await own.config();
  const rig = startPeer(t);
  rig.offer('wrong', async () => own.store.connect());
  await rig.pass(2000);
  await until('it is refused', () => stateOf(rig) === 'failed');
  t.match(reasonOf(rig), /endpoints of cluster beta lead to our own etcd: put the address/);
  t.equal(rig.sink.held.size, 0);
});

test('a mirror refuses to read its own store as a peer (promise 8)', async (t) => {
  const own: MemoryStore = createMemoryStore();
  const rig = startPeer(t, { ownStoreId: () => own.clusterId });
  // An etcd that was started with the same flags has the same id: only what it publishes proves that it is ours.
  await publishCluster('alpha', 1, own).config();
  const mirrored = publishCluster('beta', 2, own);
  await publishAll(mirrored);
  rig.offer('wrong', async () => own.connect());
  await rig.pass(2000);
  await until('it is refused', () => stateOf(rig) === 'failed');
  t.match(reasonOf(rig), /lead to our own etcd/);
  t.equal(rig.sink.held.size, 0);
});

test('a peer whose etcd has the id of ours by chance is read all the same', async (t) => {
  const twin: MemoryStore = createMemoryStore();
  const rig = startPeer(t, { ownStoreId: () => twin.clusterId });
  await publishAll(publishCluster('beta', 2, twin));
  rig.offer('twin', async () => twin.connect());
  await until('it is read', () => stateOf(rig) === 'ready');
});

test('a name that leads elsewhere is followed (promise 19)', async (t) => {
  const rig = startPeer(t);
  const elsewhere = publishCluster('beta', 2);
  await publishAll(elsewhere);
  await publishAll(rig.cluster);
  let moved = false;
  rig.offer('named', async () => (moved ? elsewhere : rig.cluster).store.connect(), {
    haveMoved: async () => moved && rig.opened() < 3,
  });
  await rig.pass(2000, { alive: true });
  await until('ready', () => stateOf(rig) === 'ready');
  t.equal(rig.opened(), 2);
  await rig.pass(60_000, { alive: true });
  t.equal(rig.opened(), 2, 'it stays for as long as the name does');
  moved = true;
  await elsewhere.node('n2', '198.51.100.2');
  await rig.pass(35_000, { alive: true });
  t.equal(rig.opened(), 3);
  await until('the other is read', () => rig.sink.held.has('node n2'));
  await until('ready', () => stateOf(rig) === 'ready');
  t.same(taken(rig), []);
});

test('250 peers that lose their server at once do not come back in a herd (promise 3)', async (t) => {
  const clock = createManualClock({ now: NOW });
  const stopping = new AbortController();
  const attempts: number[] = [];
  const peers = Array.from({ length: 250 }, (_, index) => {
    const name = parseClusterName(`peer${index}`);
    const peer = createPeer(name, {
      own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
      nodeIps: [],
      sink: createRecordingSink(),
      ids: createClusterIds({ id: 1, name: parseClusterName('alpha') }),
      onIdentified: () => undefined,
      clock,
      logger: createLogger('test', { level: 'silent' }),
    });
    peer.connectWith({
      fingerprint: 'one',
      endpoints: ['https://192.0.2.2:2379'],
      open: async () => {
        attempts.push(clock.monotonic());
        throw LOST;
      },
    });
    return peer.run(AbortSignal.any([stopping.signal]));
  });
  t.teardown(async () => {
    stopping.abort();
    await Promise.all(peers);
  });
  await clock.advance(60_000);
  const perPeer = attempts.length / 250;
  t.ok(perPeer > 6 && perPeer < 12, `${perPeer} attempts each in a minute`);
  const late = attempts.filter((at) => at > 10_000);
  const perSecond = new Map<number, number>();
  for (const at of late) {
    const second = Math.floor(at / 1000);
    perSecond.set(second, (perSecond.get(second) ?? 0) + 1);
  }
  const busiest = Math.max(...perSecond.values());
  t.ok(busiest < 100, `${busiest} of 250 in the busiest second after the first ten`);
});
