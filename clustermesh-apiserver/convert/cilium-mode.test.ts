/** What Cilium's own clustermesh-apiserver 1.20 publishes of the same objects (clustermesh-apiserver/clustermesh), byte for byte. */
import { test } from 'tap';
import { inspectPair } from '../../mesh/wire/inspect.ts';
import { createModelRig } from './testing/model-rig.ts';

const NODES = 'cilium/state/nodes/v1/cluster3/';
const IPS = 'cilium/state/ip/v1/default/';
const IDS = 'cilium/state/identities/v1/id/';

const rigOfCilium = () => createModelRig({ mode: 'cilium' });
const namespace = (name: string, annotations: Record<string, string> = {}) => ({
  apiVersion: 'v1',
  kind: 'Namespace',
  metadata: { name, annotations },
});

const NODE = {
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNode',
  metadata: {
    name: 'n1',
    labels: { 'kubernetes.io/hostname': 'n1' },
    annotations: { 'network.cilium.io/wg-pub-key': 'b3Blbg==' },
  },
  spec: {
    addresses: [
      { type: 'InternalIP', ip: '192.0.2.1' },
      { type: 'InternalIP', ip: '2001:db8::1' },
      { type: 'CiliumInternalIP', ip: '10.1.0.9' },
      { type: 'Hostname', ip: 'n1' },
    ],
    bootid: '7c1a',
    encryption: { key: 7 },
    health: { ipv4: '10.1.0.10', ipv6: 'fd00:1::10' },
    ingress: { ipv4: '10.1.0.11', ipv6: 'fd00:1::11' },
    ipam: {
      podCIDRs: ['10.1.0.77/24', 'fd00:1::/64', 'not a network'],
      pools: { allocated: [{ pool: 'other', cidrs: ['10.1.8.0/24', 'fd00:8::/64'] }] },
    },
  },
};

test('a CiliumNode becomes a node with all that it says', async (t) => {
  const rig = rigOfCilium();
  rig.set(NODE);
  const value = rig.keys.get(`${NODES}n1`) ?? '';
  t.equal(
    value,
    '{"Name":"n1","Cluster":"cluster3","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.1"},' +
      '{"Type":"InternalIP","IP":"2001:db8::1"},{"Type":"CiliumInternalIP","IP":"10.1.0.9"}],' +
      '"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},' +
      '"IPv4SecondaryAllocCIDRs":[{"IP":"10.1.8.0","Mask":"////AA=="}],' +
      '"IPv6AllocCIDR":{"IP":"fd00:1::","Mask":"//////////8AAAAAAAAAAA=="},' +
      '"IPv6SecondaryAllocCIDRs":[{"IP":"fd00:8::","Mask":"//////////8AAAAAAAAAAA=="}],' +
      '"IPv4HealthIP":"10.1.0.10","IPv6HealthIP":"fd00:1::10","IPv4IngressIP":"10.1.0.11",' +
      '"IPv6IngressIP":"fd00:1::11","ClusterID":3,"Source":"custom-resource","EncryptionKey":7,' +
      '"Labels":{"kubernetes.io/hostname":"n1"},"Annotations":{"network.cilium.io/wg-pub-key":"b3Blbg=="},' +
      '"WireguardPubKey":"b3Blbg==","BootID":"7c1a"}',
  );
  t.equal(inspectPair(`${NODES}n1`, value, 255).error, undefined);
  rig.set({ ...NODE, metadata: { name: 'n1' }, spec: {} });
  t.match(rig.keys.get(`${NODES}n1`), /"IPAddresses":null,.*"Labels":null,"Annotations":null,/);
  rig.set({
    ...NODE,
    metadata: { name: 'n1', annotations: { 'io.cilium.network.wg-pub-key': 'b2xk' } },
  });
  t.match(rig.keys.get(`${NODES}n1`), /"WireguardPubKey":"b2xk"/, 'its older name');
  rig.set({ kind: 'Node', metadata: { name: 'n1' } }, { kind: 'Node', metadata: { name: 'n2' } });
  t.same(rig.touched, [], 'a Node says nothing where Cilium speaks');
  rig.remove(NODE);
  t.same([...rig.keys.keys()], []);
});

const identity = (id: string, labels: Record<string, string>) => ({
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumIdentity',
  metadata: { name: id },
  'security-labels': labels,
});

