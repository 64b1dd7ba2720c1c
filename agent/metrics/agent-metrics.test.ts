import { setTimeout as wait } from 'node:timers/promises';
import { test } from 'tap';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { publishCluster } from '../../mesh/remote/testing/published-cluster.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { createMetrics } from '../../mesh/runtime/metrics.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { parseScrape } from '../../mesh/testing/scrape-text.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { ipKey, MESH_STAMP_KEY } from '../../mesh/wire/keys.ts';
import { encodeMeshStamp } from '../../mesh/wire/stamp.ts';
import { openNodeRig } from '../testing/node-rig.ts';
import { publishAlpha, publishBeta } from '../testing/two-clusters.ts';
import { addAgentMetrics } from './agent-metrics.ts';

/** An agent with metrics on a port of its own. */
async function openRig(t: Parameters<typeof openNodeRig>[0]) {
  const port = await findFreePort();
  const rig = await openNodeRig(t, { metricsAddress: { host: '127.0.0.1', port } });
  const get = async (path: string) => {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: answer.status, text: await answer.text() };
  };
  return { rig, get, scrape: async () => parseScrape((await get('/metrics')).text) };
}

/** Publishes an address as our apiserver does, with a stamp in the same transaction; its clock is `aheadMs` ahead. */
async function publishStamped(store: KvStore, ip: string, aheadMs: number): Promise<void> {
  const template = await store.get(ipKey(parseIpAddress('10.2.0.5')));
  if (template === undefined) throw new Error('the address to copy is published before');
  await store.transact({
    compare: [],
    then: [
      {
        kind: 'put',
        key: ipKey(parseIpAddress(ip)),
        value: template.value.toString().replaceAll('10.2.0.5', ip),
      },
      { kind: 'put', key: MESH_STAMP_KEY, value: encodeMeshStamp({ at: Date.now() + aheadMs }) },
    ],
  });
}

test('what an agent knows is scraped, with the names of Cilium where it has them', async (t) => {
  const { rig, scrape } = await openRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  rig.datapath.counterRows = [
    { reason: 'policy-denied', direction: 'ingress', packets: 3n, bytes: 180n },
  ];
  await rig.start();
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  await rig.ready('alpha');
  await rig.ready('beta');
  const metrics = await scrape();
  const beta = { target_cluster: 'beta' };
  const expected: readonly [string, Record<string, string>, number][] = [
    ['cilium_clustermesh_remote_clusters', {}, 1],
    ['cilium_clustermesh_remote_cluster_readiness_status', beta, 1],
    ['cilium_clustermesh_remote_cluster_failures', beta, 0],
    ['cilium_clustermesh_remote_cluster_last_failure_ts', beta, 0],
    ['cilium_clustermesh_remote_cluster_nodes', beta, 1],
    ['cilium_clustermesh_remote_cluster_services', beta, 1],
    ['cilium_clustermesh_remote_cluster_endpoints', beta, 1],
    [
      'cilium_kvstore_initial_sync_completed',
      { scope: 'ip/v1', source_cluster: 'beta', action: 'read' },
      1,
    ],
    ['isthmus_ready', {}, 1],
    ['isthmus_peer_state', { ...beta, state: 'ready' }, 1],
    ['isthmus_peer_entries', { ...beta, kind: 'identities' }, 1],
    ['isthmus_propagation_lag_known', beta, 0],
    ['isthmus_table_rows', { table: 'endpoints' }, 1],
    ['isthmus_table_failed', { table: 'ipcache' }, 0],
    ['isthmus_endpoints', {}, 1],
    ['isthmus_services', { scope: 'global' }, 1],
    ['isthmus_identities', {}, 3],
    ['isthmus_datapath_packets_total', { reason: 'policy-denied', direction: 'ingress' }, 3],
    ['isthmus_datapath_bytes_total', { reason: 'policy-denied', direction: 'ingress' }, 180],
    ['cilium_drop_count_total', { reason: 'Policy denied', direction: 'INGRESS' }, 3],
    ['cilium_forward_count_total', { direction: 'EGRESS' }, 0],
    ['isthmus_monitor_listeners', {}, 0],
    ['isthmus_map_max_entries', { map: 'mesh_ipcache4' }, 1000],
    ['isthmus_scrape_errors_total', {}, 0],
  ];
  for (const [name, labels, value] of expected) {
    t.equal(metrics.value(name, labels), value, `${name} ${JSON.stringify(labels)}`);
  }
  t.ok((metrics.value('process_resident_memory_bytes') ?? 0) > 0);
  await rig.removePeer('beta');
  await until(
    'no series of a peer that left remains',
    async () => !(await scrape()).samples.some(({ labels }) => labels.target_cluster === 'beta'),
  );
});

