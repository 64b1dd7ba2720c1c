/** Promise 2: nothing stale and nothing missing after a resync, proven by count and digest. Promise 16: else it is said. */
import { type Test, test } from 'tap';
import type { KvStore } from '../kvstore/kvstore.ts';
import { createMemoryStore } from '../kvstore/memory.ts';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import { createDigest, encodeMeshDigest } from '../wire/digest.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { parseIpAddress } from '../wire/ip.ts';
import { ipKey, ipsPrefix, meshDigestKey, syncedPrefix } from '../wire/keys.ts';
import { createClusterIds } from './cluster-ids.ts';
import { createPeer, type PeerContextInput } from './peer.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink } from './testing/recording-sink.ts';
import { until } from './testing/until.ts';

const IPS = ipsPrefix(parseClusterName('beta'));

/** Beta (2) with `count` addresses, read by a peer through `wrap`. */
async function open(
  t: Test,
  options: {
    count: number;
    wrap?: (store: KvStore) => KvStore;
    context?: Partial<PeerContextInput>;
    marked?: boolean;
  },
) {
  const { count, wrap = (store) => store } = options;
  const store = createMemoryStore();
  const writer = store.connect({ alwaysConnected: true });
  const beta = publishCluster('beta', 2, writer);
  await beta.config({ capabilities: { syncedCanaries: options.marked ?? true } });
  await beta.node('n1', '198.51.100.1');
  await beta.identity(300, {});
  for (let index = 0; index < count; index += 1)
    await beta.ip(ipOf(index), { host: '198.51.100.1', local: 300 });
  if (options.marked ?? true) await beta.marked();
  const sink = createRecordingSink();
  const stopping = new AbortController();
  const peer = createPeer(beta.name, {
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    nodeIps: [],
    sink,
    ids: createClusterIds({ id: 1, name: parseClusterName('alpha') }),
    onIdentified: () => undefined,
    relistJitterMs: 5,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
    ...options.context,
  });
  peer.connectWith({
    fingerprint: '1',
    endpoints: ['http://beta:2379'],
    open: async () => wrap(store.connect()),
  });
  const running = peer.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  const ips = () => peer.status().verified.find(({ kind }) => kind === 'ips');
  await until(
    'all is read and compared',
    () => ips() !== undefined && peer.status().verified.length === 4,
  );
  return { store, writer, beta, sink, peer, ips };
}

const ipOf = (index: number): string => `10.2.${index >> 8}.${index & 255}`;

/** Writes the digest of all addresses as they stand, changed by `lie` keys. */
async function publishDigest(writer: KvStore, lie = 0): Promise<void> {
  const digest = createDigest();
  for (const { key, value } of (await writer.list(IPS)).pairs) digest.add(key, value);
  const { sum } = digest;
  await writer.put(meshDigestKey(IPS), encodeMeshDigest({ count: digest.count + lie, sum }));
}

test('what is held is proven by number after each list, against a plain Cilium too', async (t) => {
  const { store, writer, beta, peer, ips, sink } = await open(t, { count: 20 });
  await writer.put(`${IPS}10.2.9.9`, 'nonsense');
  t.match(ips(), { result: 'match', count: 20, digest: 'absent', reason: undefined });
  const first = ips()?.revision;
  store.faults.disconnect();
  await until('cut off', () => peer.status().notes.length > 0);
  await beta.removeIp(ipOf(3));
  await beta.ip('10.2.9.1', { host: '198.51.100.1', local: 300 });
  store.faults.compact();
  store.faults.reconnect();
  await until('compared again', () => ips()?.revision !== first);
  t.match(ips(), { result: 'match', count: 21 }, 'a refused key is there, too');
  t.notOk(sink.held.has(`ip ${ipOf(3)}/32`));
});

test('a list that left keys out is found and read once more, by itself', async (t) => {
  let lists = 0;
  const { ips, sink } = await open(t, {
    count: 20,
    // A server whose first list of the addresses forgets five.
    wrap: (store) => ({
      ...store,
      watchBatches: async function* (target, options) {
        const isIps = 'prefix' in target && target.prefix === IPS;
        if (isIps) lists += 1;
        const forgets = isIps && lists === 1;
        for await (const batch of store.watchBatches(target, options)) {
          const kept = batch.filter(
            (event) => !forgets || event.kind !== 'put' || !event.pair.key.endsWith('7'),
          );
          if (kept.length > 0) yield kept;
        }
      },
    }),
  });
  await until('it matches', () => ips()?.result === 'match');
  t.equal(lists, 2);
  t.ok(sink.held.has('ip 10.2.0.7/32'));
});

