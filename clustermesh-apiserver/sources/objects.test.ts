import { test } from 'tap';
import { kindsOf } from '../convert/published-sets.ts';
import { CLUSTER_SCOPED_KINDS, objectId, parseObject } from './objects.ts';

const meta = (name: string, more: object = {}) => ({ name, namespace: 'demo', ...more });

test('parseObject() keeps of a CiliumNode what is published of it', async (t) => {
  const object = parseObject({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNode',
    metadata: { name: 'n1', managedFields: [{}] },
    spec: {
      addresses: [{ type: 'InternalIP', ip: '192.0.2.1' }, { type: 'Hostname', ip: 'n1' }, {}],
      health: { ipv4: '10.1.0.10' },
      encryption: {},
      ipam: { podCIDRs: ['10.1.0.0/24', 'x'], pools: { allocated: [{ cidrs: ['10.2.0.0/24'] }] } },
      'alibaba-cloud': {},
    },
    status: { ipam: {} },
  });
  t.strictSame(object, {
    kind: 'CiliumNode',
    name: 'n1',
    labels: null,
    annotations: null,
    addresses: [{ type: 'InternalIP', ip: '192.0.2.1' }],
    podCidrs: ['10.1.0.0/24', '10.2.0.0/24'],
    ipv4HealthIp: '10.1.0.10',
    ipv6HealthIp: null,
    ipv4IngressIp: null,
    ipv6IngressIp: null,
    encryptionKey: 0,
    bootId: '',
  });
  const bare = { kind: 'CiliumNode', metadata: { name: 'n1', labels: {}, annotations: null } };
  t.match(parseObject(bare), { labels: {}, annotations: null, addresses: [], podCidrs: [] });
});

test('parseObject() keeps of an endpoint what is published of it, in either form', async (t) => {
  const facts = {
    networking: {
      addressing: [{ ipv4: '10.1.0.1', ipv6: 'FD00::0001' }, { ipv4: '' }],
      node: 'nonsense',
    },
    encryption: { key: 256 + 3 },
    'named-ports': [{ name: 'http', port: 80, protocol: 'TCP', other: 1 }],
    'service-account': 'default',
  };
  const expected = {
    addresses: ['10.1.0.1', 'fd00::1'],
    hostIp: null,
    identity: 70_000,
    encryptionKey: 3,
    serviceAccount: 'default',
    namedPorts: [{ name: 'http', port: 80, protocol: 'TCP' }],
  };
  const endpoint = parseObject({
    kind: 'CiliumEndpoint',
    metadata: meta('a'),
    status: { id: 7, identity: { id: 70_000, labels: ['k8s:a=b'] }, ...facts },
  });
  t.strictSame(endpoint, { kind: 'CiliumEndpoint', namespace: 'demo', name: 'a', ...expected });
  const slice = parseObject({
    apiVersion: 'cilium.io/v2alpha1',
    kind: 'CiliumEndpointSlice',
    metadata: { name: 'ces-1' },
    namespace: 'demo',
    endpoints: [{ name: 'a', id: 70_000, ...facts }],
  });
  t.strictSame(slice, {
    kind: 'CiliumEndpointSlice',
    name: 'ces-1',
    endpointsNamespace: 'demo',
    endpoints: [{ podName: 'a', ...expected }],
  });
  const empty = { identity: 0, addresses: [], hostIp: null, encryptionKey: 0 };
  t.match(parseObject({ kind: 'CiliumEndpoint', metadata: meta('a') }), empty);
  t.match(parseObject({ kind: 'CiliumEndpoint', metadata: meta('a'), status: {} }), {
    ...empty,
    serviceAccount: undefined,
    namedPorts: undefined,
  });
});

test('parseObject() keeps of a Service what is exported of it', async (t) => {
  const object = parseObject({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: meta('web', { uid: 'u1', creationTimestamp: '2026-01-02T03:04:05Z' }),
    spec: {
      clusterIPs: ['none'],
      ports: [{ port: 80, nodePort: 30080, appProtocol: 'http' }],
      externalIPs: ['192.0.2.1', 'not an address'],
      externalTrafficPolicy: 'Local',
      loadBalancerSourceRanges: ['192.0.2.0/24'],
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 42 } },
      internalTrafficPolicy: 'Local',
      trafficDistribution: 'PreferClose',
      ipFamilies: ['IPv6', 'IPv4'],
    },
    status: {
      loadBalancer: {
        ingress: [
          { ip: '192.0.2.2', ipMode: 'VIP' },
          { ip: '192.0.2.3', ipMode: 'Proxy' },
          { hostname: 'lb.example' },
          { ip: '2001:db8::2' },
        ],
      },
    },
  });
  t.strictSame(object, {
    kind: 'Service',
    namespace: 'demo',
    name: 'web',
    uid: 'u1',
    labels: {},
    annotations: {},
    type: 'ClusterIP',
    headless: true,
    clusterIps: [],
    externalIps: ['192.0.2.1'],
    loadBalancerIps: ['192.0.2.2', '2001:db8::2'],
    loadBalancerSourceRanges: ['192.0.2.0/24'],
    selector: {},
    ports: [
      {
        name: '',
        protocol: 'TCP',
        port: 80,
        nodePort: 30080,
        targetPort: undefined,
        appProtocol: 'http',
      },
    ],
    sessionAffinity: 'ClientIP',
    sessionAffinityTimeoutSeconds: 42,
    internalTrafficPolicy: 'Local',
    externalTrafficPolicy: 'Local',
    trafficDistribution: 'PreferClose',
    ipFamilies: ['IPv6', 'IPv4'],
    createdAt: Date.UTC(2026, 0, 2, 3, 4, 5),
  });
  t.match(parseObject({ kind: 'Service', metadata: meta('web'), spec: {} }), {
    uid: '',
    headless: false,
    sessionAffinity: 'None',
    sessionAffinityTimeoutSeconds: undefined,
    internalTrafficPolicy: undefined,
    createdAt: undefined,
  });
});

