/**
 * Two apiservers as processes on one etcd, before a real API server: the one that leads is killed in the middle of writing slices
 * (issue C). The other takes over, no slice is doubled or lost, and identities are what they were.
 */
import { type Test, test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { openKubeFaultProxy } from '../peers/kube-faults.ts';
import { needKube } from '../peers/kube-programs.ts';
import { type OurApiserver, prepareOurApiserver } from '../peers/our-apiserver.ts';
import {
  addressesOf,
  backendsOf,
  type ControllersRig,
  openControllersRig,
  range,
} from './controllers-rig.ts';

const kube = needKube(process.env);
const MANIFESTS = 'clustermesh-apiserver/kubernetes/manifests';
const ROLES = ['rbac-any-cni.yaml', 'rbac-controllers.yaml'];
const NAMESPACE = 'isthmus-system';
const SERVICES = range(0, 20).map((number) => `web-${number}`);
const BACKENDS = 120;
/** A Lease that runs out soon, so that a test can wait for it. */
const SHORT_LEASE = [
  '--leader-election-lease-duration=5s',
  '--leader-election-renew-deadline=3s',
  '--leader-election-retry-period=500ms',
];

test('the leader is killed in the middle of its work', { skip: kube.skip, timeout: 180_000 }, (t) =>
  kill(t, { flags: SHORT_LEASE, boundMs: 10_000 }),
);

if (process.env.ISTHMUS_LONG === 'true') {
  test('the same with the times of a real cluster', { skip: kube.skip, timeout: 240_000 }, (t) =>
    kill(t, { flags: [], boundMs: 20_000 }),
  );
}

async function kill(
  t: Test,
  { flags, boundMs }: { flags: readonly string[]; boundMs: number },
): Promise<void> {
  const rig = await openControllersRig(t, { name: 'killed', programs: kube.programs });
  for (const file of ROLES) {
    await rig.cluster.kubectl(['apply', '-f', projectPath(`${MANIFESTS}/${file}`)]);
  }
  await writeCluster(rig);
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const proxy = await openKubeFaultProxy(rig.cluster.endpoint);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const user = await rig.cluster.addUser('clustermesh-apiserver', { namespace: NAMESPACE });
  proxy.setFault(({ method, path }) =>
    method === 'PATCH' && path.includes('/endpointslices/')
      ? { kind: 'slow', delayMs: 50 }
      : undefined,
  );
  const kubeconfig = await user.kubeconfigAt('proxied', proxy.endpoint);
  const launch = (source: string): Promise<OurApiserver> =>
    prepare(t, { rig, etcdEndpoint: etcd.endpoint, kubeconfig: source, flags });
  const first = await launch(kubeconfig);
  const second = await launch(user.kubeconfig);
  await first.start();
  await until('the first leads', async () => (await holder(rig)) !== '');
  await second.start();
  const identities = await identitiesOf(store);
  t.ok(identities.length > 0);

  const before = await holder(rig);
  await fillPeer(rig);
  await until('it has written something', () => proxy.count(/\/endpointslices\//, 'PATCH') >= 8);
  await first.kill();
  const killedAt = systemClock.monotonic();
  const left = (await sliceNames(rig)).length;
  t.ok(left < SERVICES.length * 2, `${left} slices of ${SERVICES.length * 2} are there`);
  await until('another leads', async () => (await holder(rig)) !== before, boundMs + 5_000);
  const tookMs = systemClock.monotonic() - killedAt;
  t.ok(tookMs < boundMs, `it took over after ${Math.round(tookMs)} ms`);
  await until('all is there', async () => (await sliceNames(rig)).length >= SERVICES.length * 2);
  for (const [index, name] of SERVICES.entries()) {
    t.same(addressesOf(await rig.slices(name)), addressesFor(index), name);
  }
  t.equal((await sliceNames(rig)).length, SERVICES.length * 2);
  t.same(await identitiesOf(store), identities);
}

/** A pod, and headless global Services. */
async function writeCluster({ cluster }: ControllersRig): Promise<void> {
  const ports = [{ name: 'http', port: 80 }];
  await cluster.ask('POST', '/api/v1/namespaces/demo/pods', {
    body: {
      metadata: { name: 'web-a', namespace: 'demo', labels: { app: 'web' } },
      spec: { nodeName: 'n1', containers: [{ name: 'c', image: 'none' }] },
    },
  });
  const status = { phase: 'Running', hostIP: '192.0.2.1', podIP: '10.1.0.5' };
  await cluster.ask('PATCH', '/api/v1/namespaces/demo/pods/web-a/status', {
    body: { status: { ...status, podIPs: [{ ip: '10.1.0.5' }] } },
    contentType: 'application/merge-patch+json',
  });
  for (const name of SERVICES) {
    await cluster.ask('POST', '/api/v1/namespaces/demo/services', {
      body: {
        metadata: { name, annotations: { 'service.cilium.io/global': 'true' } },
        spec: { clusterIP: 'None', ports },
      },
    });
  }
}

async function fillPeer(rig: ControllersRig): Promise<void> {
  const beta = await rig.addPeer('beta', 2);
  for (const [index, name] of SERVICES.entries()) {
    await beta.service(name, backendsOf(2, backendNumbers(index)));
  }
  await beta.marked();
  await beta.configure();
}

function backendNumbers(index: number): number[] {
  return range(index * BACKENDS, (index + 1) * BACKENDS);
}

function addressesFor(index: number): string[] {
  return Object.keys(backendsOf(2, backendNumbers(index))).sort();
}

async function prepare(
  t: Test,
  options: {
    rig: ControllersRig;
    etcdEndpoint: string;
    kubeconfig: string;
    flags: readonly string[];
  },
): Promise<OurApiserver> {
  const dir = await openTempDir('killed');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const ending = new AbortController();
  const apiserver = await prepareOurApiserver({
    cluster: { name: 'alpha', id: 1 },
    etcdEndpoint: options.etcdEndpoint,
    source: [
      '--mode=any-cni',
      `--kubeconfig=${options.kubeconfig}`,
      `--clustermesh-config=${options.rig.directory}`,
      '--clustermesh-enable-endpoint-sync',
      `--lease-namespace=${NAMESPACE}`,
      ...options.flags,
    ],
    dir,
    signal: ending.signal,
  });
  t.teardown(async () => {
    await apiserver[Symbol.asyncDispose]();
    ending.abort();
  });
  return apiserver;
}

/** Who holds the Lease; empty: nobody. */
async function holder({ cluster }: ControllersRig): Promise<string> {
  const path = `/apis/coordination.k8s.io/v1/namespaces/${NAMESPACE}/leases/isthmus-clustermesh-apiserver`;
  const { status, body } = await cluster.send('GET', path);
  if (status !== 200) return '';
  return (body as { spec: { holderIdentity?: string } }).spec.holderIdentity ?? '';
}

async function sliceNames({ cluster }: ControllersRig): Promise<string[]> {
  const found = (await cluster.ask(
    'GET',
    '/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices',
  )) as { items: { metadata: { name: string } }[] };
  return found.items.map(({ metadata }) => metadata.name);
}

/** Identities by number. */
async function identitiesOf(store: KvStore): Promise<string[]> {
  const { pairs } = await store.list('cilium/state/identities/v1/id/');
  return pairs.map(({ key, value }) => `${key} ${value.toString()}`).sort();
}
