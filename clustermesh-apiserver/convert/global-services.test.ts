/** Section 6 of the wire notes, a test for each row: what a Service's and a Namespace's annotations publish and withdraw. */
import { test } from 'tap';
import { decodeLocalService } from '../../mesh/wire/local-service.ts';
import { decodeClusterService } from '../../mesh/wire/service.ts';
import { readGlobalServiceSettings } from './annotations.ts';
import { createModelRig, type ModelRig } from './testing/model-rig.ts';

const KEY = 'cilium/state/services/v1/cluster3/demo/web';
const LOCAL = 'isthmus/local/services/demo/web';

type Annotations = Readonly<Record<string, string>>;
type More = Readonly<Record<string, unknown>>;

const service = (annotations: Annotations, spec: More = {}, metadata: More = {}) => ({
  kind: 'Service',
  metadata: { name: 'web', namespace: 'demo', uid: 'u1', annotations, ...metadata },
  spec: { clusterIP: '10.96.3.5', ports: [{ name: 'http', port: 80 }], ...spec },
});
const slice = (endpoints: readonly object[], more: More = {}) => ({
  kind: 'EndpointSlice',
  metadata: {
    name: 'web-1',
    namespace: 'demo',
    ...more,
    labels: { 'kubernetes.io/service-name': 'web', ...(more.labels as object) },
  },
  addressType: 'IPv4',
  endpoints,
  ports: [{ name: 'http', port: 8080 }],
});
const namespace = (annotations: Annotations = {}, name = 'demo') => ({
  kind: 'Namespace',
  metadata: { name, uid: `u-${name}`, annotations },
});
const READY = [{ addresses: ['10.1.0.5'], conditions: { ready: true } }];
const GLOBAL = { 'service.cilium.io/global': 'true' };

const backendsOf = (rig: ModelRig, key = KEY): string[] | undefined => {
  const value = rig.keys.get(key);
  return value === undefined ? undefined : [...decodeClusterService(value, key).backends.keys()];
};
const localOf = (rig: ModelRig) => decodeLocalService(rig.keys.get(LOCAL) ?? '', LOCAL);

/** What is exported, and what the own agents are told, for each value that an annotation can have. */
type Row = readonly [
  annotations: Annotations,
  exported: boolean,
  own: readonly [global: boolean, shared: boolean, affinity: 'none' | 'local' | 'remote'],
  warning?: string,
];
const NEITHER = [false, false, 'none'] as const;
const BOTH = [true, true, 'none'] as const;
const word = (name: string, value: string, countsAs: string, expected: string) =>
  `Service demo/web: annotation ${name}: "${value}" counts as ${countsAs}, expected ${expected}`;