/** What cannot be used, and the field that is to be put right. */
const REFUSED: readonly (readonly [field: string, object: object])[] = [
  ['kind', { kind: 'Deployment', metadata: meta('x') }],
  ['apiVersion', { apiVersion: 'serving.knative.dev/v1', kind: 'Service', metadata: meta('x') }],
  ['apiVersion', { apiVersion: 'v1', kind: 'CiliumNode', metadata: { name: 'x' } }],
  ['metadata.name', { kind: 'CiliumNode', metadata: { name: 'UPPER' } }],
  ['metadata.name', { kind: 'CiliumIdentity', metadata: { name: 'abc' } }],
  ['metadata.name', { kind: 'CiliumIdentity', metadata: { name: '16777216' } }],
  [
    'security-labels.k8s:a',
    { kind: 'CiliumIdentity', metadata: { name: '256' }, 'security-labels': { 'k8s:a': 1 } },
  ],
  ['status.id', { kind: 'CiliumEndpoint', metadata: meta('x'), status: { identity: { id: -1 } } }],
  [
    'status.networking.addressing',
    {
      kind: 'CiliumEndpoint',
      metadata: meta('x'),
      status: { networking: { addressing: [{ ipv4: '10.0.0' }] } },
    },
  ],
  [
    'endpoints[1].networking.addressing',
    {
      kind: 'CiliumEndpointSlice',
      metadata: { name: 'x' },
      namespace: 'demo',
      endpoints: [{ name: 'a' }, { name: 'b', networking: { addressing: [{ ipv6: '::g' }] } }],
    },
  ],
  ['metadata.creationTimestamp', { kind: 'ServiceExport', metadata: meta('x') }],
  [
    'spec.sessionAffinity',
    { kind: 'Service', metadata: meta('x'), spec: { sessionAffinity: 'Cookie' } },
  ],
];
for (const [field, object] of REFUSED) {
  test(`parseObject() names ${field} of ${JSON.stringify(object).slice(0, 90)}`, async (t) => {
    t.throws(() => parseObject(object), { name: 'ObjectError', field });
  });
}

test('parseObject() takes the kinds that it is asked for alone', async (t) => {
  const node = { kind: 'CiliumNode', metadata: { name: 'n1' } };
  t.match(parseObject(node, kindsOf('cilium')), { kind: 'CiliumNode' });
  t.throws(() => parseObject(node, kindsOf('any-cni')), { code: 'unknown-kind', field: 'kind' });
});

test('objectId() tells objects apart, and has the namespace of those that are in one', async (t) => {
  const ids = [
    objectId(parseObject({ kind: 'CiliumNode', metadata: { name: 'a' } })),
    objectId(parseObject({ kind: 'CiliumEndpoint', metadata: meta('a') })),
    objectId(
      parseObject({ kind: 'CiliumEndpointSlice', metadata: { name: 'a' }, namespace: 'demo' }),
    ),
  ];
  t.same(ids, ['CiliumNode a', 'CiliumEndpoint demo/a', 'CiliumEndpointSlice a']);
  t.ok(CLUSTER_SCOPED_KINDS.includes('CiliumEndpointSlice'));
});

test('parseObject() passes a policy on as its author wrote it', async (t) => {
  const written = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumNetworkPolicy',
    metadata: { name: 'p', namespace: 'demo', uid: 'u', generation: 7, labels: { a: 'b' } },
    spec: { endpointSelector: {}, ingress: [{ novelty: null }] },
  };
  const { metadata, ...rest } = written;
  const kept = {
    ...rest,
    status: { conditions: [{ type: 'Valid' }] },
    metadata: {
      ...metadata,
      resourceVersion: '12',
      managedFields: [{}],
      annotations: { 'kubectl.kubernetes.io/last-applied-configuration': '{}' },
    },
  };
  const parsed = parseObject(kept);
  t.strictSame(parsed, {
    kind: 'CiliumNetworkPolicy',
    namespace: 'demo',
    name: 'p',
    generation: 7,
    manifest: written,
  });
  t.strictSame(parseObject(written), parsed, 'the same without what a server adds');
  const noted = { ...written, metadata: { ...metadata, annotations: { note: 'x' } } };
  t.match(parseObject(noted), { manifest: { metadata: { annotations: { note: 'x' } } } });
});

test('parseObject() takes a group of networks of either version, in no namespace', async (t) => {
  for (const version of ['v2', 'v2alpha1']) {
    const group = parseObject({
      apiVersion: `cilium.io/${version}`,
      kind: 'CiliumCIDRGroup',
      metadata: { name: 'office', namespace: 'ignored' },
      spec: { externalCIDRs: ['192.0.2.0/24'] },
    });
    t.match(group, { kind: 'CiliumCIDRGroup', namespace: '', name: 'office', generation: 0 });
    t.equal(objectId(group), 'CiliumCIDRGroup /office');
  }
});
