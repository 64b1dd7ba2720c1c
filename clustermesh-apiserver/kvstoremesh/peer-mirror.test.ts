import { type Test, test } from 'tap';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import type { ClusterConfig } from '../../mesh/wire/cluster-config.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { createSlots } from '../gate/slots.ts';
import { eventually } from '../testing/publishing-rig.ts';
import type { LeaderTerm } from './leader.ts';
import { createPeerMirror } from './peer-mirror.ts';

const CONFIG: ClusterConfig = {
  id: 2,
  capabilities: {
    syncedCanaries: true,
    cached: false,
    maxConnectedClusters: 255,
    serviceExportsEnabled: undefined,
    endpointSlicesExportMode: undefined,
  },
};
const OFF = ['serviceexports', 'endpointslices'] as const;
const ON = ['nodes', 'identities', 'ips', 'services'] as const;
const LOCK = 'cilium/kvstoremesh-lock/1';

/** A peer's mirror that writes into a store in memory, as the leader. */
async function openRig(t: Test, options: { maxValueBytes?: number } = {}) {
  const store = createMemoryStore(options);
  const lease = await store.lease(900);
  const mirror = createPeerMirror(parseClusterName('beta'), {
    store,
    lease,
    slots: createSlots(8),
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  await store.put(LOCK, '');
  const lead = async (): Promise<LeaderTerm> => {
    const over = new AbortController();
    const modRevision = (await store.get(LOCK))?.modRevision ?? 0n;
    return { fence: { key: LOCK, modRevision }, over: over.signal, end: () => over.abort() };
  };
  const ending = new AbortController();
  const write = (term: LeaderTerm): Promise<void> => {
    const writing = mirror.write(term, ending.signal);
    t.teardown(async () => {
      ending.abort();
      await writing;
    });
    return writing;
  };
  const put = (address: string, value: string): void =>
    mirror.put('ips', `${address}/32`, { suffix: address, value: Buffer.from(value) });
  const tellAll = (): void => {
    for (const kind of ON) mirror.sourceSynced(kind);
  };
  return { store, lease, mirror, lead, write, put, tellAll };
}

async function textOf(store: KvStore, key: string): Promise<string | undefined> {
  return (await store.get(key))?.value.toString();
}

test('the configuration comes first, a marker behind everything of its kind', async (t) => {
  const { store, mirror, lead, write, put, tellAll } = await openRig(t);
  const order: string[] = [];
  const watching = new AbortController();
  const watched = (async () => {
    for await (const event of store.watch({ prefix: 'cilium/' }, { signal: watching.signal })) {
      if (event.kind === 'put' && event.pair.key !== LOCK) order.push(event.pair.key);
    }
  })();
  mirror.configure(CONFIG, OFF);
  for (let index = 0; index < 1000; index += 1) put(`10.2.${index >> 8}.${index & 255}`, 'x');
  tellAll();
  void write(await lead());
  await eventually('all markers', () => mirror.status.complete.length === 6);
  await eventually('the watch', () => order.length === 1 + 1000 + 6);
  t.equal(order[0], 'cilium/cluster-config/beta');
  const marker = order.indexOf('cilium/synced/beta/cilium/cache/ip/v1');
  const last = order.findLastIndex((key) => key.startsWith('cilium/cache/ip/v1/beta/'));
  t.ok(marker > last, 'no address comes behind the marker');
  t.equal(mirror.status.pending, 0);
  watching.abort();
  await watched;
});

test('a value too large for etcd is left out, and holds nothing back', async (t) => {
  const { store, mirror, lead, write, put, tellAll } = await openRig(t, { maxValueBytes: 2000 });
  mirror.configure(CONFIG, OFF);
  for (let index = 0; index < 300; index += 1) put(`10.2.${index >> 8}.${index & 255}`, 'x');
  put('10.2.9.9', 'y'.repeat(3000));
  tellAll();
  void write(await lead());
  await eventually('all markers', () => mirror.status.complete.length === 6);
  const { pairs } = await store.list('cilium/cache/ip/v1/beta/');
  t.equal(pairs.length, 300);
  t.match(mirror.status.refused, { 'cilium/cache/ip/v1/beta/10.2.9.9': /3000 bytes/ });
  put('10.2.9.9', 'small');
  await eventually(
    'the smaller value',
    async () => (await textOf(store, 'cilium/cache/ip/v1/beta/10.2.9.9')) === 'small',
  );
  t.same(mirror.status.refused, {});
});

test('a mirror that leads no more writes nothing', async (t) => {
  const { store, mirror, lead, write, put, tellAll } = await openRig(t);
  mirror.configure(CONFIG, OFF);
  put('10.2.0.1', 'first');
  tellAll();
  const term = await lead();
  const writing = write(term);
  await eventually('all markers', () => mirror.status.complete.length === 6);
  // Another one has the lock now, and has changed something.
  await store.put(LOCK, '');
  await store.put('cilium/cache/ip/v1/beta/10.2.0.1', 'of another leader');
  put('10.2.0.2', 'late');
  await writing;
  t.ok(term.over.aborted);
  t.equal(await store.get('cilium/cache/ip/v1/beta/10.2.0.2'), undefined);
  void write(await lead());
  await eventually(
    'the late one',
    async () => (await store.get('cilium/cache/ip/v1/beta/10.2.0.2')) !== undefined,
  );
  const first = await textOf(store, 'cilium/cache/ip/v1/beta/10.2.0.1');
  t.equal(first, 'first', 'and what another wrote meanwhile is found and mended');
});

test('markers of a mirror that lost its lease come behind the data again', async (t) => {
  const { store, lease, mirror, lead, write, put, tellAll } = await openRig(t);
  mirror.configure(CONFIG, OFF);
  for (let index = 0; index < 500; index += 1) put(`10.2.${index >> 8}.${index & 255}`, 'x');
  tellAll();
  lease.onLost(() => mirror.rewrite());
  void write(await lead());
  await eventually('all markers', () => mirror.status.complete.length === 6);
  const order: string[] = [];
  const watching = new AbortController();
  const watched = (async () => {
    let isListed = false;
    for await (const event of store.watch({ prefix: 'cilium/' }, { signal: watching.signal })) {
      if (event.kind === 'synced') isListed = true;
      if (event.kind === 'put' && isListed) order.push(event.pair.key);
    }
  })();
  await eventually('the watch to begin', () => true);
  store.faults.expireLease(lease);
  await eventually('all markers again', () => mirror.status.complete.length === 6);
  await eventually('the watch', () => order.length === 1 + 500 + 6);
  t.equal(order[0], 'cilium/cluster-config/beta');
  const marker = order.indexOf('cilium/synced/beta/cilium/cache/ip/v1');
  t.ok(marker > order.findLastIndex((key) => key.startsWith('cilium/cache/ip/v1/beta/')));
  watching.abort();
  await watched;
});

test('calls that fail are repeated until they do not', async (t) => {
  const { store, mirror, lead, write, put, tellAll } = await openRig(t);
  mirror.configure(CONFIG, OFF);
  put('10.2.0.1', '1');
  tellAll();
  void write(await lead());
  await eventually('all markers', () => mirror.status.complete.length === 6);
  store.faults.disconnect();
  put('10.2.0.2', '1');
  mirror.remove('ips', '10.2.0.1/32');
  await eventually('the failure to be told', () => mirror.status.lastError !== undefined);
  store.faults.reconnect();
  await eventually('both changes', async () => {
    const { pairs } = await store.list('cilium/cache/ip/v1/beta/');
    return pairs.length === 1 && pairs[0]?.key.endsWith('10.2.0.2') === true;
  });
  t.equal(mirror.status.lastError, undefined);
});
