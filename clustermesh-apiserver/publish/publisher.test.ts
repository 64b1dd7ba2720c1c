import { test } from 'tap';
import { createMemoryStore, type MemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { decodeIpIdentity } from '../../mesh/wire/ip-identity.ts';
import { decodeClusterService } from '../../mesh/wire/service.ts';
import type { ObjectEvent } from '../sources/object-event.ts';
import { MANIFEST_KINDS, parseObject } from '../sources/objects.ts';
import { createPublisher, type Publisher } from './publisher.ts';

const logger = createLogger('test', { level: 'silent' });

const POD = parseObject({
  kind: 'Pod',
  metadata: { name: 'web-0', namespace: 'demo', labels: { app: 'web' } },
  status: { podIP: '10.1.0.5', hostIP: '192.0.2.1' },
});
const NODE = parseObject({
  kind: 'Node',
  metadata: { name: 'n1' },
  spec: { podCIDR: '10.1.0.0/24' },
  status: { addresses: [{ type: 'InternalIP', address: '192.0.2.1' }] },
});
const SERVICE = parseObject({
  kind: 'Service',
  metadata: { name: 'web', namespace: 'demo', annotations: { 'service.cilium.io/global': 'true' } },
  spec: {
    clusterIP: '10.96.0.1',
    selector: { app: 'web' },
    ports: [{ name: 'http', port: 80, targetPort: 8080 }],
  },
});

/** A source whose batches a test hands out one by one. */
function createSource(): {
  push(...events: ObjectEvent[]): void;
  batches: AsyncIterable<readonly ObjectEvent[]>;
} {
  const queue: ObjectEvent[][] = [];
  let wake = (): void => undefined;
  return {
    push(...events) {
      queue.push(events);
      wake();
    },
    batches: {
      async *[Symbol.asyncIterator]() {
        for (;;) {
          const batch = queue.shift();
          if (batch !== undefined) yield batch;
          else {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        }
      },
    },
  };
}

interface Running extends AsyncDisposable {
  readonly publisher: Publisher;
  readonly push: (...events: ObjectEvent[]) => void;
}

async function start(store: MemoryStore): Promise<Running> {
  const publisher = createPublisher({
    store,
    leaseTtlSeconds: 900,
    cluster: { name: parseClusterName('alpha'), id: parseClusterId(1) },
    maxConnectedClusters: 255,
    logger,
  });
  const source = createSource();
  const ending = new AbortController();
  const running = Promise.race([
    publisher.run(source.batches, ending.signal),
    new Promise((resolve) => ending.signal.addEventListener('abort', resolve)),
  ]);
  return {
    publisher,
    push: source.push,
    [Symbol.asyncDispose]: async () => {
      ending.abort();
      await running;
    },
  };
}

async function keys(store: MemoryStore): Promise<string[]> {
  const lists = await Promise.all(['cilium/', 'isthmus/'].map((prefix) => store.list(prefix)));
  return lists.flatMap(({ pairs }) => pairs.map(({ key }) => key));
}

async function until(
  store: MemoryStore,
  predicate: (found: string[]) => boolean,
): Promise<string[]> {
  const deadline = Date.now() + 5_000;
  for (;;) {
    const found = await keys(store);
    if (predicate(found)) return found;
    if (Date.now() > deadline) throw new Error(`still ${found.join(' ')}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const synced: ObjectEvent = { kind: 'synced', kinds: MANIFEST_KINDS };

test("a cluster is published in Cilium's layout, and markers come last", async (t) => {
  const store = createMemoryStore();
  const order: string[] = [];
  const watching = new AbortController();
  const watched = (async () => {
    for await (const event of store
      .connect()
      .watch({ prefix: 'cilium/' }, { signal: watching.signal })) {
      if (event.kind === 'put') order.push(event.pair.key);
    }
  })();
  await using running = await start(store);
  running.push(
    { kind: 'upsert', object: NODE },
    { kind: 'upsert', object: POD },
    { kind: 'upsert', object: SERVICE },
  );
  await until(store, (found) => found.includes('cilium/state/nodes/v1/alpha/n1'));
  t.notOk(
    (await keys(store)).some((key) => key.startsWith('cilium/synced/')),
    'nothing is complete before the source says so',
  );
  running.push(synced);
  await running.publisher.ready;
  const found = await keys(store);
  for (const key of [
    'cilium/.heartbeat',
    'cilium/cluster-config/alpha',
    'cilium/state/nodes/v1/alpha/n1',
    'cilium/state/ip/v1/default/10.1.0.5',
    'cilium/state/services/v1/alpha/demo/web',
    'cilium/synced/alpha/cilium/state/nodes/v1',
    'cilium/synced/alpha/cilium/state/ip/v1',
    'cilium/synced/alpha/cilium/state/identities/v1',
    'cilium/synced/alpha/cilium/state/services/v1',
    'isthmus/local/services/demo/web',
  ]) {
    t.ok(found.includes(key), key);
  }
  const address = await store.get('cilium/state/ip/v1/default/10.1.0.5');
  const { identity } = decodeIpIdentity(address?.value ?? '', 'ip');
  await until(store, () => order.some((key) => key.startsWith('cilium/synced/')));
  t.ok(
    order.indexOf(`cilium/state/identities/v1/id/${identity}`) <
      order.indexOf('cilium/state/ip/v1/default/10.1.0.5'),
    'an identity before the address that carries it',
  );
  const marker = order.findIndex((key) => key.startsWith('cilium/synced/'));
  t.ok(
    order.slice(marker).every((key) => key.startsWith('cilium/synced/')),
    'markers after everything',
  );
  watching.abort();
  await watched.catch(() => undefined);
});

test('what is removed is withdrawn', async (t) => {
  const store = createMemoryStore();
  await using running = await start(store);
  running.push({ kind: 'upsert', object: POD }, { kind: 'upsert', object: SERVICE }, synced);
  await running.publisher.ready;
  running.push({ kind: 'delete', object: POD });
  await until(store, (found) => !found.includes('cilium/state/ip/v1/default/10.1.0.5'));
  const service = await store.get('cilium/state/services/v1/alpha/demo/web');
  const deadline = Date.now() + 5_000;
  let backends = decodeClusterService(service?.value ?? '', 'service').backends.size;
  while (backends > 0 && Date.now() < deadline) {
    const again = await store.get('cilium/state/services/v1/alpha/demo/web');
    backends = decodeClusterService(again?.value ?? '', 'service').backends.size;
  }
  t.equal(backends, 0);
  running.push({ kind: 'delete', object: SERVICE });
  await until(store, (found) => !found.some((key) => key.includes('/demo/web')));
});

test('a restart sweeps what has gone meanwhile, and never passes through empty', async (t) => {
  const store = createMemoryStore();
  {
    await using running = await start(store);
    running.push({ kind: 'upsert', object: NODE }, { kind: 'upsert', object: POD }, synced);
    await running.publisher.ready;
  }
  t.ok(
    (await keys(store)).includes('cilium/state/nodes/v1/alpha/n1'),
    'keys stay when the publisher ends',
  );
  const deleted: string[] = [];
  const watching = new AbortController();
  const watched = (async () => {
    for await (const event of store
      .connect()
      .watch({ prefix: 'cilium/' }, { signal: watching.signal })) {
      if (event.kind === 'delete') deleted.push(event.key);
    }
  })();
  await using running = await start(store);
  running.push({ kind: 'upsert', object: POD });
  await until(store, (found) => found.includes('cilium/.heartbeat'));
  t.ok(
    (await keys(store)).includes('cilium/state/nodes/v1/alpha/n1'),
    'nothing goes before the source is complete',
  );
  running.push(synced);
  await running.publisher.ready;
  await until(store, (found) => !found.includes('cilium/state/nodes/v1/alpha/n1'));
  await until(store, () => deleted.length > 0);
  t.same(deleted, ['cilium/state/nodes/v1/alpha/n1'], 'only what is gone was deleted');
  watching.abort();
  await watched.catch(() => undefined);
});

test('a wiped etcd is filled again, with the same identities', async (t) => {
  const store = createMemoryStore();
  await using running = await start(store);
  running.push({ kind: 'upsert', object: NODE }, { kind: 'upsert', object: POD }, synced);
  await running.publisher.ready;
  // The lock is named after its lease, which is another one afterwards.
  const lasting = (key: string): boolean => !/heartbeat|stamp|publisher-lock/.test(key);
  const before = (await keys(store)).filter(lasting);
  store.faults.wipe();
  const after = await until(store, (found) => before.every((key) => found.includes(key)));
  t.same(after.filter(lasting), before);
});

test('an etcd that is away for a while gets what changed meanwhile', async (t) => {
  const store = createMemoryStore();
  await using running = await start(store);
  running.push(synced);
  await running.publisher.ready;
  store.faults.disconnect();
  running.push({ kind: 'upsert', object: NODE });
  store.faults.reconnect();
  await until(store, (found) => found.includes('cilium/state/nodes/v1/alpha/n1'));
  t.equal(running.publisher.status.pending, 0);
});