const ROWS: readonly Row[] = [
  [{}, false, NEITHER],
  [{ 'service.cilium.io/global': 'true' }, true, BOTH],
  [{ 'service.cilium.io/global': 'True' }, true, BOTH],
  [{ 'service.cilium.io/global': 'false' }, false, NEITHER],
  [
    { 'service.cilium.io/global': 'ture' },
    false,
    NEITHER,
    word('service.cilium.io/global', 'ture', 'false', 'true or false'),
  ],
  [
    { 'service.cilium.io/global': ' true' },
    false,
    NEITHER,
    word('service.cilium.io/global', ' true', 'false', 'true or false'),
  ],
  [
    { 'service.cilium.io/global': '' },
    false,
    NEITHER,
    word('service.cilium.io/global', '', 'false', 'true or false'),
  ],
  [{ 'io.cilium/global-service': 'true' }, true, BOTH],
  [{ 'service.cilium.io/global': 'false', 'io.cilium/global-service': 'true' }, false, NEITHER],
  [{ ...GLOBAL, 'service.cilium.io/shared': 'true' }, true, BOTH],
  [{ ...GLOBAL, 'service.cilium.io/shared': 'false' }, false, [true, false, 'none']],
  [
    { ...GLOBAL, 'service.cilium.io/shared': 'no' },
    false,
    [true, false, 'none'],
    word('service.cilium.io/shared', 'no', 'false', 'true or false'),
  ],
  [{ ...GLOBAL, 'io.cilium/shared-service': 'false' }, false, [true, false, 'none']],
  [{ 'service.cilium.io/shared': 'true' }, false, NEITHER],
  [{ ...GLOBAL, 'service.cilium.io/affinity': 'none' }, true, BOTH],
  [{ ...GLOBAL, 'service.cilium.io/affinity': '' }, true, BOTH],
  [{ ...GLOBAL, 'service.cilium.io/affinity': 'local' }, true, [true, true, 'local']],
  [{ ...GLOBAL, 'service.cilium.io/affinity': 'Remote' }, true, [true, true, 'remote']],
  [{ ...GLOBAL, 'io.cilium/service-affinity': 'local' }, true, [true, true, 'local']],
  [{ 'service.cilium.io/affinity': 'local' }, false, NEITHER],
  [
    { ...GLOBAL, 'service.cilium.io/affinity': 'locale' },
    true,
    BOTH,
    word('service.cilium.io/affinity', 'locale', 'none', 'none, local or remote'),
  ],
  // What is about this cluster's own balancing, or internal, changes nothing of what others see.
  ...[
    ['service.cilium.io/lb-l7', 'enabled'],
    ['service.cilium.io/lb-l7-algorithm', 'round_robin'],
    ['service.cilium.io/lb-algorithm', 'maglev'],
    ['service.cilium.io/weight', '0'],
    ['service.cilium.io/node', 'x'],
    ['service.cilium.io/node-selector', 'a=b'],
    ['service.cilium.io/type', 'ClusterIP'],
    ['service.cilium.io/src-ranges-policy', 'deny'],
    ['service.cilium.io/proxy-delegation', 'none'],
    ['service.cilium.io/forwarding-mode', 'dsr'],
    ['service.cilium.io/global-sync-endpoint-slices', 'true'],
    ['clustermesh.cilium.io/supported-ip-families', 'IPv4'],
    ['clustermesh.cilium.io/autoPatchedAt', 'now'],
    ['clustermesh.cilium.io/global', 'false'],
  ].map(([name = '', value = '']): Row => [{ ...GLOBAL, [name]: value }, true, BOTH]),
];

for (const mode of ['any-cni', 'cilium'] as const) {
  for (const [annotations, exported, [global, shared, affinity], warning] of ROWS) {
    test(`${mode}: ${JSON.stringify(annotations)}, and no traffic lost (promise 7)`, async (t) => {
      const rig = createModelRig({ mode });
      rig.set(namespace(), service(annotations), slice(READY));
      t.same(backendsOf(rig), exported ? ['10.1.0.5'] : undefined);
      const own = localOf(rig);
      t.match(own, { global, shared, affinity });
      t.same([...own.backends.keys()], ['10.1.0.5'], 'the own backends stay, whatever it says');
      t.same(rig.warnings(), warning === undefined ? [] : [warning]);
      rig.set(service(GLOBAL));
      t.same(rig.warnings(), [], 'what is put right is no more wrong');
      t.same(backendsOf(rig), ['10.1.0.5']);
    });
  }
}

test('an exported record is always shared and includes external backends (6.1)', async (t) => {
  const rig = createModelRig();
  const labels = { app: 'web' };
  rig.set(service(GLOBAL, { selector: { app: 'web' } }, { labels }), slice(READY));
  t.match(decodeClusterService(rig.keys.get(KEY) ?? '', KEY), {
    shared: true,
    includeExternal: true,
    clusterId: 3,
    labels,
    selector: labels,
  });
});

const SYNC = 'service.cilium.io/global-sync-endpoint-slices';
const SYNC_ROWS: readonly (readonly [Annotations, headless: boolean, expected: boolean])[] = [
  [GLOBAL, false, false],
  [GLOBAL, true, true],
  [{ ...GLOBAL, [SYNC]: 'true' }, false, true],
  [{ ...GLOBAL, [SYNC]: 'TRUE' }, false, true],
  [{ ...GLOBAL, [SYNC]: 'false' }, true, false],
  [{ ...GLOBAL, [SYNC]: 'yes' }, true, false],
  [{ [SYNC]: 'true' }, true, false],
];
for (const [annotations, headless, expected] of SYNC_ROWS) {
  test(`EndpointSlices of others${headless ? ' for a headless service' : ''}: ${JSON.stringify(annotations)}`, async (t) => {
    const settings = readGlobalServiceSettings(annotations, { headless });
    t.equal(settings.syncEndpointSlices, expected);
    t.equal(settings.warnings.length, annotations[SYNC] === 'yes' ? 1 : 0);
  });
}

