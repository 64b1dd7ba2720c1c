import { test } from 'tap';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { encodeLabels } from '../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import { type ClusterObject, parseObject } from '../sources/objects.ts';
import { createClusterModel, type RecordChange } from './cluster-model.ts';
import { parseLabelFilter } from './label-filter.ts';

const ALPHA = { name: parseClusterName('alpha'), id: parseClusterId(1) };

type Kind = RecordChange['kind'];

/** A model and what is published by it. */
function modelRig() {
  const model = createClusterModel(ALPHA);
  const published = new Map<string, RecordChange>();
  let latest: RecordChange[] = [];
  const take = (changes: RecordChange[]): void => {
    latest = changes;
    for (const change of changes) {
      if (change.value === undefined) published.delete(nameOf(change));
      else published.set(nameOf(change), change);
    }
  };
  const apply = (exists: boolean, objects: readonly unknown[]): void =>
    take(model.apply(objects.map((object) => ({ object: parseObject(object), exists }))));
  return {
    model,
    set: (...objects: readonly unknown[]) => apply(true, objects),
    remove: (...objects: readonly unknown[]) => apply(false, objects),
    facts: (name: string, addresses: string[] | undefined, podCidrs: string[] = []) =>
      take(model.setNodeFacts(name, addresses && factsOf(addresses, podCidrs))),
    /** Names of what the latest call changed. */
    changed: () => latest.map(nameOf),
    get: <K extends Kind>(kind: K, name: string) => {
      const change = published.get(`${kind} ${name}`);
      return change?.value as NonNullable<Extract<RecordChange, { kind: K }>['value']> | undefined;
    },
  };
}

function factsOf(addresses: readonly string[], podCidrs: readonly string[] = []) {
  return {
    addresses: addresses.map(parseIpAddress),
    podCidrs: podCidrs.map(parseIpPrefix),
    bootId: 'b1',
  };
}

function nameOf(change: RecordChange): string {
  switch (change.kind) {
    case 'node':
      return `node ${change.name}`;
    case 'endpoint':
    case 'ip':
      return `${change.kind} ${change.address}`;
    case 'identity':
      return `identity ${change.id}`;
    case 'warnings':
      return `warnings ${change.object.kind} ${change.object.namespace}/${change.object.name}`;
    case 'service':
    case 'service-export':
      return `${change.kind} ${change.namespace}/${change.name}`;
    case 'policy':
      return `policy ${change.policyKind} ${change.namespace}/${change.name}`;
    default:
      throw change satisfies never;
  }
}

const pod = (name: string, ips: readonly string[], more: Record<string, unknown> = {}) => ({
  kind: 'Pod',
  metadata: { name, namespace: 'demo', labels: { app: 'web', ...(more.labels as object) } },
  spec: {
    nodeName: 'n1',
    hostNetwork: more.hostNetwork === true,
    containers: [{ ports: [{ name: 'http', containerPort: 8080 }, { containerPort: 9 }] }],
  },
  status: {
    phase: more.phase ?? 'Running',
    hostIP: '192.0.2.1',
    podIPs: ips.map((ip) => ({ ip })),
    conditions: more.ready === undefined ? [] : [{ type: 'Ready', status: more.ready }],
  },
});
const service = (more: Record<string, unknown> = {}, spec: Record<string, unknown> = {}) => ({
  kind: 'Service',
  metadata: {
    name: 'web',
    namespace: 'demo',
    annotations: { 'service.cilium.io/global': 'true' },
    ...more,
  },
  spec: {
    clusterIP: '10.96.3.5',
    selector: { app: 'web' },
    ports: [{ name: 'http', port: 80, targetPort: 'http' }],
    ...spec,
  },
});
const slice = (
  name: string,
  endpoints: readonly unknown[],
  labels: Record<string, string> = {},
) => ({
  kind: 'EndpointSlice',
  metadata: { name, namespace: 'demo', labels: { 'kubernetes.io/service-name': 'web', ...labels } },
  addressType: 'IPv4',
  endpoints,
  ports: [{ name: 'http', port: 8080 }],
});

