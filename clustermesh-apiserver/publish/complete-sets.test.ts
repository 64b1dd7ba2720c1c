/** Each set has its marker, and loses its leftovers, when all that it is made of has been told, and not before (promise 6). */
import { test } from 'tap';
import { createDigest, decodeMeshDigest } from '../../mesh/wire/digest.ts';
import { meshDigestKey } from '../../mesh/wire/keys.ts';
import type { AnnotationWarning } from '../convert/annotation-warning.ts';
import { kindsOf } from '../convert/published-sets.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createPushedRig, type PushedRig } from '../testing/pushed-publisher.ts';

const node = (name: string) => ({ kind: 'Node', metadata: { name } });
const pod = (name: string, ip: string) => ({
  kind: 'Pod',
  metadata: { name, namespace: 'demo', labels: { app: name } },
  status: { podIP: ip, hostIP: '192.0.2.1' },
});
const NAMESPACE = { kind: 'Namespace', metadata: { name: 'demo' } };
const service = (name: string, annotations: Record<string, string> = {}) => ({
  kind: 'Service',
  metadata: {
    name,
    namespace: 'demo',
    uid: 'u1',
    annotations: { 'service.cilium.io/global': 'true', ...annotations },
  },
  spec: { clusterIP: '10.96.0.1', ports: [{ port: 80 }] },
});
const POLICIES = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
] as const;
const NODE = 'cilium/state/nodes/v1/alpha/';
const IP = 'cilium/state/ip/v1/default/';
const SERVICE = 'cilium/state/services/v1/alpha/demo/';
const ID = 'cilium/state/identities/v1/id/';

async function judgeDigests(rig: PushedRig): Promise<string[]> {
  const wrong: string[] = [];
  const digests = await rig.read('isthmus/mesh/');
  for (const prefix of [NODE, IP, 'cilium/state/services/v1/alpha/']) {
    const key = meshDigestKey(prefix);
    const digest = createDigest();
    for (const [name, value] of await rig.read(prefix)) digest.add(name, Buffer.from(value));
    const found = digests.get(key);
    if (found === undefined) wrong.push(`${prefix} has none`);
    else if (decodeMeshDigest(Buffer.from(found), key).sum !== digest.sum) wrong.push(prefix);
  }
  return wrong;
}

test('a kind that cannot be read holds back what is made of it, and nothing else', async (t) => {
  const rig = createPushedRig();
  {
    await using before = rig.start();
    before.set(node('n1'), node('n2'), NAMESPACE, pod('a', '10.1.0.1'), pod('b', '10.1.0.2'));
    before.set(service('web'), service('old'));
    before.synced(...kindsOf('any-cni'));
    await before.publisher.ready;
  }
  await rig.store.connect({ alwaysConnected: true }).transact({
    compare: [],
    then: [{ kind: 'delete', key: 'cilium/synced/alpha/cilium/state/ip/v1' }],
  });
  await using now = rig.start();
  await now.publisher.begun;
  // Pods may not be listed any more; one object of another kind has gone, and one of each kind is new.
  now.set(node('n1'), node('n3'), NAMESPACE, service('web'));
  now.synced('Node', 'Namespace', ...POLICIES);
  await rig.until(`${NODE}n2`, false);
  await rig.until(`${NODE}n3`);
  now.synced('Service', 'EndpointSlice');
  // They are off, and wait for no exports of Services.
  await rig.until('cilium/synced/alpha/cilium/state/serviceexports/v1');
  await eventually('what is whole', () => now.publisher.status.outstanding.length === 6);
  t.same(
    now.publisher.status.outstanding.map(({ set, kinds }) => `${set}: ${kinds.join()}`),
    ['ips', 'identities', 'services', 'local-ips', 'local-identities', 'local-services'].map(
      (set) => `${set}: Pod`,
    ),
  );
  t.equal(now.publisher.status.ready, false);
  t.same([...(await rig.read(IP)).keys()], [`${IP}10.1.0.1`, `${IP}10.1.0.2`], 'peers keep pods');
  t.same([...(await rig.read(SERVICE)).keys()], [`${SERVICE}old`, `${SERVICE}web`]);
  t.notOk((await rig.markers()).includes('ip'), 'no marker for what was not read');
  t.ok((await rig.markers()).includes('nodes'));
  t.same(await judgeDigests(rig), []);
  // The role is granted: it heals by itself.
  now.set(pod('b', '10.1.0.2'), pod('c', '10.1.0.3'));
  now.synced('Pod');
  await now.publisher.ready;
  t.same([...(await rig.read(IP)).keys()], [`${IP}10.1.0.2`, `${IP}10.1.0.3`]);
  t.same([...(await rig.read(SERVICE)).keys()], [`${SERVICE}web`]);
  t.same(await rig.markers(), ['identities', 'ip', 'nodes', 'serviceexports', 'services']);
  t.same(now.publisher.status.outstanding, []);
  t.same(await judgeDigests(rig), []);
});