/** Conditions of an endpoint, and whether it is a backend: `ready`, `serving` and the mode that takes it. */
const CONDITIONS: readonly (readonly [object, anyCni: boolean, cilium: boolean])[] = [
  [{}, true, true],
  [{ ready: true }, true, true],
  [{ ready: null }, true, true],
  [{ ready: false, serving: true, terminating: true }, true, true],
  [{ ready: false, serving: false }, false, false],
  // The API says that serving is then what ready is; Cilium takes it for serving.
  [{ ready: false }, false, true],
];
for (const [conditions, anyCni, cilium] of CONDITIONS) {
  test(`a backend with conditions ${JSON.stringify(conditions)}`, async (t) => {
    for (const mode of ['any-cni', 'cilium'] as const) {
      const rig = createModelRig({ mode });
      const isBackend = mode === 'cilium' ? cilium : anyCni;
      rig.set(namespace(), service(GLOBAL), slice([{ addresses: ['10.1.0.5'], conditions }]));
      t.same(backendsOf(rig), isBackend ? ['10.1.0.5'] : [], mode);
    }
  });
}

test('frontends are cluster addresses by names of ports; a headless Service has none', async (t) => {
  const rig = createModelRig();
  const frontends = () =>
    [...decodeClusterService(rig.keys.get(KEY) ?? '', KEY).frontends].map(([ip, ports]) => [
      ip,
      [...ports],
    ]);
  const http = ['http', { protocol: 'TCP', port: 80 }];
  rig.set(service(GLOBAL, { clusterIPs: ['10.96.3.5', 'fd00:96::5'] }));
  t.same(frontends(), [
    ['10.96.3.5', [http]],
    ['fd00:96::5', [http]],
  ]);
  rig.set(service(GLOBAL, { clusterIP: 'None' }));
  t.same(frontends(), []);
  rig.set(service(GLOBAL, {}, { labels: { 'service.kubernetes.io/headless': '' } }));
  t.same(frontends(), [], 'by its label, as for Cilium');
  rig.set(service(GLOBAL, { clusterIP: '10.96.3.5', ports: [{ port: 80 }] }));
  t.same(frontends(), [['10.96.3.5', [['', { protocol: 'TCP', port: 80 }]]]]);
});

test('what is not, or no longer, exportable is withdrawn', async (t) => {
  for (const [what, changed] of [
    ['not global', service({})],
    ['not shared', service({ ...GLOBAL, 'service.cilium.io/shared': 'false' })],
    ['an ExternalName', service(GLOBAL, { type: 'ExternalName', externalName: 'example.com' })],
    [
      "another proxy's",
      service(GLOBAL, {}, { labels: { 'service.kubernetes.io/service-proxy-name': 'x' } }),
    ],
  ] as const) {
    const rig = createModelRig();
    rig.set(service(GLOBAL), slice(READY));
    t.same(backendsOf(rig), ['10.1.0.5']);
    rig.set(changed);
    t.equal(backendsOf(rig), undefined, what);
    rig.set(service(GLOBAL));
    t.same(backendsOf(rig), ['10.1.0.5'], `${what}, and back`);
    rig.remove(service(GLOBAL));
    t.equal(backendsOf(rig), undefined, 'deleted');
    t.equal(rig.keys.has(LOCAL), false);
  }
});

