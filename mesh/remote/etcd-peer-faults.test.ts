import { writeFile } from 'node:fs/promises';
import { createServer, connect as dial } from 'node:net';
import { type Test, test } from 'tap';
import { openEtcd } from '../kvstore/etcd.ts';
import type { KvStore } from '../kvstore/kvstore.ts';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import { type EtcdServer, etcdSkipReason, openEtcdServer } from '../testing/etcd-server.ts';
import { openFaultyProxy } from '../testing/faulty-proxy.ts';
import { openTempDir } from '../testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { createClusterIds } from './cluster-ids.ts';
import { connectionReader } from './connection.ts';
import type { ResolveHost } from './endpoint-names.ts';
import { createPeer, type Peer } from './peer.ts';
import { type PublishedCluster, publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink, type RecordingSink } from './testing/recording-sink.ts';
import { until } from './testing/until.ts';

const skip = etcdSkipReason(process.env);
/** A twenty-fifth of the defaults. */
const TIMES = { staleAfterMs: 1200, settleMs: 200 };
const BETA = parseClusterName('beta');

interface Rig {
  readonly peer: Peer;
  readonly sink: RecordingSink;
  connect(...endpoints: string[]): Promise<void>;
}

/** Peer beta of alpha over real files and connections, impatient. */
async function startPeer(t: Test, options: { resolve?: ResolveHost } = {}): Promise<Rig> {
  const dir = await openTempDir('faults');
  const sink = createRecordingSink();
  const stopping = new AbortController();
  const peer = createPeer(BETA, {
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    nodeIps: [],
    sink,
    ids: createClusterIds({ id: 1, name: parseClusterName('alpha') }),
    onIdentified: () => undefined,
    ...TIMES,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const running = peer.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
    await dir[Symbol.asyncDispose]();
  });
  const read = connectionReader({ clock: systemClock, progressIntervalMs: 400, ...options });
  const connect = async (...endpoints: string[]): Promise<void> => {
    await writeFile(
      dir.file('beta'),
      ['endpoints:', ...endpoints.map((url) => `- ${url}`)].join('\n'),
    );
    peer.connectWith(await read(dir.file('beta')));
  };
  return { peer, sink, connect };
}

async function publish(store: KvStore, nodes = 1): Promise<PublishedCluster<KvStore>> {
  const beta = publishCluster('beta', 2, store);
  await beta.config();
  for (let node = 1; node <= nodes; node += 1) await beta.node(`n${node}`, `198.51.100.${node}`);
  await beta.identity(257, { app: 'web' });
  await beta.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
  await beta.service('web', { '10.2.0.5': 8080 });
  await beta.marked();
  return beta;
}

const writerOf = (etcd: EtcdServer): Promise<KvStore> => openEtcd({ endpoints: [etcd.endpoint] });
const stateOf = ({ peer }: Rig): string => peer.status().state.kind;
const ready = (rig: Rig): Promise<void> => until('ready', () => stateOf(rig) === 'ready', 20_000);
const stale = (rig: Rig): Promise<void> => until('stale', () => stateOf(rig) === 'stale', 20_000);
const taken = ({ sink }: Rig): string[] => sink.log.filter((line) => line.startsWith('-'));

/** States that a peer goes through until the returned function is called. */
function watchStates(rig: Rig): () => Promise<string[]> {
  const ending = new AbortController();
  const states: string[] = [];
  const watching = (async () => {
    while (!ending.signal.aborted) {
      if (states.at(-1) !== stateOf(rig)) states.push(stateOf(rig));
      await systemClock.sleep(5, ending.signal).catch(() => undefined);
    }
  })();
  return async () => {
    ending.abort();
    await watching;
    return states;
  };
}