test('identities come and go with their objects and namespaces', async (t) => {
  const rig = rigOfCilium();
  const labels = {
    'k8s:io.kubernetes.pod.namespace': 'bar',
    'k8s:app': 'baz',
    'k8s:io.cilium.k8s.policy.cluster': 'cluster3',
    'k8s:empty': '',
    plain: 'a:b=c',
  };
  const text =
    'k8s:app=baz;k8s:empty=;k8s:io.cilium.k8s.policy.cluster=cluster3;k8s:io.kubernetes.pod.namespace=bar;unspec:plain=a:b=c;';
  rig.set(identity('196915', labels));
  t.equal(rig.keys.size, 0, 'not before its namespace is known');
  rig.set(namespace('bar'));
  t.equal(rig.keys.get(`${IDS}196915`), text);
  rig.set(identity('196915', { ...labels, 'k8s:app': 'fred' }));
  t.match(rig.keys.get(`${IDS}196915`), /^k8s:app=fred;/);
  rig.set(identity('196916', {}), identity('196917', { 'reserved:health': '' }));
  t.equal(rig.keys.size, 1, 'neither one without labels nor one of no namespace');
  rig.set(namespace('bar', { 'clustermesh.cilium.io/global': 'false' }));
  t.same(rig.touched, [`${IDS}196915`]);
  t.equal(rig.keys.size, 0);
  rig.set(namespace('bar', { 'clustermesh.cilium.io/global': 'TRUE' }));
  t.equal(rig.keys.size, 1);
  rig.remove(identity('196915', labels));
  t.equal(rig.keys.size, 0);
  t.throws(() => rig.set(identity('abc', labels)), { code: 'bad-object', field: 'metadata.name' });
});

const ADDRESSES = { ipv4: '10.244.1.79', ipv6: 'fd00:10:244:1::d643' };
const PORTS = [
  { name: 'http', port: 8080, protocol: 'TCP' },
  { name: 'dns', port: 53, protocol: 'UDP' },
];
const FACTS = {
  networking: { addressing: [ADDRESSES], node: '172.18.0.3' },
  encryption: { key: 5 },
  'named-ports': PORTS,
  'service-account': 'default',
};
const endpoint = (name: string, id: number | undefined, facts: object = FACTS, ns = 'foo') => ({
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumEndpoint',
  metadata: { name, namespace: ns },
  status: { id: 1481, ...(id === undefined ? {} : { identity: { id } }), ...facts },
});
const slice = (name: string, endpoints: readonly object[], ns = 'foo') => ({
  apiVersion: 'cilium.io/v2alpha1',
  kind: 'CiliumEndpointSlice',
  metadata: { name },
  namespace: ns,
  endpoints,
});
const text = (ip: string, pod = 'cep-001') =>
  `{"IP":"${ip}","Mask":null,"HostIP":"172.18.0.3","ID":199472,"Key":5,"Metadata":"","K8sNamespace":"foo",` +
  `"K8sPodName":"${pod}","K8sServiceAccount":"default",` +
  '"NamedPorts":[{"Name":"http","Port":8080,"Protocol":"TCP"},{"Name":"dns","Port":53,"Protocol":"UDP"}]}';

test('a CiliumEndpoint becomes its addresses, and so does the same in a CiliumEndpointSlice', async (t) => {
  for (const object of [
    endpoint('cep-001', 199472),
    slice('ces-1', [{ name: 'cep-001', id: 199472, ...FACTS }]),
  ]) {
    const rig = rigOfCilium();
    rig.set(object);
    t.equal(rig.keys.size, 0, 'not before its namespace is known');
    rig.set(namespace('foo'));
    t.same([...rig.keys.keys()], [`${IPS}10.244.1.79`, `${IPS}fd00:10:244:1::d643`]);
    for (const ip of Object.values(ADDRESSES)) {
      t.equal(rig.keys.get(IPS + ip), text(ip));
      t.equal(inspectPair(IPS + ip, text(ip), 255).error, undefined);
    }
    rig.remove(object);
    t.equal(rig.keys.size, 0);
  }
});

test('what an endpoint does not say is empty, as Cilium writes it', async (t) => {
  const rig = rigOfCilium();
  rig.set(
    namespace('foo'),
    endpoint('a', undefined, { networking: { addressing: [{ ipv4: '10.1.0.1' }] } }),
  );
  t.equal(
    rig.keys.get(`${IPS}10.1.0.1`),
    '{"IP":"10.1.0.1","Mask":null,"HostIP":"","ID":0,"Key":0,"Metadata":"","K8sNamespace":"foo","K8sPodName":"a"}',
  );
  rig.set(endpoint('a', 5, { networking: null }), endpoint('b', 5, {}));
  t.equal(rig.keys.size, 0, 'no address yet, or no more');
});