test("slices of the mesh itself, and of another proxy, are none of a Service's own", async (t) => {
  for (const labels of [
    { 'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io' },
    { 'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.isthmus.io' },
    { 'service.kubernetes.io/service-proxy-name': 'x' },
  ]) {
    const rig = createModelRig();
    rig.set(service(GLOBAL), slice(READY, { labels }));
    t.same(backendsOf(rig), [], JSON.stringify(labels));
  }
  const rig = createModelRig();
  const labels = {
    'endpointslice.kubernetes.io/managed-by': 'endpointslice-local-mcsapi-controller.cilium.io',
  };
  rig.set(service(GLOBAL), slice(READY, { labels }));
  t.same(backendsOf(rig), ['10.1.0.5'], 'those of a derived Service are');
});

/** Whether what is in a namespace is published: by its annotation, and else by the default (6.3). */
type NamespaceRow = readonly [
  annotation: string | undefined,
  byDefault: boolean,
  cilium: boolean,
  anyCni: boolean,
];
const NAMESPACES: readonly NamespaceRow[] = [
  [undefined, true, true, true],
  [undefined, false, false, false],
  ['true', false, true, true],
  ['TRUE', false, true, true],
  ['false', true, false, false],
  ['False', false, false, false],
  // Where hiding hides from the own agents, too, a slip hides nothing.
  ['maybe', true, false, true],
  ['maybe', false, false, false],
];
for (const [annotation, byDefault, cilium, anyCni] of NAMESPACES) {
  for (const mode of ['cilium', 'any-cni'] as const) {
    test(`${mode}: a namespace that says ${annotation} where ${byDefault} is the default`, async (t) => {
      const rig = createModelRig({ mode, globalNamespacesByDefault: byDefault });
      const expected = mode === 'cilium' ? cilium : anyCni;
      rig.set(
        namespace(annotation === undefined ? {} : { 'clustermesh.cilium.io/global': annotation }),
        service(GLOBAL),
        slice(READY),
        { kind: 'Pod', metadata: { name: 'a', namespace: 'demo' }, status: { podIP: '10.1.0.5' } },
        {
          kind: 'CiliumEndpoint',
          metadata: { name: 'a', namespace: 'demo' },
          status: { networking: { addressing: [{ ipv4: '10.1.0.5' }] } },
        },
        { kind: 'Node', metadata: { name: 'n1' } },
        { kind: 'CiliumNode', metadata: { name: 'n1' } },
      );
      t.equal(rig.keys.has(KEY), expected);
      t.equal(rig.keys.has('cilium/state/ip/v1/default/10.1.0.5'), expected);
      t.ok(rig.keys.has('cilium/state/nodes/v1/cluster3/n1'), 'nodes are in no namespace');
      t.ok(rig.keys.has(LOCAL), 'its own agents know the Service all the same');
      const unknown = `Namespace /demo: annotation clustermesh.cilium.io/global: "maybe" counts as ${expected}, expected true or false`;
      const warnings = rig.warnings();
      t.equal(warnings.includes(unknown), annotation === 'maybe');
      t.equal(warnings.length, annotation === 'maybe' ? 1 : 0, 'hiding is nothing to warn of');
    });
  }
}

test('switching a namespace exports or withdraws what is in it, and nothing else', async (t) => {
  const rig = createModelRig();
  const other = service(GLOBAL, {}, { namespace: 'other' });
  const pod = (ns: string, ip: string) => ({
    kind: 'Pod',
    metadata: { name: 'a', namespace: ns },
    status: { podIP: ip },
  });
  rig.set(namespace(), namespace({}, 'other'), service(GLOBAL), slice(READY), other);
  rig.set(pod('demo', '10.1.0.5'), pod('other', '10.1.0.6'));
  const all = new Map(rig.keys);
  rig.set(namespace({ 'clustermesh.cilium.io/global': 'false' }));
  const hidden = 'isthmus/local/ip/10.1.0.5';
  t.same([...rig.touched].sort(), ['cilium/state/ip/v1/default/10.1.0.5', KEY, hidden]);
  t.equal(rig.keys.size, all.size - 1);
  t.ok(rig.keys.has(hidden), 'its own agents know the address all the same');
  rig.set(namespace({ 'clustermesh.cilium.io/global': 'FALSE' }));
  t.same(rig.touched, [], 'another word for the same');
  rig.set(namespace());
  t.same(new Map(rig.keys), all);
  t.same(rig.warnings(), []);
});

