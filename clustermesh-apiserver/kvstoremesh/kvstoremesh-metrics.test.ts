import { test } from 'tap';
import { createKvStatistics } from '../../mesh/kvstore/measured-store.ts';
import { createClusterIds } from '../../mesh/remote/cluster-ids.ts';
import { MIRRORED_KINDS } from '../../mesh/remote/cluster-sink.ts';
import { createLagBook } from '../../mesh/remote/lag.ts';
import { createPeer, type PeerStatus } from '../../mesh/remote/peer.ts';
import { createRecordingSink } from '../../mesh/remote/testing/recording-sink.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseScrape } from '../../mesh/testing/scrape-text.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { addApiserverMetrics } from '../metrics.ts';
import type { Kvstoremesh } from './kvstoremesh.ts';
import { addKvstoremeshMetrics, addReadyMetrics } from './kvstoremesh-metrics.ts';

const clock = createManualClock({ now: 1_700_000_000_000 });

/** Status of a peer that is not connected yet. */
function statusOf(name: string): PeerStatus {
  const own = { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 } as const;
  return createPeer(parseClusterName(name), {
    own,
    nodeIps: [],
    sink: createRecordingSink(),
    peerKinds: MIRRORED_KINDS,
    ids: createClusterIds(own),
    onIdentified: () => undefined,
    clock,
    logger: createLogger('test', { level: 'silent' }),
  }).status();
}

/** A mirror of one peer. */
function mirrorOf(leader: Kvstoremesh['leader']): Kvstoremesh {
  return {
    run: async () => undefined,
    missing: [],
    leader,
    peers: [
      {
        source: statusOf('beta'),
        local: {
          keys: 9,
          pending: 4,
          written: 11,
          complete: ['nodes', 'ips'],
          refused: { 'cilium/cache/ip/v1/beta/10.2.0.1': 'too large' },
          lastError: undefined,
        } as Kvstoremesh['peers'][number]['local'],
      },
    ],
    describe: () => undefined,
    describePeers: () => [],
  };
}

test('a mirror tells of its peers at their source and in the local etcd', async (t) => {
  const metrics = createMetrics();
  addKvstoremeshMetrics(metrics, { mirror: () => mirrorOf('leading'), lag: createLagBook(clock) });
  let missing: string[] = ['peer beta is not in the local etcd yet'];
  addReadyMetrics(metrics, { missing: () => missing, clock });
  const red = parseScrape(await metrics.text());
  const prefix = 'cilium_kvstoremesh_';
  t.equal(red.value(`${prefix}remote_clusters`), 1);
  t.equal(red.value(`${prefix}remote_cluster_readiness_status`, { target_cluster: 'beta' }), 0);
  t.equal(red.value(`${prefix}kvstore_sync_queue_size`, { source_cluster: 'beta' }), 4);
  t.equal(red.value(`${prefix}leader_election_master_status`), 1);
  t.equal(red.value('isthmus_kvstoremesh_refused_keys', { source_cluster: 'beta' }), 1);
  const written = (scope: string) =>
    red.value(`${prefix}kvstore_initial_sync_completed`, { scope, action: 'write' });
  t.same([written('ip/v1'), written('services/v1')], [1, 0]);
  t.equal(red.value('isthmus_ready'), 0);
  t.equal(red.value(`${prefix}bootstrap_seconds`), undefined);
  missing = [];
  await clock.advance(2500);
  const green = parseScrape(await metrics.text());
  t.equal(green.value('isthmus_ready'), 1);
  t.equal(green.value(`${prefix}bootstrap_seconds`), 2.5);
});

test('an apiserver that mirrors has both sets of metrics, none of them twice', async (t) => {
  const metrics = createMetrics({ process: true });
  addApiserverMetrics(metrics, {
    cluster: 'alpha',
    maxConnectedClusters: 511,
    missing: () => [],
    published: () => undefined,
    queueTimes: () => undefined,
    manifestProblems: () => 2,
    gate: () => undefined,
    etcd: () => ({ kind: 'running', pid: 1 }),
    kvStatistics: createKvStatistics(),
    clock,
  });
  addKvstoremeshMetrics(metrics, { mirror: () => mirrorOf('standby'), lag: createLagBook(clock) });
  const scrape = parseScrape(await metrics.text());
  t.equal(scrape.value('isthmus_embedded_etcd_running'), 1);
  t.equal(scrape.value('isthmus_manifest_problems'), 2);
  t.equal(scrape.value('cilium_kvstoremesh_leader_election_master_status'), 0);
  t.throws(() => metrics.gauge('isthmus_ready', { help: 'again' }), /there is one of that name/);
});
