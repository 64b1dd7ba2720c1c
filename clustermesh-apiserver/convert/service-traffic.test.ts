import { test } from 'tap';
import { localServiceKey, serviceKey } from '../../mesh/wire/keys.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import { decodeLocalService } from '../../mesh/wire/local-service.ts';
import { CLUSTER3, createModelRig } from './testing/model-rig.ts';

const KEY = localServiceKey('demo', 'web');

function service(spec: object, metadata: object = {}, status: object = {}): object {
  return {
    kind: 'Service',
    metadata: { name: 'web', namespace: 'demo', ...metadata },
    spec: {
      clusterIPs: ['10.96.0.1'],
      selector: { app: 'web' },
      ports: [{ name: 'http', port: 80, targetPort: 8080 }],
      ...spec,
    },
    status,
  };
}

function slice(endpoints: readonly object[], name = 'web-1', port = 8080): object {
  return {
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'demo', labels: { 'kubernetes.io/service-name': 'web' } },
    addressType: 'IPv4',
    endpoints,
    ports: [{ name: name === 'web-1' ? 'http' : name, port }],
  };
}

function pod(name: string, ip: string, metadata: object = {}): object {
  return {
    kind: 'Pod',
    metadata: { name, namespace: 'demo', labels: { app: 'web' }, ...metadata },
    spec: { nodeName: `node-of-${name}` },
    status: { phase: 'Running', podIP: ip, conditions: [{ type: 'Ready', status: 'True' }] },
  };
}

/** The Service as an agent reads it. */
function convert(...objects: readonly object[]): LocalService {
  const rig = createModelRig();
  rig.set(...objects);
  return decodeLocalService(rig.keys.get(KEY) ?? '', KEY);
}

const SPECS: readonly (readonly [what: string, object: object, wanted: Partial<LocalService>])[] = [
  [
    'says nothing',
    service({}),
    {
      type: 'ClusterIP',
      externalIps: [],
      loadBalancerIps: [],
      hasSourceRanges: false,
      affinitySeconds: 0,
      internalTrafficPolicy: 'Cluster',
      externalTrafficPolicy: 'Cluster',
      trafficDistribution: undefined,
      algorithm: undefined,
    },
  ],
  [
    'is at node ports and external addresses',
    service({
      type: 'NodePort',
      externalIPs: ['192.0.2.9', '2001:db8::9'],
      ports: [
        { name: 'http', port: 80, nodePort: 30080 },
        { name: 'admin', port: 81 },
      ],
    }),
    {
      type: 'NodePort',
      externalIps: ['192.0.2.9', '2001:db8::9'] as unknown as LocalService['externalIps'],
      ports: [
        { name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 },
        { name: 'admin', protocol: 'TCP', port: 81 },
      ],
    },
  ],
  [
    'has a load balancer, for some clients only',
    service(
      { type: 'LoadBalancer', loadBalancerSourceRanges: ['192.0.2.0/24'] },
      {},
      {
        loadBalancer: {
          ingress: [{ ip: '198.51.100.7' }, { ip: '198.51.100.8', ipMode: 'Proxy' }],
        },
      },
    ),
    {
      type: 'LoadBalancer',
      loadBalancerIps: ['198.51.100.7'] as unknown as LocalService['loadBalancerIps'],
      hasSourceRanges: true,
    },
  ],
  [
    'keeps its clients for three hours, if it says no time',
    service({ sessionAffinity: 'ClientIP' }),
    { affinitySeconds: 10_800 },
  ],
  [
    'keeps its clients for the time it says',
    service({
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 7 } },
    }),
    { affinitySeconds: 7 },
  ],
  [
    'has policies and a wish',
    service({
      internalTrafficPolicy: 'Local',
      externalTrafficPolicy: 'Local',
      trafficDistribution: 'PreferClose',
    }),
    {
      internalTrafficPolicy: 'Local',
      externalTrafficPolicy: 'Local',
      trafficDistribution: 'PreferClose',
    },
  ],
  [
    'asks for an algorithm, global or not',
    service({}, { annotations: { 'service.cilium.io/lb-algorithm': 'Maglev' } }),
    { algorithm: 'maglev', global: false },
  ],
  [
    'asks for an algorithm that nobody knows',
    service({}, { annotations: { 'service.cilium.io/lb-algorithm': 'roundrobin' } }),
    { algorithm: undefined },
  ],
];
for (const [what, object, wanted] of SPECS) {
  test(`a Service that ${what}`, async (t) => {
    t.match(convert(object), wanted);
  });
}

