import { test } from 'tap';
import { publishCluster } from '../../mesh/remote/testing/published-cluster.ts';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { decodePeerReport } from '../../mesh/wire/peer-report.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, dataKeys, openBetaRig, untilReady } from './testing/beta-rig.ts';
import { mirrored, openMirrorRig } from './testing/mirror-rig.ts';

const skip = etcdSkipReason(process.env);

test('a peer that leaves: configuration, grace, markers, data; it may come back at any time', {
  skip,
}, async (t) => {
  const { rig, side } = await openBetaRig(t);
  const running = await rig.start({ removalGraceMs: 700 });
  await untilReady(running);
  const whole = await mirrored(rig.local.store, 'beta');

  await rig.unconfigure('beta');
  const configured = async (): Promise<boolean> =>
    (await rig.local.store.get('cilium/cluster-config/beta')) !== undefined;
  await eventually('the configuration to go', async () => !(await configured()));
  t.equal((await mirrored(rig.local.store, 'beta')).size, whole.size - 1, 'all else stays for now');
  await rig.configure('beta', side.server.endpoint);
  await eventually('the configuration to be back', configured);
  t.same(await mirrored(rig.local.store, 'beta'), whole);
  await eventually('all is told again', () => running.mesh.peers[0]?.source.state.kind === 'ready');
  t.same(await mirrored(rig.local.store, 'beta'), whole);

  const removed: string[] = [];
  const ending = new AbortController();
  const watching = (async () => {
    for await (const event of rig.local.store.watch(
      { prefix: 'cilium/' },
      { signal: ending.signal },
    )) {
      const [, area = ''] = 'key' in event ? event.key.split('/') : [];
      if (event.kind === 'delete' && removed.at(-1) !== area) removed.push(area);
    }
  })();
  await rig.unconfigure('beta');
  await eventually(
    'everything to go',
    async () => (await mirrored(rig.local.store, 'beta')).size === 0,
  );
  await eventually(
    'the report to go',
    async () => (await rig.local.store.get('isthmus/mesh/peer/beta')) === undefined,
  );
  t.same(removed, ['cluster-config', 'synced', 'cache'], "in Cilium's order");
  ending.abort();
  await watching;

  await rig.configure('beta', side.server.endpoint);
  await eventually(
    'everything to be back',
    async () => (await mirrored(rig.local.store, 'beta')).size === whole.size,
  );
  t.same(await mirrored(rig.local.store, 'beta'), whole);
});

test('a peer that left while no mirror ran is removed; what is not cached is left alone', {
  skip,
}, async (t) => {
  const rig = await openMirrorRig(t);
  const { store } = rig.local;
  const cached = '{"id":7,"capabilities":{"syncedCanaries":true,"cached":true}}';
  await store.put('cilium/cluster-config/old', cached);
  await store.put('cilium/synced/old/cilium/cache/nodes/v1', '');
  await store.put('cilium/cache/nodes/v1/old/n1', 'x');
  await store.put('cilium/cache/nodes/v1/half/n1', 'x');
  await store.put('cilium/synced/half/cilium/cache/nodes/v1', '');
  await store.put('cilium/cluster-config/local', cached);
  await store.put('cilium/cluster-config/other', '{"id":8,"capabilities":{"syncedCanaries":true}}');
  await store.put('cilium/synced/local/cilium/state/nodes/v1', '');
  await rig.start({ removalGraceMs: 50 });
  await eventually(
    'old and half to go',
    async () => (await mirrored(store, 'old')).size + (await mirrored(store, 'half')).size === 0,
  );
  t.equal((await mirrored(store, 'local')).size, 2);
  t.equal((await mirrored(store, 'other')).size, 1);
});

test('a hostile, a broken and a refused peer harm no other', { skip }, async (t) => {
  const { rig, beta } = await openBetaRig(t);
  const evil = await rig.openSource();
  const gamma = publishCluster('gamma', 3, evil.store);
  await gamma.config();
  await gamma.node('n1', '192.0.2.30');
  await gamma.identity(300, { app: 'web' });
  await gamma.ip('10.3.0.1', { host: '192.0.2.30', local: 300 });
  const prefix = 'cilium/state/';
  const hostile: readonly [string, string][] = [
    [`${prefix}nodes/v1/gamma/n2`, '{"Name":"n2","Cluster":"beta","ClusterID":2}'],
    [`${prefix}nodes/v1/gamma/../../../beta/n1`, '{}'],
    [
      `${prefix}ip/v1/default/10.3.0.2`,
      '{"IP":"10.2.0.1","Mask":null,"HostIP":"","ID":65793,"Key":0,"Metadata":""}',
    ],
    [
      `${prefix}ip/v1/default/10.3.0.3`,
      '{"IP":"10.3.0.3","Mask":null,"HostIP":"","ID":131372,"Key":0,"Metadata":""}',
    ],
    [`${prefix}identities/v1/id/131372`, 'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=beta;'],
    [
      `${prefix}services/v1/gamma/demo/web`,
      '{"cluster":"beta","namespace":"demo","name":"web","shared":true,"clusterID":2}',
    ],
    [`${prefix}nodes/v1/beta/n9`, '{"Name":"n9","Cluster":"beta","ClusterID":2}'],
  ];
  for (const [key, value] of hostile) await evil.store.put(key, value);
  await gamma.marked();
  const impostor = await rig.openSource();
  await publishCluster('delta', 2, impostor.store).config();
  await rig.configure('gamma', evil.server.endpoint);
  await rig.configure('epsilon', 'http://127.0.0.1:1');
  const running = await rig.start({ perClusterReadyTimeoutMs: 1000 });
  await untilReady(running);
  await rig.configure('delta', impostor.server.endpoint);

  t.same(
    [...(await mirrored(rig.local.store, 'gamma')).keys()]
      .filter((key) => key.includes('/cache/'))
      .filter((key) => !key.includes('synced')),
    [
      'cilium/cache/identities/v1/gamma/id/196908',
      'cilium/cache/ip/v1/gamma/10.3.0.1',
      'cilium/cache/nodes/v1/gamma/n1',
    ],
    'what is refused is not mirrored, and no key is of another peer',
  );
  t.equal((await dataKeys(rig)).length, ADDRESSES + 3);
  await eventually('delta to be refused', () =>
    running.mesh.peers.some(
      ({ source }) => source.name === 'delta' && source.state.kind === 'failed',
    ),
  );
  t.equal((await mirrored(rig.local.store, 'delta')).size, 0);
  await beta.ip('10.2.5.5', { host: '192.0.2.1', local: 300 });
  await eventually('beta to go on', async () => (await dataKeys(rig)).length === ADDRESSES + 4);

  const report = async (peer: string) => {
    const key = `isthmus/mesh/peer/${peer}`;
    const pair = await rig.local.store.get(key);
    return pair === undefined ? undefined : decodePeerReport(pair.value, key);
  };
  await eventually('all reports', async () => (await report('delta'))?.state === 'failed');
  t.equal((await report('beta'))?.state, 'ready');
  t.equal((await report('gamma'))?.state, 'ready');
  t.equal((await report('epsilon'))?.state, 'failed');
  t.match((await report('delta'))?.reason, /id 2/);
  const described = JSON.parse(JSON.stringify(running.mesh.describePeers()));
  t.match(described, [
    { name: 'beta', ready: true, 'num-endpoints': ADDRESSES + 1, synced: { endpoints: true } },
    { name: 'delta', ready: false, connected: false, config: { retrieved: false } },
    { name: 'epsilon', ready: false },
    { name: 'gamma', ready: true, 'num-nodes': 1, config: { 'cluster-id': 3 } },
  ]);
});
