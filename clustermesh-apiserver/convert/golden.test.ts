import { test } from 'tap';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { inspectPair } from '../../mesh/wire/inspect.ts';
import { nodeKey, serviceKey } from '../../mesh/wire/keys.ts';
import { encodeNode } from '../../mesh/wire/node.ts';
import { encodeClusterService } from '../../mesh/wire/service.ts';
import { parseObject } from '../sources/objects.ts';
import { createClusterModel, type RecordChange } from './cluster-model.ts';
import { readNodeAnnotations } from './node-annotations.ts';

const ALPHA = { name: parseClusterName('alpha'), id: parseClusterId(1) };

/** What objects of Kubernetes are published as: the change of each kind and name. */
function convert(objects: readonly object[]): RecordChange[] {
  const model = createClusterModel(ALPHA);
  return model.apply(objects.map((object) => ({ object: parseObject(object), exists: true })));
}

function textOf(change: RecordChange | undefined): { key: string; value: string } {
  if (change?.kind === 'node' && change.value !== undefined) {
    return { key: nodeKey(ALPHA.name, change.name), value: encodeNode(change.value) };
  }
  if (change?.kind === 'service' && change.value?.exported !== undefined) {
    const key = serviceKey(ALPHA.name, change.namespace, change.name);
    return { key, value: encodeClusterService(change.value.exported) };
  }
  throw new Error(`cannot publish ${change?.kind}`);
}

test('a node of a cluster that runs Cilium is published with all that it says', async (t) => {
  const [change] = convert([
    {
      kind: 'Node',
      metadata: {
        name: 'n1',
        labels: { 'kubernetes.io/os': 'linux' },
        annotations: {
          'network.cilium.io/ipv4-cilium-host': '10.1.0.9',
          'network.cilium.io/ipv6-cilium-host': 'fd00:1::9',
          'network.cilium.io/ipv4-health-ip': '10.1.0.10',
          'io.cilium.network.ipv6-health-ip': 'fd00:1::10',
          'network.cilium.io/ipv4-Ingress-ip': '10.1.0.11',
          'network.cilium.io/ipv6-Ingress-ip': 'fd00:1::11',
          'network.cilium.io/encryption-key': '3',
          'network.cilium.io/wg-pub-key': 'b3Blbg==',
        },
      },
      spec: { podCIDRs: ['10.1.0.0/24', 'fd00:1::/64', '10.1.8.0/24'] },
      status: {
        addresses: [
          { type: 'InternalIP', address: '192.0.2.1' },
          { type: 'InternalIP', address: '2001:db8::1' },
          { type: 'ExternalIP', address: '198.51.100.1' },
          { type: 'Hostname', address: 'n1' },
          { type: 'NewerType', address: 'whatever' },
        ],
        nodeInfo: { bootID: '7c1a' },
      },
    },
  ]);
  const { key, value } = textOf(change);
  t.equal(
    value,
    '{"Name":"n1","Cluster":"alpha","IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.1"},' +
      '{"Type":"InternalIP","IP":"2001:db8::1"},{"Type":"ExternalIP","IP":"198.51.100.1"},' +
      '{"Type":"CiliumInternalIP","IP":"10.1.0.9"},{"Type":"CiliumInternalIP","IP":"fd00:1::9"}],' +
      '"IPv4AllocCIDR":{"IP":"10.1.0.0","Mask":"////AA=="},' +
      '"IPv4SecondaryAllocCIDRs":[{"IP":"10.1.8.0","Mask":"////AA=="}],' +
      '"IPv6AllocCIDR":{"IP":"fd00:1::","Mask":"//////////8AAAAAAAAAAA=="},"IPv6SecondaryAllocCIDRs":null,' +
      '"IPv4HealthIP":"10.1.0.10","IPv6HealthIP":"fd00:1::10","IPv4IngressIP":"10.1.0.11",' +
      '"IPv6IngressIP":"fd00:1::11","ClusterID":1,"Source":"custom-resource","EncryptionKey":3,' +
      '"Labels":{"kubernetes.io/os":"linux"},"Annotations":null,"WireguardPubKey":"b3Blbg==","BootID":"7c1a"}',
  );
  t.equal(inspectPair(key, value, 255).error, undefined);
});