const identity = (id: number, app: string) => ({
  kind: 'CiliumIdentity',
  metadata: { name: String(id) },
  'security-labels': {
    'k8s:app': app,
    'k8s:io.kubernetes.pod.namespace': 'demo',
    'k8s:io.cilium.k8s.policy.cluster': 'alpha',
  },
});
const endpoint = (name: string, ip: string, id: number) => ({
  kind: 'CiliumEndpoint',
  metadata: { name, namespace: 'demo' },
  status: { identity: { id }, networking: { addressing: [{ ipv4: ip }], node: '192.0.2.1' } },
});

test('identities of a cluster that Cilium runs are its own: published, swept, never allocated', async (t) => {
  const rig = createPushedRig();
  const conversion = { mode: 'cilium' } as const;
  const identityGraceMs = 30;
  const kinds = kindsOf('cilium');
  const ids = async () => [...(await rig.read(ID)).keys()].map((key) => key.slice(ID.length));
  {
    await using first = rig.start({ conversion, identityGraceMs });
    first.set(NAMESPACE, identity(65792, 'a'), identity(65793, 'b'));
    first.set(endpoint('a', '10.1.0.1', 65792));
    first.synced(...kinds);
    await first.publisher.ready;
    t.same(await ids(), ['65792', '65793']);
    t.match((await rig.read(IP)).get(`${IP}10.1.0.1`), /"ID":65792,/);
    t.match(first.publisher.status, { endpoints: 1, identities: 2, endpointsWithoutIdentity: 0 });
    t.equal((await rig.read('isthmus/registry/identities/')).size, 0);
    // Longer than the time after which numbers of our own would be collected, as nobody uses the second.
    await new Promise((resolve) => setTimeout(resolve, 150));
    t.same(await ids(), ['65792', '65793']);
  }
  await using second = rig.start({ conversion, identityGraceMs });
  second.set(NAMESPACE, identity(65794, 'c'));
  second.synced(...kinds.filter((kind) => kind !== 'CiliumIdentity'));
  await rig.until(`${ID}65794`);
  await rig.until(`${IP}10.1.0.1`, false);
  t.same(await ids(), ['65792', '65793', '65794'], 'not all of them have been told');
  second.synced('CiliumIdentity');
  await second.publisher.ready;
  t.same(await ids(), ['65794']);
  second.remove(identity(65794, 'c'));
  await rig.until(`${ID}65794`, false);
  t.match(second.publisher.status, { endpoints: 0, identities: 0 });
});

test('an identity that has no wire form harms no other, and is tried again when it changes', async (t) => {
  const rig = createPushedRig();
  await using one = rig.start({ conversion: { mode: 'cilium' } });
  one.set(NAMESPACE, identity(65792, 'a;b'), identity(65793, 'b'));
  one.synced(...kindsOf('cilium'));
  await one.publisher.ready;
  t.same([...(await rig.read(ID)).keys()], [`${ID}65793`]);
  one.set(identity(65792, 'a'));
  await rig.until(`${ID}65792`);
});

test('going from endpoints to slices writes nothing at all', async (t) => {
  const rig = createPushedRig();
  await using one = rig.start({ conversion: { mode: 'cilium' } });
  one.set(NAMESPACE, endpoint('a', '10.1.0.1', 65792));
  one.synced(...kindsOf('cilium'));
  await one.publisher.ready;
  const reader = rig.store.connect({ alwaysConnected: true });
  const before = await reader.get(`${IP}10.1.0.1`);
  const facts = {
    name: 'a',
    id: 65792,
    networking: { addressing: [{ ipv4: '10.1.0.1' }], node: '192.0.2.1' },
  };
  one.set({
    kind: 'CiliumEndpointSlice',
    metadata: { name: 's' },
    namespace: 'demo',
    endpoints: [facts],
  });
  one.remove(endpoint('a', '10.1.0.1', 65792));
  one.set(endpoint('b', '10.1.0.2', 65792));
  await rig.until(`${IP}10.1.0.2`);
  const after = await reader.get(`${IP}10.1.0.1`);
  t.equal(after?.modRevision, before?.modRevision);
});