test('a server that contradicts itself is read once more and not for ever, and it is said', async (t) => {
  let lists = 0;
  const { ips } = await open(t, {
    count: 20,
    wrap: (store) => ({
      ...store,
      count: async (prefix, options) => {
        const found = await store.count(prefix, options);
        return prefix === IPS ? { ...found, count: found.count + 1 } : found;
      },
      watchBatches: (target, options) => {
        if ('prefix' in target && target.prefix === IPS) lists += 1;
        return store.watchBatches(target, options);
      },
    }),
  });
  await until('it is read again', () => lists === 2);
  await systemClock.sleep(100);
  t.equal(lists, 2, 'once');
  t.match(ips(), {
    result: 'mismatch',
    reason: /counts 21 keys and lists 20: it contradicts itself/,
  });
});

test('a server that does not answer leaves it open', async (t) => {
  const { ips } = await open(t, {
    count: 3,
    wrap: (store) => ({
      ...store,
      count: async () => {
        const { KvError } = await import('../kvstore/kvstore.ts');
        throw new KvError('timeout', 'no answer', { retryable: true });
      },
    }),
  });
  t.match(ips(), { result: 'unknown', reason: 'no answer' });
});

test('the digest is compared at the list, and with each change after it', async (t) => {
  const { writer, beta, ips, store, peer } = await open(t, { count: 20 });
  await publishDigest(writer);
  store.faults.disconnect();
  await until('cut off', () => peer.status().notes.length > 0);
  store.faults.compact();
  store.faults.reconnect();
  await until('the digest matches', () => ips()?.digest === 'match');
  await beta.ip('10.2.9.1', { host: '198.51.100.1', local: 300 });
  await publishDigest(writer, 1);
  await beta.ip('10.2.9.2', { host: '198.51.100.1', local: 300 });
  await until('a lie is found', () => ips()?.digest === 'mismatch');
  t.match(ips()?.reason, /publisher says 22 keys with sum [0-9a-f]{16}, held here are 2[12] with/);
  // The list is read again, and what its publisher says then is true.
  await publishDigest(writer);
  await until('healed', () => ips()?.digest === 'match', 5000);
});

test('a mass deletion without a marker is held back, and goes when the marker comes', async (t) => {
  const { store, writer, beta, sink, peer } = await open(t, { count: 150 });
  const held = (): number => [...sink.held.keys()].filter((key) => key.startsWith('ip ')).length;
  store.faults.disconnect();
  await until('cut off', () => peer.status().notes.length > 0);
  for (let index = 0; index < 140; index += 1) await beta.removeIp(ipOf(index));
  await writer.deletePrefix(syncedPrefix(beta.name));
  store.faults.compact();
  store.faults.reconnect();
  await until('held back', () => peer.status().heldBack.length > 0);
  t.same(peer.status().heldBack, [{ kind: 'ips', count: 140 }]);
  t.equal(held(), 150);
  // The publisher writes some of it again, then its marker.
  for (let index = 0; index < 30; index += 1)
    await beta.ip(ipOf(index), { host: '198.51.100.1', local: 300 });
  await until('some is back', () => peer.status().heldBack[0]?.count === 110);
  await beta.marked();
  await until('the rest is gone', () => held() === 40);
  t.same(peer.status().heldBack, []);
  t.notOk(sink.log.includes(`-ip ${ipOf(5)}/32`), 'what was written again was never taken away');
});

test('a cluster without markers is believed after the time that is allowed; what a watch tells, at once', async (t) => {
  const { store, beta, sink, peer } = await open(t, {
    count: 150,
    marked: false,
    context: { limits: { heldBackTtlMs: 300 } },
  });
  const held = (): number => [...sink.held.keys()].filter((key) => key.startsWith('ip ')).length;
  await store.connect().deletePrefix(`${IPS}`);
  await until('a watch is believed', () => held() === 0);
  for (let index = 0; index < 150; index += 1)
    await beta.ip(ipOf(index), { host: '198.51.100.1', local: 300 });
  await until('all is back', () => held() === 150);
  store.faults.disconnect();
  await until('cut off', () => peer.status().notes.length > 0);
  for (let index = 0; index < 149; index += 1) await beta.removeIp(ipOf(index));
  store.faults.compact();
  store.faults.reconnect();
  await until('held back', () => peer.status().heldBack.length > 0);
  t.equal(held(), 150);
  await until('believed', () => held() === 1, 5000);
});

test('a host that comes after its addresses: they are read again from the server when need be', async (t) => {
  const { beta, sink, peer } = await open(t, {
    count: 3,
    context: { limits: { hostGraceMs: 10 } },
  });
  await beta.removeNode('n1');
  await until('they are gone', () => !sink.held.has('ip 10.2.0.1/32'));
  t.match(peer.status().refused.byReason, { 'host-unknown': 3 });
  await beta.node('n2', '198.51.100.1');
  await until(
    'they are back',
    () => sink.held.has('ip 10.2.0.1/32') && sink.held.has('ip 10.2.0.2/32'),
  );
  t.same(peer.status().refused.byReason, {});
  t.equal((await beta.store.get(ipKey(parseIpAddress('10.2.0.1'))))?.lease, 0n);
});