test('an algorithm that nobody knows is told to whoever wrote it', async (t) => {
  const rig = createModelRig();
  rig.set(service({}, { annotations: { 'service.cilium.io/lb-algorithm': 'roundrobin' } }));
  t.match(
    rig.warnings().join(),
    /lb-algorithm: "roundrobin" counts as the agents' default, expected random or maglev/,
  );
});

test('backends that are about to end stand apart, with where they run', async (t) => {
  const ending = { ready: false, serving: true, terminating: true };
  const objects = [
    service({}, { annotations: { 'service.cilium.io/global': 'true' } }),
    slice([
      {
        addresses: ['10.1.0.1'],
        nodeName: 'n1',
        zone: 'za',
        hints: { forZones: [{ name: 'za' }] },
      },
      {
        addresses: ['10.1.0.2'],
        nodeName: 'n1',
        zone: 'za',
        hints: { forZones: [{ name: 'za' }] },
      },
      { addresses: ['10.1.0.3'], nodeName: 'n2', conditions: ending },
      { addresses: ['10.1.0.4'], conditions: { ...ending, serving: false } },
      {
        addresses: ['10.1.0.5'],
        hints: { forNodes: [{ name: 'n1' }] },
        // By the API's words it is ready: publishNotReadyAddresses says so.
        conditions: { ready: true, serving: true, terminating: true },
      },
      { addresses: ['10.1.0.6'], conditions: { ready: false, serving: true, terminating: false } },
    ]),
  ];
  const local = convert(...objects);
  t.same([...local.backends.keys()], ['10.1.0.1', '10.1.0.2', '10.1.0.5', '10.1.0.6']);
  t.same([...local.draining], [['10.1.0.3', new Map([['http', { protocol: 'TCP', port: 8080 }]])]]);
  const za = { node: 'n1', zone: 'za', forZones: ['za'], forNodes: [] };
  t.same(Object.fromEntries(local.places), {
    '10.1.0.1': za,
    '10.1.0.2': za,
    '10.1.0.3': { node: 'n2', zone: '', forZones: [], forNodes: [] },
    '10.1.0.5': { node: '', zone: '', forZones: [], forNodes: ['n1'] },
  });
  const rig = createModelRig();
  rig.set(...objects);
  const exported = JSON.parse(rig.keys.get(serviceKey(CLUSTER3.name, 'demo', 'web')) ?? '{}');
  t.same(
    Object.keys(exported.backends),
    ['10.1.0.1', '10.1.0.2', '10.1.0.3', '10.1.0.5', '10.1.0.6'],
    'other clusters are told of all that serve, as Cilium does',
  );
});

test('a port that one slice says will stay is not about to end', async (t) => {
  const ending = { ready: false, serving: true, terminating: true };
  const local = convert(
    service({
      ports: [
        { name: 'http', port: 80 },
        { name: 'admin', port: 81 },
      ],
    }),
    slice([{ addresses: ['10.1.0.1'] }]),
    slice([{ addresses: ['10.1.0.1'], conditions: ending }], 'admin', 8081),
  );
  t.same([...(local.backends.get('10.1.0.1' as never)?.keys() ?? [])], ['http']);
  t.same([...(local.draining.get('10.1.0.1' as never)?.keys() ?? [])], ['admin']);
});

test('without slices, pods that have been told to end stand apart', async (t) => {
  const local = convert(
    service({ internalTrafficPolicy: 'Local' }),
    pod('a', '10.1.0.1'),
    pod('b', '10.1.0.2', { deletionTimestamp: '2026-01-02T03:04:05Z' }),
  );
  t.same([...local.backends.keys()], ['10.1.0.1']);
  t.same([...local.draining.keys()], ['10.1.0.2']);
  t.equal(local.places.get('10.1.0.1' as never)?.node, 'node-of-a');
  t.same([...convert(service({}), pod('a', '10.1.0.1')).draining], []);
});

test('where backends run is told only of a Service for which it decides something', async (t) => {
  const placed = (spec: object, endpoint: object = {}): number =>
    convert(
      service(spec),
      slice([{ addresses: ['10.1.0.1'], nodeName: 'n1', zone: 'za', ...endpoint }]),
    ).places.size;
  t.equal(placed({}), 0);
  t.equal(placed({ internalTrafficPolicy: 'Cluster' }, { hints: {} }), 0);
  t.equal(placed({ internalTrafficPolicy: 'Local' }), 1);
  t.equal(placed({ externalTrafficPolicy: 'Local' }), 1);
  t.equal(placed({ trafficDistribution: 'PreferClose' }), 1);
  t.equal(placed({}, { hints: { forZones: [{ name: 'za' }] } }), 1);
  t.equal(placed({}, { hints: { forNodes: [{ name: 'n1' }] } }), 1);
});