test('the first of two endpoints holds an address, and the next one takes it over', async (t) => {
  const rig = rigOfCilium();
  const two = { ...FACTS, networking: { ...FACTS.networking, addressing: [{ ipv4: '10.1.0.1' }] } };
  rig.set(namespace('foo'), endpoint('a', 199472, two), endpoint('b', 199472, two));
  t.match(rig.keys.get(`${IPS}10.1.0.1`), /"K8sPodName":"a"/);
  rig.set(endpoint('a', 199472, two));
  t.same(rig.touched, []);
  rig.remove(endpoint('a', 199472, two));
  t.same(rig.touched, [`${IPS}10.1.0.1`]);
  t.match(rig.keys.get(`${IPS}10.1.0.1`), /"K8sPodName":"b"/);
  rig.set(endpoint('a', 199472, two));
  t.match(rig.keys.get(`${IPS}10.1.0.1`), /"K8sPodName":"b"/);
});

test('an address that goes from one pod of a slice to another changes hands at once', async (t) => {
  const rig = rigOfCilium();
  const at = (ip: string) => ({ networking: { addressing: [{ ipv4: ip }], node: '172.18.0.3' } });
  const pods = (a: string, b: string) =>
    slice('s', [
      { name: 'a', id: 1000, ...at(a) },
      { name: 'b', id: 1001, ...at(b) },
    ]);
  rig.set(namespace('foo'), pods('10.1.0.1', '10.1.0.2'));
  rig.set(pods('10.1.0.2', '10.1.0.1'));
  t.match(rig.keys.get(`${IPS}10.1.0.1`), /"ID":1001,.*"K8sPodName":"b"/);
  t.match(rig.keys.get(`${IPS}10.1.0.2`), /"ID":1000,.*"K8sPodName":"a"/);
  rig.set(slice('s', [{ name: 'c', id: 1002, ...at('10.1.0.1') }]));
  t.match(rig.keys.get(`${IPS}10.1.0.1`), /"K8sPodName":"c"/);
  t.equal(rig.keys.size, 1);
});

test('going from endpoints to slices and back changes nothing (promise 6)', async (t) => {
  const rig = rigOfCilium();
  const inSlice = slice('ces-1', [{ name: 'cep-001', id: 199472, ...FACTS }]);
  rig.set(namespace('foo'), endpoint('cep-001', 199472));
  const steps: readonly (() => void)[] = [
    () => rig.set(inSlice),
    () => rig.remove(endpoint('cep-001', 199472)),
    // The operator puts the endpoint into another slice, and deletes the old one.
    () => rig.set(slice('ces-2', [{ name: 'cep-001', id: 199472, ...FACTS }])),
    () => rig.remove(inSlice),
    () => rig.set(endpoint('cep-001', 199472)),
    () => rig.set(slice('ces-2', [])),
  ];
  for (const [index, step] of steps.entries()) {
    step();
    t.same(rig.touched, [], `step ${index}`);
  }
  t.equal(rig.keys.size, 2);
});

test('a slice that moves to a namespace that is not global is withdrawn', async (t) => {
  const rig = rigOfCilium();
  const endpoints = [{ name: 'cep-001', id: 199472, ...FACTS }];
  rig.set(
    namespace('foo'),
    namespace('baz', { 'clustermesh.cilium.io/global': 'false' }),
    slice('s', endpoints),
  );
  t.equal(rig.keys.size, 2);
  rig.set(slice('s', endpoints, 'baz'));
  t.equal(rig.keys.size, 0);
  rig.set(slice('s', endpoints));
  t.equal(rig.keys.size, 2);
});

test('a namespace that goes takes along what is left of it', async (t) => {
  const rig = createModelRig({ mode: 'cilium', globalNamespacesByDefault: false });
  rig.set(
    namespace('foo', { 'clustermesh.cilium.io/global': 'true' }),
    endpoint('a', 199472),
    namespace('qux'),
    endpoint('b', 199472, { networking: { addressing: [{ ipv4: '10.1.0.2' }] } }, 'qux'),
  );
  t.equal(rig.keys.size, 2, 'only what is in a global namespace');
  rig.set(namespace('qux', { 'clustermesh.cilium.io/global': 'true' }));
  t.same(rig.touched, [`${IPS}10.1.0.2`]);
  rig.remove(namespace('foo'));
  t.same([...rig.keys.keys()], [`${IPS}10.1.0.2`]);
});

test('pods of a cluster that Cilium runs are known by their endpoints alone', async (t) => {
  const rig = rigOfCilium();
  rig.set(namespace('foo'), {
    kind: 'Pod',
    metadata: { name: 'a', namespace: 'foo' },
    status: { podIP: '10.1.0.1' },
  });
  t.equal(rig.keys.size, 0);
});
