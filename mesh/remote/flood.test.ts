/** A peer that floods slows only itself: 100,000 changes a second, or values of 1 MiB, beside a peer that is as others are. */
import { type Test, test } from 'tap';
import { openEtcd } from '../kvstore/etcd.ts';
import { createMemoryStore } from '../kvstore/memory.ts';
import { systemClock } from '../runtime/clock.ts';
import { createLogger } from '../runtime/log.ts';
import {
  HOSTILE_HEADER,
  type HostileWatch,
  openHostileEtcd,
  wirePair,
} from '../testing/hostile-etcd.ts';
import { encodeClusterConfig } from '../wire/cluster-config.ts';
import { parseClusterId, parseClusterName } from '../wire/ids.ts';
import { clusterConfigKey, nodesPrefix } from '../wire/keys.ts';
import { createAnnounced } from './announced.ts';
import { createClusterIds } from './cluster-ids.ts';
import { createIntake } from './intake.ts';
import { createPeer, type PeerContextInput } from './peer.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink } from './testing/recording-sink.ts';
import { until } from './testing/until.ts';

const FLOOD = parseClusterName('flood');
const own = { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 as const };
const config = encodeClusterConfig({
  id: 3,
  capabilities: {
    syncedCanaries: false,
    cached: false,
    maxConnectedClusters: 255,
    serviceExportsEnabled: undefined,
    endpointSlicesExportMode: undefined,
  },
});

/** Medians of the time from a write of a normal peer to its use, with a beat of 10 ms. */
async function measure(
  rig: Awaited<ReturnType<typeof openNormal>>,
  count: number,
): Promise<number> {
  const lags: number[] = [];
  for (let index = 0; index < count; index += 1) {
    await systemClock.sleep(10);
    const name = `node m${index % 7}-${rig.round()}`;
    const began = performance.now();
    await rig.beta.node(name.slice(5), '198.51.100.9');
    while (!rig.sink.held.has(name)) await systemClock.sleep(0);
    lags.push(performance.now() - began);
  }
  return lags.sort((a, b) => a - b)[count >> 1] ?? 0;
}

async function openNormal(t: Test) {
  const shared: Omit<PeerContextInput, 'sink'> = {
    own,
    nodeIps: [],
    ids: createClusterIds(own),
    onIdentified: () => undefined,
    announced: createAnnounced({ own: own.name, mode: 'learn' }),
    intake: createIntake(),
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  };
  const beta = publishCluster('beta', 2, createMemoryStore());
  await beta.config();
  await beta.marked();
  const sink = createRecordingSink();
  const peer = createPeer(beta.name, { ...shared, sink });
  peer.connectWith({
    fingerprint: '1',
    endpoints: ['http://beta'],
    open: async () => beta.store.connect(),
  });
  const stopping = new AbortController();
  const running = peer.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  await until('beta is ready', () => peer.status().state.kind === 'ready');
  let round = 0;
  return {
    beta,
    sink,
    shared,
    round: () => {
      round += 1;
      return round;
    },
  };
}

const floods: readonly [
  name: string,
  flood: (stream: HostileWatch) => Promise<void>,
  isSeen: 'coalesced' | 'refused',
][] = [
  [
    '100,000 changes a second',
    async (stream) => {
      for (let revision = 11; !stream.signal.aborted; revision += 1) {
        const events = Array.from({ length: 1000 }, (_, index) => ({
          type: 'PUT',
          kv: wirePair(`${nodesPrefix(FLOOD)}n${index % 50}`, { value: '{}', revision }),
        }));
        if (!stream.write({ header: { ...HOSTILE_HEADER, revision: String(revision) }, events }))
          await stream.drained();
        await systemClock.sleep(10);
      }
    },
    'coalesced',
  ],
  [
    'values of 1 MiB',
    async (stream) => {
      const value = Buffer.alloc(1024 * 1024, 'x');
      for (let revision = 11; !stream.signal.aborted; revision += 1) {
        const events = [
          {
            type: 'PUT',
            kv: wirePair(`${nodesPrefix(FLOOD)}n${revision % 50}`, { value, revision }),
          },
        ];
        if (!stream.write({ header: { ...HOSTILE_HEADER, revision: String(revision) }, events }))
          await stream.drained();
        await systemClock.sleep(10);
      }
    },
    'refused',
  ],
];

for (const [name, flood, isSeen] of floods) {
  test(`${name} of one peer leave the lag of another nearly as it was`, async (t) => {
    const rig = await openNormal(t);
    const before = await measure(rig, 40);
    await using server = await openHostileEtcd({
      range: ({ key, count_only: isCount }) => {
        const isConfig = key.toString() === clusterConfigKey(FLOOD);
        const kvs = isConfig && !isCount ? [wirePair(key.toString(), { value: config })] : [];
        return { header: HOSTILE_HEADER, kvs, more: false, count: String(kvs.length) };
      },
      async watch(stream) {
        if (stream.key === nodesPrefix(FLOOD)) return flood(stream);
        await new Promise((resolve) =>
          stream.signal.addEventListener('abort', resolve, { once: true }),
        );
      },
    });
    const sink = createRecordingSink();
    const peer = createPeer(FLOOD, { ...rig.shared, sink });
    peer.connectWith({
      fingerprint: '1',
      endpoints: [server.endpoint],
      open: () => openEtcd({ endpoints: [server.endpoint] }),
    });
    const stopping = new AbortController();
    const running = peer.run(stopping.signal);
    await until('it floods', () => peer.status().refused.last !== undefined);
    const during = await measure(rig, 60);
    const { intake, refused } = peer.status();
    t.comment(
      `median without ${before.toFixed(1)} ms, with ${during.toFixed(1)} ms; coalesced ${intake.coalesced}, paused ${intake.paused}, refused ${JSON.stringify(refused.total)}`,
    );
    t.ok(during < before + 100, 'a few turns at most');
    if (isSeen === 'coalesced') t.ok(intake.coalesced > 1000, 'most of it is never looked at');
    else t.ok((refused.total['value-too-large'] ?? 0) > 10, 'each is refused by its size alone');
    stopping.abort();
    await running;
  });
}