test('a pod is published at each of its addresses with the labels of its identity', async (t) => {
  const rig = modelRig();
  rig.set(
    { kind: 'Namespace', metadata: { name: 'demo', labels: { team: 'red' } } },
    pod('web-0', ['10.1.0.5', 'fd00::5'], {
      labels: {
        'pod-template-hash': 'x',
        'statefulset.kubernetes.io/pod-name': 'web-0',
        'io.cilium.k8s.policy.cluster': 'beta',
        'io.cilium.k8s.namespace.labels.team': 'blue',
        'io.cilium.k8s.namespace.labels.role': 'admin',
        'app.kubernetes.io/name': 'web',
      },
    }),
  );
  t.same(rig.get('endpoint', '10.1.0.5')?.hostIp, '192.0.2.1');
  t.same(rig.get('endpoint', '10.1.0.5')?.namedPorts, [
    { name: 'http', port: 8080, protocol: 'TCP' },
  ]);
  t.equal(
    encodeLabels(rig.get('endpoint', 'fd00::5')?.labels ?? []),
    'k8s:app=web;k8s:app.kubernetes.io/name=web;' +
      'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo;' +
      'k8s:io.cilium.k8s.namespace.labels.team=red;k8s:io.cilium.k8s.policy.cluster=alpha;' +
      'k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=demo;',
    'neither labels that would make each pod unique nor claims about cluster and namespace',
  );
  rig.set({ kind: 'Namespace', metadata: { name: 'demo', labels: { team: 'green' } } });
  t.match(encodeLabels(rig.get('endpoint', '10.1.0.5')?.labels ?? []), /labels\.team=green;/);
  rig.remove(pod('web-0', ['10.1.0.5', 'fd00::5']));
  t.same(rig.changed(), ['endpoint 10.1.0.5', 'endpoint fd00::5']);
  t.equal(rig.get('endpoint', '10.1.0.5'), undefined);
});

test('a pod on the network of its host, or that has finished, holds no address', async (t) => {
  const rig = modelRig();
  rig.set(
    pod('host', ['192.0.2.1'], { hostNetwork: true }),
    pod('done', ['10.1.0.7'], { phase: 'Succeeded' }),
  );
  t.equal(rig.get('endpoint', '192.0.2.1'), undefined);
  t.equal(rig.get('endpoint', '10.1.0.7'), undefined);
  rig.set(pod('next', ['10.1.0.7']));
  t.equal(rig.get('endpoint', '10.1.0.7')?.podName, 'next');
});

test('an address claimed by several pods stays with the first and is handed on in order', async (t) => {
  const rig = modelRig();
  const owner = () => rig.get('endpoint', '10.1.0.5')?.podName;
  rig.set(pod('a', ['10.1.0.5']), pod('b', ['10.1.0.5']), pod('c', ['10.1.0.5']));
  t.equal(owner(), 'a');
  rig.set(pod('a', ['10.1.0.5'], { ready: 'False' }));
  t.equal(owner(), 'a', 'a change of the owner leaves it the owner');
  rig.set(pod('b', ['10.1.0.5', '10.1.0.6']));
  rig.remove(pod('a', ['10.1.0.5']));
  t.equal(owner(), 'b', 'and of one in the queue leaves it its place');
  rig.set(pod('b', ['10.1.0.6']));
  t.equal(owner(), 'c');
  rig.remove(pod('c', ['10.1.0.5']));
  t.equal(owner(), undefined);
});

test('only a global, shared service is exported; every one is told to the own agents', async (t) => {
  const cases: readonly [Record<string, string>, boolean][] = [
    [{}, false],
    [{ 'service.cilium.io/global': 'true' }, true],
    [{ 'io.cilium/global-service': 'true' }, true],
    [{ 'service.cilium.io/global': 'true', 'service.cilium.io/shared': 'false' }, false],
  ];
  for (const [annotations, isExported] of cases) {
    const rig = modelRig();
    rig.set(service({ annotations }));
    const found = rig.get('service', 'demo/web');
    t.equal(found?.exported !== undefined, isExported, JSON.stringify(annotations));
    t.match(found?.local, { namespace: 'demo', name: 'web', clusterIps: ['10.96.3.5'] });
  }
});

test('backends come from the slices: ready or serving endpoints of each, without those of a mesh controller', async (t) => {
  const rig = modelRig();
  const endpoint = (ip: string, conditions?: object) => ({
    addresses: [ip],
    ...(conditions && { conditions }),
  });
  rig.set(
    service(),
    pod('web-0', ['10.1.0.99']),
    slice('web-1', [
      endpoint('10.1.0.1'),
      endpoint('10.1.0.2', { ready: true }),
      endpoint('10.1.0.3', { ready: false }),
      endpoint('10.1.0.4', { ready: false, serving: true, terminating: true }),
    ]),
    slice('web-2', [
      {
        addresses: ['10.1.0.5'],
        zone: 'za',
        hostname: 'h5',
        hints: { forZones: [{ name: 'za' }] },
      },
    ]),
    slice('remote', [endpoint('10.2.0.1')], {
      'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io',
    }),
  );
  const exported = rig.get('service', 'demo/web')?.exported;
  t.same([...(exported?.backends.keys() ?? [])], ['10.1.0.1', '10.1.0.2', '10.1.0.4', '10.1.0.5']);
  t.same([...(exported?.zones ?? [])], [['10.1.0.5', { zone: 'za', forZones: [{ name: 'za' }] }]]);
  t.same([...(exported?.hostnames ?? [])], [['10.1.0.5', 'h5']]);
  t.same(exported?.frontends.get(parseIpAddress('10.96.3.5'))?.get('http'), {
    protocol: 'TCP',
    port: 80,
  });
  rig.remove(slice('web-1', []));
  t.same([...(rig.get('service', 'demo/web')?.exported?.backends.keys() ?? [])], ['10.1.0.5']);
});

