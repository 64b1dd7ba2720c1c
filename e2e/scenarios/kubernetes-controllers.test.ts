/**
 * EndpointSlice sync before a real API server (issue C; spec 6.4): what other clusters offer stands there as slices, with few writes,
 * and nothing is deleted because it could not be seen (promises 2, 6 and 16).
 */
import { type Test, test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { needKube } from '../peers/kube-programs.ts';
import {
  addressesOf,
  backendsOf,
  type ControllersRig,
  type EtcdPeer,
  openControllersRig,
  type Replica,
  range,
} from './controllers-rig.ts';

const kube = needKube(process.env);
const GLOBAL = { 'service.cilium.io/global': 'true' };
const PORTS = [{ name: 'http', port: 80 }];
const HOSTNAMES = { hostnames: new Map([[parseIpAddress('10.2.0.0'), 'web-0']]) };

test('EndpointSlice sync', { skip: kube.skip, timeout: 120_000 }, async (t) => {
  const rig = await openControllersRig(t, { name: 'alpha', programs: kube.programs });
  const beta = await rig.addPeer('beta', 2);
  await beta.service('web', backendsOf(2, range(0, 150)), HOSTNAMES);
  await beta.marked();
  await beta.configure();
  await putService(rig, 'web', { annotations: GLOBAL, spec: { clusterIP: 'None', ports: PORTS } });
  const site: Site = { rig, beta, replica: await rig.start('one') };
  for (const [name, run] of Object.entries(CASES)) await t.test(name, (child) => run(child, site));
  const { failingCount, failures } = statusOf(site.replica);
  t.equal(failingCount, 0);
  t.equal(failures, 0);
});

interface Site {
  readonly rig: ControllersRig;
  readonly beta: EtcdPeer;
  replica: Replica;
}

const CASES: Readonly<Record<string, (t: Test, site: Site) => Promise<void>>> = {
  async 'a headless global service has slices by itself, 100 endpoints each'(t, { rig }) {
    await until('all backends are there', async () => (await addresses(rig, 'web')).length === 150);
    const slices = await rig.slices('web');
    t.same(slices.map(({ endpoints }) => endpoints?.length ?? 0).sort(), [100, 50]);
    for (const slice of slices) {
      t.match(slice.metadata.labels, {
        app: 'web',
        'kubernetes.io/service-name': 'web',
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io',
        'multicluster.kubernetes.io/source-cluster': 'beta',
        'service.kubernetes.io/headless': '',
      });
      t.match(slice.metadata.ownerReferences, [{ name: 'web', kind: 'Service', controller: true }]);
      t.same(slice.ports, [{ name: 'http', protocol: 'TCP', port: 8080 }], 'as the record says');
      t.ok(slice.endpoints?.every(({ nodeName }) => nodeName === 'beta'));
    }
    const endpoints = slices.flatMap((slice) => slice.endpoints ?? []);
    t.match(
      endpoints.find(({ addresses: [address] }) => address === '10.2.0.0'),
      { hostname: 'web-0', conditions: { ready: true, serving: true, terminating: false } },
    );
    const shown = await rig.cluster.kubectl(['get', 'endpointslices', '-n', 'demo']);
    t.match(shown, /web-beta-[0-9a-f]{10}\s+IPv4\s+8080/);
  },

  async 'one endpoint that changes costs one write, and what is the same costs none'(t, site) {
    const { rig, beta, replica } = site;
    const before = await rig.slices('web');
    const written = writesOf(replica);
    await beta.service('web', backendsOf(2, [...range(0, 149), 200]), HOSTNAMES);
    await until('the new one is there', async () =>
      (await addresses(rig, 'web')).includes('10.2.0.200'),
    );
    const after = await rig.slices('web');
    t.equal((await addresses(rig, 'web')).length, 150);
    t.equal(changed(before, after), 1, 'the new one is where there was room');
    await until('one write is counted', () => writesOf(replica) === written + 1);
    await beta.service('web', backendsOf(2, [...range(0, 149), 201]), HOSTNAMES);
    await until('it moved', async () => (await addresses(rig, 'web')).includes('10.2.0.201'));
    t.equal(changed(after, await rig.slices('web')), 1);
    await until('one more', () => writesOf(replica) === written + 2);
    const last = await rig.slices('web');
    await beta.service('web', backendsOf(2, [...range(0, 149), 201]), {
      ...HOSTNAMES,
      labels: { x: 'y' },
    });
    await systemClock.sleep(500);
    t.equal(changed(last, await rig.slices('web')), 0);
    t.equal(writesOf(replica), written + 2);
  },

  async 'somebody who meddles is undone'(t, { rig }) {
    const [slice] = await rig.slices('web');
    const path = `/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices/${slice?.metadata.name}`;
    await rig.cluster.ask('PATCH', path, {
      body: { endpoints: [], metadata: { annotations: { mine: 'stays' } } },
      contentType: 'application/merge-patch+json',
    });
    await until('it is as before', async () => (await addresses(rig, 'web')).length === 150);
    const [again] = await rig.slices('web');
    t.match(again?.metadata, { name: slice?.metadata.name, annotations: { mine: 'stays' } });
    await rig.cluster.ask('DELETE', path);
    await until('it is made again', async () => (await addresses(rig, 'web')).length === 150);
  },

  async 'a service with a ClusterIP has slices only when it says so'(t, { rig, beta }) {
    await beta.service('api', { '10.2.1.1': 80, 'fd02::1': 80 });
    await putService(rig, 'api', { annotations: GLOBAL, spec: { ports: PORTS } });
    await systemClock.sleep(600);
    t.same(await rig.slices('api'), []);
    const sync = 'service.cilium.io/global-sync-endpoint-slices';
    await annotate(rig, 'api', { [sync]: 'true' });
    await until('they are there', async () => (await addresses(rig, 'api')).length === 1);
    t.same(await addresses(rig, 'api'), ['10.2.1.1'], 'of the families of the local Service');
    for (const [annotation, value] of [
      [sync, 'false'],
      ['service.cilium.io/global', 'false'],
    ] as const) {
      await annotate(rig, 'api', { [annotation]: value });
      await until(`gone with ${annotation}`, async () => (await rig.slices('api')).length === 0);
      await annotate(rig, 'api', { [annotation]: 'true' });
      await until('there again', async () => (await rig.slices('api')).length === 1);
    }
    const namespace = '/api/v1/namespaces/demo';
    const setGlobal = (value: string | null): Promise<unknown> =>
      rig.cluster.ask('PATCH', namespace, {
        body: { metadata: { annotations: { 'clustermesh.cilium.io/global': value } } },
        contentType: 'application/merge-patch+json',
      });
    await setGlobal('false');
    await until('gone with the namespace', async () => (await rig.slices('api')).length === 0);
    await until('that of web, too', async () => (await rig.slices('web')).length === 0);
    await setGlobal(null);
    await until('there again', async () => (await rig.slices('api')).length === 1);
    await until('and so is web', async () => (await addresses(rig, 'web')).length === 150);
  },

  async 'both families where the Service has both'(t, { rig, beta }) {
    await beta.service('dual', { '10.2.1.2': 80, 'fd02::2': 80 });
    const ipFamilies = { ipFamilyPolicy: 'RequireDualStack', ipFamilies: ['IPv4', 'IPv6'] };
    const spec = { clusterIP: 'None', ports: PORTS, ...ipFamilies };
    await putService(rig, 'dual', { annotations: GLOBAL, spec });
    await until('both are there', async () => (await addresses(rig, 'dual')).length === 2);
    const slices = await rig.slices('dual');
    t.same(slices.map(({ addressType }) => addressType).sort(), ['IPv4', 'IPv6']);
  },

  async "a name that another's object has is gone around, and told of"(t, { rig, beta }) {
    const taken = (await rig.slices('dual'))[0]?.metadata.name ?? '';
    await annotate(rig, 'dual', { 'service.cilium.io/global': 'false' });
    await until('the slices are gone', async () => (await rig.slices('dual')).length === 0);
    const path = '/apis/discovery.k8s.io/v1/namespaces/demo/endpointslices';
    const foreign = { addressType: 'IPv4', endpoints: [], metadata: { name: taken } };
    await rig.cluster.ask('POST', path, { body: foreign });
    await annotate(rig, 'dual', { 'service.cilium.io/global': 'true' });
    await until('both are there', async () => (await addresses(rig, 'dual')).length === 2);
    const still = (await rig.cluster.ask('GET', `${path}/${taken}`)) as {
      metadata: { labels?: object };
    };
    t.equal(still.metadata.labels, undefined, 'it was not touched');
    await until('an Event says so', async () =>
      /EndpointSliceNameTaken.*left alone/.test(
        await rig.cluster.kubectl(['get', 'events', '-n', 'demo']),
      ),
    );
    await beta.removeService('dual');
    await until(
      'a record that goes takes its slices along',
      async () => (await rig.slices('dual')).length === 0,
    );
  },

  async 'a peer that cannot be reached keeps its slices, over a restart too'(t, site) {
    const { rig, beta, replica } = site;
    const before = await rig.slices('web');
    beta.server.pause();
    await replica.stop();
    site.replica = await rig.start('two');
    await until('it leads', () => site.replica.controllers.status.leadership.state === 'leading');
    await systemClock.sleep(1500);
    t.same(await rig.slices('web'), before);
    t.match(site.replica.controllers.status.parts, [
      { waitingFor: [/cluster beta were not read/] },
    ]);
    beta.server.resume();
    await until('it is read again', () =>
      site.replica.controllers.status.remote.some(({ synced }) => synced.includes('services')),
    );
    await systemClock.sleep(500);
    t.equal(changed(before, await rig.slices('web')), 0, 'adopted as they are');
  },

  async 'a peer that is removed takes its slices along, and no others'(t, { rig, beta }) {
    const gamma = await rig.addPeer('gamma', 3);
    await gamma.service('web', backendsOf(3, range(0, 3)));
    await gamma.marked();
    await gamma.configure();
    await until('both are there', async () => (await addresses(rig, 'web')).length === 153);
    await beta.unconfigure();
    await until('one has gone', async () => (await addresses(rig, 'web')).length === 3);
    t.same(await addresses(rig, 'web'), ['10.3.0.0', '10.3.0.1', '10.3.0.2']);
    await beta.configure();
    await until('it is back', async () => (await addresses(rig, 'web')).length === 153);
  },
};

function writesOf({ controllers }: Replica): number {
  return controllers.status.writes.written;
}

function statusOf({ controllers }: Replica) {
  const [part] = controllers.status.parts;
  const [controller] = part?.controllers ?? [];
  if (controller === undefined) throw new Error('there is one controller');
  return controller;
}

async function addresses(rig: ControllersRig, service: string): Promise<string[]> {
  return addressesOf(await rig.slices(service));
}

/** How many slices are not as they were. */
function changed(
  before: Awaited<ReturnType<ControllersRig['slices']>>,
  after: Awaited<ReturnType<ControllersRig['slices']>>,
): number {
  const versions = new Set(before.map(({ metadata }) => metadata.resourceVersion));
  const same = after.filter(({ metadata }) => versions.has(metadata.resourceVersion)).length;
  return Math.max(before.length, after.length) - same;
}

async function putService(
  rig: ControllersRig,
  name: string,
  { annotations, spec }: { annotations: Record<string, string>; spec: object },
): Promise<void> {
  await rig.cluster.ask('POST', '/api/v1/namespaces/demo/services', {
    body: { metadata: { name, annotations, labels: { app: name } }, spec },
  });
}

async function annotate(
  { cluster }: ControllersRig,
  name: string,
  annotations: Record<string, string>,
): Promise<void> {
  await cluster.ask('PATCH', `/api/v1/namespaces/demo/services/${name}`, {
    body: { metadata: { annotations } },
    contentType: 'application/merge-patch+json',
  });
}