test('what a network does to one peer: cut, half-closed, slow, stalled', { skip }, async (t) => {
  await using etcd = await openEtcdServer();
  await using store = await writerOf(etcd);
  const beta = await publish(store);
  await using proxy = await openFaultyProxy({ targetPort: etcd.port });
  const rig = await startPeer(t);
  await rig.connect(`http://127.0.0.1:${proxy.port}`);
  await ready(rig);
  let number = 1;
  const news = async (): Promise<void> => {
    number += 1;
    await beta.node(`n${number}`, `198.51.100.${number}`);
    await until('news come', () => rig.sink.held.has(`node n${number}`), 20_000);
  };

  await t.test('connections that are reset, again and again, change nothing', async (st) => {
    const states = watchStates(rig);
    for (let round = 0; round < 3; round += 1) {
      proxy.cut();
      await news();
    }
    st.same(await states(), ['ready']);
  });

  await t.test('an end in order is an end like any other', async (st) => {
    const states = watchStates(rig);
    proxy.halfClose();
    await news();
    st.same(await states(), ['ready']);
  });

  await t.test('a slow network is no silence', async (st) => {
    proxy.setFaults({ delayMs: 200, bytesPerSecond: 20_000 });
    const states = watchStates(rig);
    await news();
    await systemClock.sleep(1.5 * TIMES.staleAfterMs);
    st.same(await states(), ['ready']);
    proxy.setFaults({});
  });

  await t.test('a stalled one is, and comes back when it has lasted', async (st) => {
    proxy.setFaults({ stalled: true });
    const states = watchStates(rig);
    await stale(rig);
    st.match(rig.peer.status().state, { reason: /does not answer|has not answered/ });
    proxy.setFaults({});
    await ready(rig);
    await news();
    st.same(await states(), ['ready', 'stale', 'ready']);
  });

  t.same(taken(rig), [], 'nothing was ever taken away');
});

test('etcd stopped, compacted, wiped: nothing goes that is still there (promise 2)', {
  skip,
}, async (t) => {
  await using etcd = await openEtcdServer();
  await using store = await writerOf(etcd);
  const beta = await publish(store, 3);
  const rig = await startPeer(t);
  await rig.connect(etcd.endpoint);
  await ready(rig);

  await t.test(
    'compacted while it was away: what went meanwhile goes, and nothing else',
    async (st) => {
      await using proxy = await openFaultyProxy({ targetPort: etcd.port });
      await rig.connect(`http://127.0.0.1:${proxy.port}`);
      await until('it goes through the proxy', () => proxy.connections > 0);
      await ready(rig);
      const count = rig.sink.log.length;
      proxy.setFaults({ refuse: true });
      proxy.cut();
      await beta.removeNode('n3');
      await beta.node('n4', '198.51.100.4');
      await etcd.compact();
      proxy.setFaults({});
      await until('the new one is there', () => rig.sink.held.has('node n4'), 20_000);
      await until('the old one is gone', () => !rig.sink.held.has('node n3'));
      st.same(
        rig.sink.log.slice(count).filter((line) => line.startsWith('-')),
        ['-node n3'],
      );
      await rig.connect(etcd.endpoint);
      await until('it goes without the proxy', () => proxy.connections === 0, 20_000);
      await ready(rig);
    },
  );

  await t.test('a server that is stopped is stale, and the same afterwards', async (st) => {
    const count = rig.sink.log.length;
    etcd.pause();
    await stale(rig);
    etcd.resume();
    await ready(rig);
    st.same(
      rig.sink.log.slice(count).filter((line) => line.startsWith('-')),
      [],
    );
  });

  for (const [name, sameToken] of [
    ['another cluster id', false],
    ['the same cluster id at a lower revision', true],
  ] as const) {
    await t.test(
      `an empty etcd of ${name}: everything stays until its markers are there`,
      async (st) => {
        const held = [...rig.sink.held.keys()].sort();
        const count = rig.sink.log.length;
        await etcd.wipe({ sameToken });
        await until('it is noticed', () => stateOf(rig) !== 'ready', 20_000);
        await beta.config();
        await until(
          'it is read anew',
          () => JSON.stringify(rig.peer.status().state).includes('outstanding'),
          20_000,
        );
        st.same([...rig.sink.held.keys()].sort(), held);
        await beta.node('n1', '198.51.100.1');
        await beta.identity(257, { app: 'web' });
        await beta.ip('10.2.0.5', { host: '198.51.100.1', local: 257 });
        await beta.service('web', { '10.2.0.5': 8080 });
        await beta.marked();
        await ready(rig);
        const gone = held.filter((key) => !rig.sink.held.has(key)).map((key) => `-${key}`);
        st.same(
          rig.sink.log
            .slice(count)
            .filter((line) => line.startsWith('-'))
            .sort(),
          gone,
          'only what is gone for good',
        );
      },
    );
  }
});