test('without slices backends are the ready pods that the selector matches, at the port it names', async (t) => {
  const rig = modelRig();
  const backends = () =>
    [...(rig.get('service', 'demo/web')?.exported?.backends ?? [])].map(([ip, ports]) => [
      ip,
      ports.get('http')?.port,
    ]);
  rig.set(
    service(),
    pod('a', ['10.1.0.1', 'fd00::1']),
    pod('b', ['10.1.0.2'], { ready: 'False' }),
    pod('c', ['10.1.0.3'], { labels: { app: 'other' } }),
  );
  t.same(backends(), [['10.1.0.1', 8080]], 'IPv6 is not a family of this service');
  rig.set(pod('b', ['10.1.0.2'], { ready: 'True' }));
  t.same(rig.changed(), ['endpoint 10.1.0.2', 'service demo/web']);
  t.same(backends(), [
    ['10.1.0.1', 8080],
    ['10.1.0.2', 8080],
  ]);
  rig.set(service({}, { ports: [{ name: 'http', port: 80 }] }));
  t.same(
    backends(),
    [
      ['10.1.0.1', 80],
      ['10.1.0.2', 80],
    ],
    'without a target it is the port itself',
  );
  rig.remove(pod('a', ['10.1.0.1']));
  t.same(backends(), [['10.1.0.2', 80]]);
  rig.set(service({}, { selector: {} }));
  t.same(backends(), [], 'no selector selects nothing');
});

test('a slice that moves to another service leaves the first', async (t) => {
  const rig = modelRig();
  const other = service({ name: 'other' }, { selector: {} });
  const backends = (name: string) => [
    ...(rig.get('service', `demo/${name}`)?.local.backends.keys() ?? []),
  ];
  rig.set(service({}, { selector: {} }), other, slice('s', [{ addresses: ['10.1.0.1'] }]));
  t.same([backends('web'), backends('other')], [['10.1.0.1'], []]);
  rig.set(slice('s', [{ addresses: ['10.1.0.1'] }], { 'kubernetes.io/service-name': 'other' }));
  t.same([backends('web'), backends('other')], [[], ['10.1.0.1']]);
});

test('a namespace concerns its own pods alone', async (t) => {
  const rig = modelRig();
  rig.set(pod('a', ['10.1.0.1']), pod('b', ['10.1.0.2']));
  rig.set({ kind: 'Namespace', metadata: { name: 'other', labels: { a: 'b' } } });
  t.same(rig.changed(), []);
  rig.set({ kind: 'Namespace', metadata: { name: 'demo', labels: { a: 'b' } } });
  t.same(rig.changed(), ['endpoint 10.1.0.1', 'endpoint 10.1.0.2']);
});

test('a headless service has no frontends, an ExternalName is not exported', async (t) => {
  const rig = modelRig();
  rig.set(service({}, { clusterIP: 'None' }), pod('a', ['10.1.0.1', 'fd00::1']));
  t.match(rig.get('service', 'demo/web'), { local: { headless: true, clusterIps: [] } });
  t.equal(rig.get('service', 'demo/web')?.exported?.frontends.size, 0);
  t.equal(rig.get('service', 'demo/web')?.exported?.backends.size, 2);
  rig.set(service({}, { type: 'ExternalName', clusterIP: '' }));
  t.equal(rig.get('service', 'demo/web')?.exported, undefined);
});

const node = (name: string, addresses: readonly string[], podCIDRs: readonly string[] = []) => ({
  kind: 'Node',
  metadata: { name },
  spec: { podCIDRs },
  status: {
    addresses: addresses.map((address) => ({ type: 'InternalIP', address })),
    nodeInfo: { bootID: 'm' },
  },
});