test('a lag shows up in metrics and status, and so does a wrong clock', async (t) => {
  const { rig, scrape } = await openRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  const beta = await publishBeta();
  // It has stamped something before: that its stamps are old is no lag.
  await publishStamped(beta.store, '10.2.1.1', -3_600_000);
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('its stamps are followed', async () => {
    const { clusters } = await rig.status();
    return /too few/.test(JSON.stringify(clusters.find(({ name }) => name === 'beta')?.lag));
  });
  for (let count = 2; count < 12; count += 1) {
    await publishStamped(beta.store, `10.2.1.${count}`, 60_000);
    await until('it is in use', () => rig.datapath.ipcache.get(`10.2.1.${count}/32`) !== undefined);
  }
  const metrics = await scrape();
  const label = { target_cluster: 'beta', kind: 'ips' };
  t.equal(metrics.value('isthmus_propagation_lag_seconds_count', label), 10);
  const sum = metrics.value('isthmus_propagation_lag_seconds_sum', label) ?? Number.NaN;
  t.ok(sum > 0 && sum < 1, `${sum} s for ten changes, over a bus in memory`);
  t.equal(metrics.value('isthmus_propagation_lag_known', { target_cluster: 'beta' }), 1);
  const difference = metrics.value('isthmus_clock_difference_seconds', { target_cluster: 'beta' });
  t.ok(Math.abs((difference ?? Number.NaN) - 60) < 0.5, `${difference} s`);
  t.equal(metrics.value('isthmus_propagation_lag_known', { target_cluster: 'alpha' }), 0);
  const status = await rig.status();
  const lag = status.clusters.find(({ name }) => name === 'beta')?.lag;
  t.match(lag, { kind: 'measured', recent: { ips: { samples: 10 } } });
  t.match(
    status.clusters.find(({ own }) => own)?.lag,
    { kind: 'unknown', reason: /no stamps, as Cilium/ },
    'a cluster without stamps has an unknown lag',
  );
});

test('a kernel that is slow is lag, though the change arrived in time', async (t) => {
  const { rig, scrape } = await openRig(t);
  await rig.alpha.config();
  await rig.alpha.marked();
  const beta = await publishBeta();
  await publishStamped(beta.store, '10.2.1.1', 0);
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('beta');
  for (let count = 2; count < 6; count += 1) {
    await publishStamped(beta.store, `10.2.1.${count}`, 0);
    await until('it is in use', () => rig.datapath.ipcache.get(`10.2.1.${count}/32`) !== undefined);
  }
  const apply = rig.datapath.ipcache.apply;
  rig.datapath.ipcache.apply = function slowly(changes) {
    const end = performance.now() + 300;
    while (performance.now() < end);
    return apply.call(this, changes);
  };
  await publishStamped(beta.store, '10.2.1.77', 0);
  await until('it is in use', () => rig.datapath.ipcache.get('10.2.1.77/32') !== undefined);
  const late = async (): Promise<number | undefined> => {
    const lag = (await rig.status()).clusters.find(({ name }) => name === 'beta')?.lag;
    return lag?.kind === 'measured' ? lag.recent.ips?.maxMs : undefined;
  };
  await until('it was measured', async () => ((await late()) ?? 0) >= 300);
  const label = { target_cluster: 'beta', kind: 'ips' };
  const below = (await scrape()).value('isthmus_propagation_lag_seconds_bucket', {
    ...label,
    le: '0.25',
  });
  const all = (await scrape()).value('isthmus_propagation_lag_seconds_count', label);
  t.equal((all ?? 0) - (below ?? 0), 1, 'one change took longer than a quarter of a second');
});

