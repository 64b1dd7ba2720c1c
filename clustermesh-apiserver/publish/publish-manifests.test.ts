import { type Test, test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { openWatchLog } from '../../mesh/testing/watch-log.ts';
import {
  eventually,
  openEtcdUnderTest,
  openMemoryUnderTest,
  openPublishingRig,
  type StoreUnderTest,
} from '../testing/publishing-rig.ts';

const STORES: readonly {
  readonly kind: string;
  readonly skip: string | false;
  readonly open: (t: Test) => Promise<StoreUnderTest>;
}[] = [
  { kind: 'memory', skip: false, open: async () => openMemoryUnderTest() },
  { kind: 'etcd', skip: etcdSkipReason(process.env), open: openEtcdUnderTest },
];

const pod = (name: string, ip: string, app = 'web'): string => `apiVersion: v1
kind: Pod
metadata: {name: ${name}, namespace: demo, labels: {app: ${app}}}
spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}]}]}
status: {podIP: ${ip}, hostIP: 192.0.2.1}
`;
const NODE = `apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.1.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
`;
const SERVICE = `apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.96.3.5, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
`;
const POLICY = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: demo}
spec: {podSelector: {}}
`;
const WEB_IP = 'cilium/state/ip/v1/default/10.1.0.5';
const WEB_SERVICE = 'cilium/state/services/v1/alpha/demo/web';
const CANARIES = ['nodes', 'ip', 'identities', 'services', 'serviceexports'].map(
  (kind) => `cilium/synced/alpha/cilium/state/${kind}/v1`,
);

for (const { kind, skip, open } of STORES) {
  test(`publishManifests() on ${kind}: everything, its identity first, its markers last`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await using log = openWatchLog(rig.reader, { prefix: 'cilium/' });
    await log.until('the empty list', ({ of }) => of('synced').length > 0);
    await rig.write('all.yaml', [NODE, pod('web-0', '10.1.0.5'), SERVICE, POLICY].join('---\n'));
    const published = await rig.start();
    await published.ready;
    await log.until('markers', ({ held }) => CANARIES.every((key) => held.has(key)));

    const identity = [...log.held].find(([key]) =>
      key.startsWith('cilium/state/identities/v1/id/'),
    );
    t.match(identity?.[1], /^k8s:app=web;.*k8s:io\.cilium\.k8s\.policy\.cluster=alpha;/);
    const id = Number(identity?.[0].split('/').at(-1));
    t.ok(id >= 65_536 + 256 && id < 2 * 65_536, `${id} is a number of cluster 1`);
    t.equal(JSON.parse(log.held.get(WEB_IP) ?? '{}').ID, id);
    t.match(JSON.parse(log.held.get(WEB_SERVICE) ?? '{}'), {
      frontends: { '10.96.3.5': { http: { Protocol: 'TCP', Port: 80 } } },
      backends: { '10.1.0.5': { http: { Protocol: 'TCP', Port: 8080 } } },
    });
    t.match(JSON.parse(log.held.get('cilium/state/nodes/v1/alpha/n1') ?? '{}'), { ClusterID: 1 });
    t.match(JSON.parse(log.held.get('cilium/cluster-config/alpha') ?? '{}'), {
      id: 1,
      capabilities: { syncedCanaries: true, maxConnectedClusters: 255 },
    });
    t.match(log.held.get('cilium/.heartbeat'), /^\d{4}-\d\d-\d\dT/);

    const revision = (test: (key: string) => boolean): bigint[] =>
      log
        .of('put')
        .filter(({ pair }) => test(pair.key))
        .map(({ pair }) => pair.modRevision);
    const markers = revision((key) => CANARIES.includes(key));
    const data = revision((key) => key.startsWith('cilium/state/'));
    t.ok(
      data.every((one) => markers.every((marker) => marker > one)),
      'markers come after all data',
    );
    const [ofIdentity = 0n] = revision((key) => key.startsWith('cilium/state/identities/'));
    t.ok(revision((key) => key === WEB_IP).every((one) => one > ofIdentity));

    const local = await rig.read('isthmus/local/');
    t.same(
      [...local.keys()],
      [
        'isthmus/local/digest/isthmus/local/ip',
        'isthmus/local/policies/NetworkPolicy/demo/deny',
        'isthmus/local/services/demo/web',
      ],
    );
    const leases = (await rig.reader.list('cilium/state/')).pairs.map(({ key, lease }) => [
      key.includes('identities'),
      lease !== 0n,
    ]);
    t.ok(
      leases.every(([isIdentity, hasLease]) => isIdentity !== hasLease),
      'all but identities hang on the lease',
    );
  });

  test(`publishManifests() on ${kind}: changes and removals reach the store, one bad document harms no other`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await rig.write('pods.yaml', `${pod('web-0', '10.1.0.5')}---\n${pod('web-1', '10.1.0.6')}`);
    await rig.write('service.yaml', SERVICE);
    const published = await rig.start();
    await published.ready;
    const backends = async () =>
      Object.keys(
        JSON.parse((await rig.read('cilium/state/services/')).get(WEB_SERVICE) ?? '{}').backends ??
          {},
      );
    t.same(await backends(), ['10.1.0.5', '10.1.0.6']);
    await rig.write('pods.yaml', `${pod('web-0', 'nonsense')}---\n${pod('web-1', '10.1.0.7')}`);
    await eventually('the good change', async () => (await backends()).includes('10.1.0.7'));
    t.same(await backends(), ['10.1.0.5', '10.1.0.7'], 'the bad one is as it was');
    t.match(published.problems, [
      { where: 'pods.yaml document 1 (line 1)', message: /status\.podIP/ },
    ]);
    await rig.remove('pods.yaml');
    await eventually('no addresses', async () => (await rig.read('cilium/state/ip/')).size === 0);
    t.same(await backends(), [], 'the service stays, without backends');
    await rig.remove('service.yaml');
    await eventually(
      'no service',
      async () => (await rig.read('cilium/state/services/')).size === 0,
    );
    t.equal((await rig.read('isthmus/local/services/')).size, 0);
  });

  test(`publishManifests() on ${kind}: a restart deletes only what is gone, and never shows less than there is`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await rig.write('a.yaml', [NODE, pod('web-0', '10.1.0.5'), SERVICE].join('---\n'));
    await rig.write('b.yaml', pod('old', '10.1.0.9', 'old'));
    const first = await rig.start();
    await first.ready;
    await first[Symbol.asyncDispose]();
    const before = await rig.read('cilium/');
    t.ok(before.has('cilium/state/ip/v1/default/10.1.0.9'));
    await rig.remove('b.yaml');
    await rig.reader.put('cilium/state/nodes/v1/beta/foreign', 'not ours');

    await using log = openWatchLog(rig.reader, { prefix: 'cilium/' });
    await log.until('the list', ({ of }) => of('synced').length > 0);
    const second = await rig.start();
    await second.ready;
    await log.until('the pod gone', ({ held }) => !held.has('cilium/state/ip/v1/default/10.1.0.9'));
    t.same(
      log.of('delete').map(({ key }) => key),
      ['cilium/state/ip/v1/default/10.1.0.9'],
    );
    const after = await rig.read('cilium/');
    for (const [key, value] of before) {
      if (
        key === 'cilium/.heartbeat' ||
        key.startsWith('cilium/synced/') ||
        key.endsWith('10.1.0.9')
      )
        continue;
      t.equal(after.get(key), value, `${key} is the same, its identity too`);
    }
    t.equal(
      after.get('cilium/state/nodes/v1/beta/foreign'),
      'not ours',
      'keys of others are left alone',
    );
    const leases = new Set(
      (await rig.reader.list('cilium/state/ip/')).pairs.map(({ lease }) => lease),
    );
    t.same([...leases], [second.lease.id], 'everything hangs on the lease that was taken over');
  });

  test(`publishManifests() on ${kind}: a lost lease puts everything again, markers last`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await rig.write('a.yaml', [NODE, pod('web-0', '10.1.0.5'), SERVICE].join('---\n'));
    const published = await rig.start();
    await published.ready;
    const before = await rig.read('cilium/');
    await using log = openWatchLog(rig.reader, { prefix: 'cilium/' });
    await log.until('the list', ({ of }) => of('synced').length > 0);
    const shown = log.of('put').length;
    await rig.under.expireLease(published.lease);
    await log.until('the loss', ({ of }) => of('delete').some(({ key }) => key === WEB_IP));
    // A real lease is missed at the next keepalive, or at the next write: this one.
    await rig.write('b.yaml', pod('web-1', '10.1.0.6'));
    await log.until('everything', ({ held }) => [...before.keys()].every((key) => held.has(key)));
    for (const [key, value] of before) {
      if (!key.startsWith('cilium/.') && key !== WEB_SERVICE)
        t.equal(log.held.get(key), value, key);
    }
    const again = log
      .of('put')
      .slice(shown)
      .map(({ pair }) => pair);
    const last = again.filter(({ key }) => before.has(key) && key.startsWith('cilium/state/'));
    const markers = again.filter(({ key }) => CANARIES.includes(key));
    t.equal(markers.length, CANARIES.length);
    t.ok(last.every((one) => markers.every((marker) => marker.modRevision > one.modRevision)));
  });

  test(`publishManifests() on ${kind}: what changes while the store is away is there when it is back`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await rig.write('a.yaml', pod('web-0', '10.1.0.5'));
    const published = await rig.start();
    await published.ready;
    await rig.under.cut();
    await rig.write('b.yaml', pod('web-1', '10.1.0.6', 'other'));
    await rig.remove('a.yaml');
    await rig.under.mend();
    await eventually('web-1 alone', async () => {
      const keys = [...(await rig.read('cilium/state/ip/')).keys()];
      return keys.join() === 'cilium/state/ip/v1/default/10.1.0.6';
    });
    await eventually('nothing pending', () => published.publisher.status.pending === 0);
  });

  test(`publishManifests() on ${kind}: after the loss of all data everybody has the number from before`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    await rig.write('a.yaml', `${pod('web-0', '10.1.0.5')}---\n${pod('db-0', '10.1.0.6', 'db')}`);
    const published = await rig.start();
    await published.ready;
    const ids = await rig.read('cilium/state/identities/');
    t.equal(ids.size, 2);
    await rig.under.wipe();
    await eventually('everything', async () => {
      const now = await rig.read('cilium/state/');
      return [...ids].every(([key, value]) => now.get(key) === value) && now.has(WEB_IP);
    });
    await eventually(
      'markers',
      async () => (await rig.read('cilium/synced/alpha/')).size === CANARIES.length,
    );
    t.equal((await rig.read('isthmus/registry/identities/')).size, 2);
  });

  test(`publishManifests() on ${kind}: a foreign cluster configuration is overwritten`, {
    skip,
  }, async (t) => {
    const rig = await openPublishingRig(t, await open(t));
    const key = 'cilium/cluster-config/alpha';
    await rig.reader.put(key, '{"id":9,"capabilities":{}}');
    const published = await rig.start();
    await published.ready;
    const own = async () =>
      JSON.parse((await rig.reader.get(key))?.value.toString() ?? '{}').id === 1;
    await eventually('ours', own);
    await rig.reader.put(key, '{"id":7,"capabilities":{}}');
    await eventually('ours again', own);
    await rig.reader.delete(key);
    await eventually('ours after a deletion', own);
  });
}

test('publishManifests() writes the heartbeat, and deletes an identity after its grace time', async (t) => {
  const rig = await openPublishingRig(t, openMemoryUnderTest());
  const clock = createManualClock({ now: Date.parse('2026-01-01T00:00:00Z') });
  await rig.write('a.yaml', pod('web-0', '10.1.0.5'));
  const published = await rig.start({ clock, identityGraceMs: 90_000 });
  const settle = async (what: string, condition: () => Promise<boolean>): Promise<void> => {
    await eventually(what, async () => {
      await clock.advance(25);
      return condition();
    });
  };
  await settle('ready', async () => published.publisher.status.ready);
  const beat = async () => (await rig.reader.get('cilium/.heartbeat'))?.value.toString();
  t.match(await beat(), /^2026-01-01T00:00:/);
  await clock.advance(60_000);
  await settle(
    'the next beat',
    async () => (await beat())?.startsWith('2026-01-01T00:01:') === true,
  );
  await rig.remove('a.yaml');
  await settle('no address', async () => (await rig.read('cilium/state/ip/')).size === 0);
  await clock.advance(60_000);
  t.equal((await rig.read('cilium/state/identities/')).size, 1, 'it stays for its grace time');
  await clock.advance(150_000);
  await settle('no identity', async () => (await rig.read('cilium/state/identities/')).size === 0);
  t.equal((await rig.read('isthmus/registry/identities/')).size, 0);
});

test('publishManifests() leaves out a value that is too large, and publishes the rest', async (t) => {
  const rig = await openPublishingRig(t, openMemoryUnderTest({ maxValueBytes: 4000 }));
  const huge = SERVICE.replace('name: web,', `name: huge, labels: {x: ${'y'.repeat(5000)}},`);
  await rig.write('a.yaml', [pod('web-0', '10.1.0.5'), huge, SERVICE].join('---\n'));
  const published = await rig.start();
  await published.ready;
  t.same([...(await rig.read('cilium/state/services/')).keys()], [WEB_SERVICE]);
  t.same(Object.keys(published.publisher.status.refused), [
    'cilium/state/services/v1/alpha/demo/huge',
    'isthmus/local/services/demo/huge',
  ]);
  await rig.write(
    'a.yaml',
    [pod('web-0', '10.1.0.5'), SERVICE.replace('name: web,', 'name: huge,'), SERVICE].join('---\n'),
  );
  await eventually(
    'the smaller one',
    async () => (await rig.read('cilium/state/services/')).size === 2,
  );
  t.same(published.publisher.status.refused, {});
});

test('publishManifests() publishes 10,000 pods', {
  skip: etcdSkipReason(process.env),
}, async (t) => {
  const rig = await openPublishingRig(t, await openEtcdUnderTest(t));
  const pods: string[] = [];
  for (let index = 0; index < 10_000; index += 1) {
    pods.push(pod(`p${index}`, `10.1.${index >> 8}.${index & 255}`, `a${index % 100}`));
  }
  for (let file = 0; file < 100; file += 1) {
    await rig.write(`f${file}.yaml`, pods.slice(file * 100, file * 100 + 100).join('---\n'));
  }
  const began = performance.now();
  const published = await rig.start();
  await published.ready;
  const milliseconds = performance.now() - began;
  t.comment(`published in ${milliseconds.toFixed(0)} ms`);
  t.equal((await rig.read('cilium/state/ip/')).size, 10_000);
  t.equal((await rig.read('cilium/state/identities/')).size, 100);
  t.ok(milliseconds < 60_000, `${milliseconds} ms`);
});