test('a node is what its manifest says, and where that is silent what its agent says', async (t) => {
  const rig = modelRig();
  rig.facts('n1', ['192.0.2.9'], ['10.9.0.0/24']);
  t.match(rig.get('node', 'n1'), {
    addresses: [{ type: 'InternalIP', ip: '192.0.2.9' }],
    ipv4AllocCidr: '10.9.0.0/24',
    bootId: 'b1',
  });
  rig.set(node('n1', ['192.0.2.1']));
  t.match(rig.get('node', 'n1'), {
    addresses: [{ type: 'InternalIP', ip: '192.0.2.1' }],
    ipv4AllocCidr: '10.9.0.0/24',
    bootId: 'b1',
  });
  rig.facts('n1', undefined);
  t.match(rig.get('node', 'n1'), { ipv4AllocCidr: null, bootId: 'm' }, 'the manifest alone stays');
  rig.facts('n1', ['192.0.2.9']);
  rig.remove(node('n1', []));
  t.ok(rig.get('node', 'n1'), 'without its manifest the node stays by its agent');
  rig.facts('n1', undefined);
  t.equal(rig.get('node', 'n1'), undefined);
});

test('findNodeConflict() names what another node or a pod holds', async (t) => {
  const rig = modelRig();
  rig.set(node('n1', ['192.0.2.1'], ['10.1.0.0/24']), pod('web-0', ['10.3.0.5']));
  rig.facts('n2', ['192.0.2.2'], ['10.2.0.0/24']);
  const cases: readonly [string[], string[], string, RegExp][] = [
    [['192.0.2.1'], [], 'addresses', /192\.0\.2\.1 is held by node n1/],
    [['192.0.2.2'], [], 'addresses', /held by node n2/],
    [['10.3.0.5'], [], 'addresses', /held by pod demo\/web-0/],
    [['10.1.0.7'], [], 'addresses', /lies in 10\.1\.0\.0\/24, the pods of node n1/],
    [['192.0.2.3'], ['10.2.0.0/16'], 'pod_cidrs', /10\.2\.0\.0\/16 overlaps 10\.2\.0\.0\/24/],
    [['192.0.2.3'], ['10.1.0.128/25'], 'pod_cidrs', /overlaps 10\.1\.0\.0\/24/],
    [['192.0.2.3'], ['192.0.2.0/24'], 'pod_cidrs', /contains 192\.0\.2\.1, an address of node n1/],
  ];
  for (const [addresses, cidrs, field, reason] of cases) {
    t.match(rig.model.findNodeConflict('n3', factsOf(addresses, cidrs)), { field, reason });
  }
  t.equal(
    rig.model.findNodeConflict('n1', factsOf(['192.0.2.1'], ['10.1.0.0/24'])),
    undefined,
    'its own',
  );
  t.equal(rig.model.findNodeConflict('n3', factsOf(['192.0.2.3'], ['10.3.1.0/24'])), undefined);
});

test('policies are passed on as they were written', async (t) => {
  const rig = modelRig();
  const policy = {
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumClusterwideNetworkPolicy',
    metadata: { name: 'p', generation: 3 },
    spec: { endpointSelector: {}, anything: [1, { else: null }] },
  };
  rig.set(policy);
  t.same(rig.get('policy', 'CiliumClusterwideNetworkPolicy /p'), {
    kind: 'CiliumClusterwideNetworkPolicy',
    namespace: '',
    name: 'p',
    generation: 3,
    manifest: policy,
  });
  rig.remove(policy);
  t.equal(rig.get('policy', 'CiliumClusterwideNetworkPolicy /p'), undefined);
});

test('10,000 pods and 500 services are converted in reasonable time, one change of them at once', async (t) => {
  const model = createClusterModel(ALPHA);
  const objects: ClusterObject[] = [];
  for (let index = 0; index < 500; index += 1) {
    objects.push(
      parseObject(
        service(
          { name: `s${index}`, namespace: `ns${index % 50}` },
          { selector: { app: `a${index}` } },
        ),
      ),
    );
  }
  for (let index = 0; index < 10_000; index += 1) {
    const object = pod(`p${index}`, [
      `10.${1 + (index >> 16)}.${(index >> 8) & 255}.${index & 255}`,
    ]);
    object.metadata.namespace = `ns${index % 50}`;
    object.metadata.labels = { app: `a${index % 500}` };
    objects.push(parseObject(object));
  }
  const began = systemClock.monotonic();
  const changes = model.apply(objects.map((object) => ({ object, exists: true })));
  const all = systemClock.monotonic() - began;
  t.equal(changes.filter(({ kind }) => kind === 'endpoint').length, 10_000);
  t.equal(changes.filter(({ kind }) => kind === 'service').length, 500);
  const last = objects.at(-1)!;
  const before = systemClock.monotonic();
  for (let round = 0; round < 20; round += 1)
    model.apply([{ object: last, exists: round % 2 === 1 }]);
  const each = (systemClock.monotonic() - before) / 20;
  t.comment(`all: ${all.toFixed(0)} ms, one change: ${each.toFixed(2)} ms`);
  t.ok(all < 5_000, `${all} ms for everything`);
  t.ok(each < 50, `${each} ms for one change`);
});