test('promise 16: readiness is red for what the kernel does not hold, and green again', async (t) => {
  const { rig, get, scrape } = await openRig(t);
  await publishAlpha(rig.alpha);
  await rig.start();
  const red = await get('/readyz');
  t.equal(red.status, 503);
  t.match(
    red.text,
    /^not ready:\n- of the own cluster alpha not everything has been read: nodes, /,
  );
  await rig.alpha.marked();
  await until('it is ready', async () => (await get('/readyz')).status === 200);

  rig.datapath.ipcache.refuse = ({ prefix }) => prefix === '10.1.7.7/32';
  await rig.alpha.ip('10.1.7.7', { host: '192.0.2.2', local: 258 });
  await until('a row that the kernel refuses is red', async () =>
    /table ipcache: 1 rows cannot be written/.test((await get('/readyz')).text),
  );
  t.equal((await scrape()).value('isthmus_ready'), 0);
  rig.datapath.ipcache.refuse = undefined;
  await until('it is ready again', async () => (await get('/readyz')).status === 200);

  rig.datapath.detachedParts = ['nothing is attached to the tunnel device'];
  await until('a datapath that is not attached is red', async () =>
    /nothing is attached to the tunnel device/.test((await get('/readyz')).text),
  );
});

test('a peer counts until it was read once', async (t) => {
  const { rig, get } = await openRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  const beta = publishCluster('beta', 2);
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('alpha');
  await until('the peer is waited for', async () =>
    /peer beta has not been read yet/.test((await get('/readyz')).text),
  );
  await beta.config();
  await beta.marked();
  await until('it is ready', async () => (await get('/readyz')).status === 200);
  beta.store.faults.disconnect();
  await wait(100);
  t.equal((await get('/readyz')).status, 200, 'that it is away later is no fault of this node');
});

test('addresses that a cluster does not get are counted under its name, or its id', async (t) => {
  const metrics = createMetrics();
  const conflict = (prefix: string, refused: number[]) => ({
    prefix: parseIpPrefix(prefix),
    holder: 1,
    refused,
  });
  addAgentMetrics(metrics, {
    engine: {
      status: () => ({
        tables: [],
        endpoints: [],
        policies: [],
        policyPressure: { entries: 0, largest: 0, maxEntries: 0, maxEach: 0 },
        services: { local: 0, global: 0 },
        identities: 0,
        addressConflicts: [conflict('10.1.0.1/32', [2]), conflict('10.1.0.2/32', [2, 3])],
        serviceConflicts: ['demo/web'],
      }),
    },
    datapath: { counters: () => [], capacities: () => [] },
    monitor: {
      statistics: () => ({
        listeners: 0,
        read: { drop: 0, trace: 0, service: 0, 'policy-audit': 0 },
        undecodable: 0,
        lost: [],
      }),
    },
    readiness: { missing: () => ['something'] },
    audit: () => ({ at: undefined, durationMs: undefined, tables: [] }),
    registry: () => ({ text: 'refused', healthy: false }),
    clusterNames: () => new Map([[2, 'beta']]),
  });
  const scrape = parseScrape(await metrics.text());
  t.equal(scrape.value('isthmus_address_conflicts', { target_cluster: 'beta' }), 2);
  t.equal(scrape.value('isthmus_address_conflicts', { target_cluster: 'id 3' }), 1);
  t.equal(scrape.value('isthmus_service_conflicts'), 1);
  t.equal(scrape.value('isthmus_ready'), 0);
  t.equal(scrape.value('isthmus_registry_session_healthy'), 0);
  t.equal(scrape.value('isthmus_audit_finished_timestamp_seconds'), undefined);
});