test('service exports are told of in the configuration, and waited for, where they are on', async (t) => {
  const rig = createPushedRig();
  const configOf = async () =>
    JSON.parse((await rig.read('cilium/cluster-config/')).get('cilium/cluster-config/alpha') ?? '')
      .capabilities.serviceExportsEnabled;
  const key = 'cilium/state/serviceexports/v1/alpha/demo/web';
  const kinds = kindsOf('any-cni', { serviceExports: true });
  {
    await using on = rig.start({ kinds });
    on.set(NAMESPACE, service('web'), {
      kind: 'ServiceExport',
      metadata: { name: 'web', namespace: 'demo', creationTimestamp: '2026-01-01T00:00:00Z' },
    });
    on.synced(...kindsOf('any-cni'));
    await rig.until(key);
    await rig.until('cilium/synced/alpha/cilium/state/services/v1');
    t.notOk((await rig.markers()).includes('serviceexports'));
    t.same(
      on.publisher.status.outstanding.map(({ set, kinds }) => `${set}: ${kinds}`),
      ['serviceexports: ServiceExport'],
    );
    on.synced('ServiceExport');
    await on.publisher.ready;
    t.ok((await rig.markers()).includes('serviceexports'));
    t.equal(await configOf(), true);
  }
  await using off = rig.start();
  off.set(NAMESPACE, service('web'));
  off.synced(...kindsOf('any-cni'));
  await off.publisher.ready;
  t.equal((await rig.read('cilium/state/serviceexports/')).size, 0, 'off withdraws them');
  t.ok((await rig.markers()).includes('serviceexports'));
  await eventually('the configuration', async () => (await configOf()) === false);
});

test('what is wrong with annotations is told once for each change of it', async (t) => {
  const rig = createPushedRig();
  const told: AnnotationWarning[] = [];
  await using one = rig.start({ onAnnotationWarning: (warning) => void told.push(warning) });
  const wrong = service('web', { 'service.cilium.io/affinity': 'locale' });
  one.set(NAMESPACE, wrong);
  one.synced(...kindsOf('any-cni'));
  await one.publisher.ready;
  const expected: AnnotationWarning = {
    object: { kind: 'Service', namespace: 'demo', name: 'web', uid: 'u1' },
    reason: 'UnknownAnnotationValue',
    annotation: 'service.cilium.io/affinity',
    value: 'locale',
    countsAs: 'none',
    expected: 'none, local or remote',
  };
  t.same(told, [expected]);
  t.same(one.publisher.status.annotationWarnings, [expected]);
  one.set(wrong, { ...wrong, metadata: { ...wrong.metadata, labels: { a: 'b' } } });
  one.set({
    kind: 'Namespace',
    metadata: { name: 'demo', annotations: { 'clustermesh.cilium.io/global': 'false' } },
  });
  await rig.until(`${SERVICE}web`, false);
  t.equal(told.length, 1);
  one.set(NAMESPACE, service('web'));
  await rig.until(`${SERVICE}web`);
  t.same(one.publisher.status.annotationWarnings, []);
  one.set(wrong);
  await eventually('the warning again', () => told.length === 2);
});

test('a standby knows all, in the mode of Cilium too, and writes nothing that stands when its turn comes', async (t) => {
  const rig = createPushedRig();
  const conversion = { mode: 'cilium' } as const;
  const all = [NAMESPACE, identity(65792, 'a'), endpoint('a', '10.1.0.1', 65792), service('web')];
  const leader = rig.start({ conversion });
  leader.set(...all);
  leader.synced(...kindsOf('cilium'));
  await leader.publisher.ready;
  await using standby = rig.start({ conversion });
  standby.set(...all);
  standby.synced(...kindsOf('cilium'));
  await standby.publisher.ready;
  t.match(standby.publisher.status, { role: { kind: 'standby' }, ready: true, outstanding: [] });
  const reader = rig.store.connect({ alwaysConnected: true });
  const before = (await reader.list('cilium/state/')).pairs;
  t.ok(before.length >= 3);
  await leader[Symbol.asyncDispose]();
  await eventually('the other to lead', () => standby.publisher.status.role.kind === 'leading');
  await eventually('it to be ready', () => standby.publisher.status.ready);
  const after = (await reader.list('cilium/state/')).pairs;
  t.same(
    after.map(({ key, modRevision }) => [key, modRevision]),
    before.map(({ key, modRevision }) => [key, modRevision]),
  );
});

test('of two replicas the one that leads tells what is wrong with annotations', async (t) => {
  const rig = createPushedRig();
  const told: string[] = [];
  const wrong = service('web', { 'service.cilium.io/affinity': 'locale' });
  const leader = rig.start({ onAnnotationWarning: () => void told.push('leader') });
  leader.set(NAMESPACE, wrong);
  leader.synced(...kindsOf('any-cni'));
  await leader.publisher.ready;
  await using standby = rig.start({ onAnnotationWarning: () => void told.push('standby') });
  standby.set(NAMESPACE, wrong);
  standby.synced(...kindsOf('any-cni'));
  await standby.publisher.ready;
  t.equal(standby.publisher.status.annotationWarnings.length, 1);
  t.same(told, ['leader']);
  await leader[Symbol.asyncDispose]();
  await eventually('the other to tell', () => told.length > 1);
  t.same(told, ['leader', 'standby']);
});