test('the labels that count can be chosen, and the cluster is always among them', async (t) => {
  const labelsWith = (filter: string): string => {
    const model = createClusterModel(ALPHA, { labelFilter: parseLabelFilter(filter) });
    const object = parseObject(pod('web-0', ['10.1.0.5'], { labels: { team: 'red' } }));
    const [change] = model.apply([{ object, exists: true }]);
    return change?.kind === 'endpoint' ? encodeLabels(change.value?.labels ?? []) : '';
  };
  const given =
    'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo;k8s:io.cilium.k8s.policy.cluster=alpha;' +
    'k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=demo;';
  t.equal(labelsWith(''), `k8s:app=web;${given}k8s:team=red;`);
  t.equal(labelsWith('!team'), `k8s:app=web;${given}`);
  t.equal(labelsWith('k8s:team'), `${given}k8s:team=red;`);
  t.equal(
    labelsWith('!io\\.cilium\\.k8s\\.namespace\\.labels !io\\.cilium\\.k8s\\.policy'),
    'k8s:app=web;k8s:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.serviceaccount=default;' +
      'k8s:io.kubernetes.pod.namespace=demo;k8s:team=red;',
  );
  t.match(labelsWith('!io\\.cilium\\.k8s\\.policy\\.cluster'), /policy\.cluster=alpha;/);
});

test('equal labels are one object, whoever has them', async (t) => {
  const rig = modelRig();
  rig.set(pod('web-0', ['10.1.0.5', 'fd00::5']), pod('web-1', ['10.1.0.6']));
  const labels = ['10.1.0.5', 'fd00::5', '10.1.0.6'].map((ip) => rig.get('endpoint', ip)?.labels);
  t.equal(new Set(labels).size, 1);
});

test('a pod is published when it has an address, and where it gets another one', async (t) => {
  const rig = modelRig();
  rig.set(pod('web-0', []));
  t.same(rig.changed(), []);
  rig.set(pod('web-0', ['10.1.0.5']));
  t.same(rig.changed(), ['endpoint 10.1.0.5']);
  rig.set(pod('web-0', ['10.1.0.6']));
  t.same(rig.changed().sort(), ['endpoint 10.1.0.5', 'endpoint 10.1.0.6']);
  t.equal(rig.get('endpoint', '10.1.0.5'), undefined);
  t.match(rig.get('endpoint', '10.1.0.6'), { podName: 'web-0' });
});

test('a node of a cluster that Cilium runs holds what its CiliumNode says', async (t) => {
  const model = createClusterModel(ALPHA, { mode: 'cilium' });
  const objects = [
    {
      kind: 'CiliumNode',
      metadata: { name: 'n1' },
      spec: {
        addresses: [{ type: 'InternalIP', ip: '192.0.2.1' }],
        ipam: { podCIDRs: ['10.1.0.0/24'] },
      },
    },
    {
      kind: 'CiliumEndpoint',
      metadata: { name: 'web-0', namespace: 'demo' },
      status: { networking: { addressing: [{ ipv4: '10.1.0.5' }] } },
    },
  ].map((object) => ({ object: parseObject(object), exists: true }));
  model.apply(objects);
  const reason = (addresses: string[], cidrs: string[] = []) =>
    model.findNodeConflict('vm1', factsOf(addresses, cidrs))?.reason;
  t.equal(reason(['192.0.2.1']), '192.0.2.1 is held by node n1');
  t.equal(reason(['10.1.0.5']), '10.1.0.5 is held by pod demo/web-0');
  t.equal(
    reason(['192.0.2.9'], ['10.1.0.0/25']),
    '10.1.0.0/25 overlaps 10.1.0.0/24, the pods of node n1',
  );
  t.equal(reason(['192.0.2.9'], ['10.2.0.0/24']), undefined);
  const [change] = model.setNodeFacts('vm1', factsOf(['192.0.2.9']));
  t.match(change, { kind: 'node', name: 'vm1', value: { addresses: [{ ip: '192.0.2.9' }] } });
});