test('several endpoints: whichever is there is used', { skip }, async (t) => {
  await using etcd = await openEtcdServer();
  await using store = await writerOf(etcd);
  const beta = await publish(store);
  await using first = await openFaultyProxy({ targetPort: etcd.port });
  await using second = await openFaultyProxy({ targetPort: etcd.port, faults: { refuse: true } });
  const rig = await startPeer(t);
  await rig.connect(`http://127.0.0.1:${first.port}`, `http://127.0.0.1:${second.port}`);
  await ready(rig);
  for (const [from, to] of [
    [first, second],
    [second, first],
  ] as const) {
    const states = watchStates(rig);
    to.setFaults({});
    from.setFaults({ refuse: true });
    from.cut();
    await until('the other is used', () => to.connections > 0, 20_000);
    await beta.node(`via${to.port}`, '198.51.100.9');
    await until('news come', () => rig.sink.held.has(`node via${to.port}`), 20_000);
    t.same(await states(), ['ready']);
  }
  t.same(taken(rig), []);
});

test('two replicas with an etcd each: the other one is read from its markers on, without a gap', {
  skip,
}, async (t) => {
  await using one = await openEtcdServer();
  await using two = await openEtcdServer();
  await using storeOne = await writerOf(one);
  await using storeTwo = await writerOf(two);
  await publish(storeOne);
  const other = await publish(storeTwo);
  const rig = await startPeer(t);
  await using proxy = await openFaultyProxy({ targetPort: one.port });
  await rig.connect(`http://127.0.0.1:${proxy.port}`);
  await ready(rig);
  await rig.connect(`http://127.0.0.1:${proxy.port}`, two.endpoint);
  await other.node('only-two', '198.51.100.7');
  proxy.setFaults({ refuse: true });
  proxy.cut();
  await until('the other is read', () => rig.sink.held.has('node only-two'), 20_000);
  await ready(rig);
  t.same(taken(rig), []);
});

test('a name that leads to another address is followed (promise 19)', { skip }, async (t) => {
  await using etcd = await openEtcdServer();
  await using store = await writerOf(etcd);
  await publish(store);
  await using old = await openFaultyProxy({ targetPort: etcd.port });
  let address = '127.0.0.1';
  const asked: string[] = [];
  const rig = await startPeer(t, {
    resolve: async (host) => {
      asked.push(host);
      return [address];
    },
  });
  await rig.connect(`http://beta.mesh.example:${old.port}`);
  await ready(rig);
  t.ok(old.connections > 0);
  // The same port of another address leads to the same etcd.
  const sockets = new Set<{ destroy(): void }>();
  const relay = createServer((socket) => {
    const upstream = dial(etcd.port, '127.0.0.1');
    for (const end of [socket, upstream]) {
      sockets.add(end);
      end.on('error', () => undefined);
    }
    socket.pipe(upstream).pipe(socket);
  });
  await new Promise<void>((resolve) => relay.listen(old.port, '127.0.0.2', resolve));
  t.teardown(
    () =>
      new Promise<void>((resolve) => {
        relay.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  );
  address = '127.0.0.2';
  old.setFaults({ refuse: true });
  old.cut();
  await until('the new address is used', () => sockets.size > 0, 20_000);
  await ready(rig);
  t.ok(asked.length >= 2);
  t.same(taken(rig), []);
});