test('a dual-stack Service is published with zones, hints and hostnames', async (t) => {
  const slice = (name: string, addressType: string, endpoints: readonly object[]) => ({
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'demo', labels: { 'kubernetes.io/service-name': 'web' } },
    addressType,
    endpoints,
    ports: [
      { name: 'http', port: 8080 },
      { name: 'dns', protocol: 'UDP', port: 5353 },
    ],
  });
  const ready = { conditions: { ready: true } };
  const changes = convert([
    {
      kind: 'Service',
      metadata: {
        name: 'web',
        namespace: 'demo',
        labels: { app: 'web' },
        annotations: { 'service.cilium.io/global': 'true' },
      },
      spec: {
        clusterIPs: ['10.96.3.5', 'fd00:96::5'],
        selector: { app: 'web' },
        ports: [
          { name: 'http', port: 80 },
          { name: 'dns', protocol: 'UDP', port: 53 },
        ],
      },
    },
    slice('web-4', 'IPv4', [
      {
        addresses: ['10.1.0.5'],
        hostname: 'web-0',
        zone: 'za',
        hints: { forZones: [{ name: 'za' }, { name: 'zb' }] },
        ...ready,
      },
      { addresses: ['10.1.0.6'], zone: 'zb', ...ready },
      { addresses: ['10.1.0.7'], conditions: { ready: false } },
    ]),
    slice('web-6', 'IPv6', [{ addresses: ['fd00:1::5'], ...ready }]),
  ]);
  const { key, value } = textOf(changes.find(({ kind }) => kind === 'service'));
  const ports = '{"dns":{"Protocol":"UDP","Port":5353},"http":{"Protocol":"TCP","Port":8080}}';
  const front = '{"dns":{"Protocol":"UDP","Port":53},"http":{"Protocol":"TCP","Port":80}}';
  t.equal(
    value,
    '{"cluster":"alpha","namespace":"demo","name":"web",' +
      `"frontends":{"10.96.3.5":${front},"fd00:96::5":${front}},` +
      `"backends":{"10.1.0.5":${ports},"10.1.0.6":${ports},"fd00:1::5":${ports}},` +
      '"hostnames":{"10.1.0.5":"web-0"},' +
      '"zones":{"10.1.0.5":{"zone":"za","forZones":[{"name":"za"},{"name":"zb"}]},' +
      '"10.1.0.6":{"zone":"zb","forZones":[]}},' +
      '"labels":{"app":"web"},"selector":{"app":"web"},"includeExternal":true,"shared":true,"clusterID":1}',
  );
  t.equal(inspectPair(key, value, 255).error, undefined);
});

test('readNodeAnnotations() takes malformed annotations for absent ones', async (t) => {
  const nothing = readNodeAnnotations({});
  t.same(nothing.ciliumInternalIps, []);
  t.equal(nothing.encryptionKey, 0);
  for (const annotations of [
    { 'network.cilium.io/ipv4-cilium-host': 'x', 'network.cilium.io/ipv6-cilium-host': '10.0.0.1' },
    { 'network.cilium.io/ipv4-health-ip': '', 'network.cilium.io/ipv4-Ingress-ip': 'fd00::1' },
    { 'network.cilium.io/encryption-key': '256' },
    { 'network.cilium.io/encryption-key': '-1' },
    { 'network.cilium.io/encryption-key': '03' },
  ]) {
    t.strictSame(readNodeAnnotations(annotations), nothing, JSON.stringify(annotations));
  }
  const both = { 'network.cilium.io/wg-pub-key': 'new', 'io.cilium.network.wg-pub-key': 'old' };
  t.equal(readNodeAnnotations(both).wireguardPubKey, 'new');
  t.equal(readNodeAnnotations({ 'io.cilium.network.wg-pub-key': 'old' }).wireguardPubKey, 'old');
});