const EXPORT_KEY = 'cilium/state/serviceexports/v1/cluster3/demo/web';
const serviceExport = (spec?: object) => ({
  apiVersion: 'multicluster.x-k8s.io/v1beta1',
  kind: 'ServiceExport',
  metadata: { name: 'web', namespace: 'demo', creationTimestamp: '2026-01-01T00:00:00Z' },
  ...(spec === undefined ? {} : { spec }),
});

/** Section 7, as far as it is published: Service and export in, the record as Cilium 1.20 writes it out. */
const EXPORTS: readonly (readonly [what: string, spec: More, export_: object, text: string])[] = [
  [
    'a cluster address',
    {
      ports: [
        { name: 'pg', port: 5432, appProtocol: 'postgres' },
        { port: 53, protocol: 'UDP' },
      ],
      ipFamilies: ['IPv4'],
      sessionAffinity: 'ClientIP',
      sessionAffinityConfig: { clientIP: { timeoutSeconds: 42 } },
      internalTrafficPolicy: 'Cluster',
      trafficDistribution: 'PreferClose',
    },
    serviceExport({ exportedAnnotations: { a: 'b' }, exportedLabels: { l: 'm' } }),
    '{"cluster":"cluster3","name":"web","namespace":"demo","annotations":{"a":"b"},"labels":{"l":"m"},' +
      '"Labels":{"l":"m"},"Annotations":{"a":"b"},"exportCreationTimestamp":"2026-01-01T00:00:00Z",' +
      '"ports":[{"name":"pg","protocol":"TCP","appProtocol":"postgres","port":5432},{"protocol":"UDP","port":53}],' +
      '"type":"ClusterSetIP","sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":42}},' +
      '"ipFamilies":["IPv4"],"internalTrafficPolicy":"Cluster","trafficDistribution":"PreferClose"}',
  ],
  [
    'a headless Service',
    { clusterIP: 'None', ports: [] },
    { ...serviceExport(), apiVersion: 'multicluster.x-k8s.io/v1alpha1' },
    '{"cluster":"cluster3","name":"web","namespace":"demo","exportCreationTimestamp":"2026-01-01T00:00:00Z",' +
      '"ports":[],"type":"Headless","sessionAffinity":"None"}',
  ],
  [
    'a word that no reader knows',
    { trafficDistribution: 'PreferNewWord', ports: [] },
    serviceExport({}),
    '{"cluster":"cluster3","name":"web","namespace":"demo","exportCreationTimestamp":"2026-01-01T00:00:00Z",' +
      '"ports":[],"type":"ClusterSetIP","sessionAffinity":"None"}',
  ],
];
for (const [what, spec, object, text] of EXPORTS) {
  test(`a ServiceExport of ${what}`, async (t) => {
    const rig = createModelRig();
    rig.set(object);
    t.notOk(rig.keys.has(EXPORT_KEY), 'nothing without the Service');
    rig.set(service({}, spec));
    t.equal(rig.keys.get(EXPORT_KEY), text);
    t.notOk(rig.keys.has(KEY), 'it makes the Service no global one');
    rig.set(namespace({ 'clustermesh.cilium.io/global': 'false' }));
    t.notOk(rig.keys.has(EXPORT_KEY), 'nothing of a namespace that is not global');
    rig.set(namespace());
    t.equal(rig.keys.get(EXPORT_KEY), text);
    rig.set(service({}, { ...spec, type: 'ExternalName' }));
    t.notOk(rig.keys.has(EXPORT_KEY), 'an ExternalName is never exported');
    rig.set(service({}, spec));
    rig.remove(object);
    t.same(rig.touched, [EXPORT_KEY]);
    t.notOk(rig.keys.has(EXPORT_KEY));
  });
}

test('an export without the time at which it was made is refused', async (t) => {
  const { creationTimestamp, ...metadata } = serviceExport().metadata;
  t.throws(() => createModelRig().set({ ...serviceExport(), metadata }), {
    code: 'bad-object',
    field: 'metadata.creationTimestamp',
  });
});
