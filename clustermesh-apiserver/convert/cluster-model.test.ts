import { test } from 'tap';
import { encodeLabels } from '../../mesh/wire/identity.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { type ClusterObject, parseObject } from '../sources/objects.ts';
import { createClusterModel, type RecordChange } from './cluster-model.ts';

const cluster = { name: parseClusterName('alpha'), id: parseClusterId(1) };

function pod(
  name: string,
  ip: string,
  options: { labels?: Record<string, string>; ready?: boolean; spec?: object } = {},
) {
  return parseObject({
    kind: 'Pod',
    metadata: { name, namespace: 'demo', labels: options.labels ?? { app: 'web' } },
    spec: {
      nodeName: 'n1',
      containers: [{ ports: [{ name: 'http', containerPort: 8080 }] }],
      ...options.spec,
    },
    status: {
      podIP: ip,
      hostIP: '192.0.2.1',
      ...(options.ready === undefined
        ? {}
        : { conditions: [{ type: 'Ready', status: options.ready ? 'True' : 'False' }] }),
    },
  });
}

function service(annotations: Record<string, string> = { 'service.cilium.io/global': 'true' }) {
  return parseObject({
    kind: 'Service',
    metadata: { name: 'web', namespace: 'demo', annotations },
    spec: {
      clusterIP: '10.96.0.1',
      selector: { app: 'web' },
      ports: [{ name: 'http', port: 80, targetPort: 'http' }],
    },
  });
}

function slice(
  name: string,
  addresses: readonly string[],
  options: { ready?: boolean; serving?: boolean; managedBy?: string } = {},
) {
  return parseObject({
    kind: 'EndpointSlice',
    metadata: {
      name,
      namespace: 'demo',
      labels: {
        'kubernetes.io/service-name': 'web',
        ...(options.managedBy === undefined
          ? {}
          : { 'endpointslice.kubernetes.io/managed-by': options.managedBy }),
      },
    },
    addressType: 'IPv4',
    endpoints: [
      {
        addresses,
        conditions: { ready: options.ready ?? true, serving: options.serving ?? null },
        zone: 'za',
      },
    ],
    ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
  });
}

const upsert = (...objects: ClusterObject[]) => objects.map((object) => ({ object, exists: true }));
const remove = (...objects: ClusterObject[]) =>
  objects.map((object) => ({ object, exists: false }));

function backendsIn(changes: readonly RecordChange[]): readonly string[] | undefined {
  const change = changes.findLast((candidate) => candidate.kind === 'service');
  return change?.kind === 'service' && change.value !== undefined
    ? [...change.value.local.backends.keys()]
    : undefined;
}

test('a pod becomes an address with the labels of its identity', async (t) => {
  const model = createClusterModel(cluster);
  model.apply(
    upsert(parseObject({ kind: 'Namespace', metadata: { name: 'demo', labels: { team: 'red' } } })),
  );
  const [change] = model.apply(
    upsert(pod('web-0', '10.1.0.5', { labels: { app: 'web', 'pod-template-hash': 'x' } })),
  );
  t.equal(change?.kind, 'endpoint');
  const value = change?.kind === 'endpoint' ? change.value : undefined;
  t.equal(
    encodeLabels(value?.labels ?? []),
    'k8s:app=web;k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=demo;k8s:io.cilium.k8s.namespace.labels.team=red;' +
      'k8s:io.cilium.k8s.policy.cluster=alpha;k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=demo;',
  );
  t.equal(value?.hostIp, '192.0.2.1');
  t.same(value?.namedPorts, [{ name: 'http', port: 8080, protocol: 'TCP' }]);
});

test('a pod cannot claim another cluster or namespace by a label of its own', async (t) => {
  const model = createClusterModel(cluster);
  const labels = {
    'io.cilium.k8s.policy.cluster': 'beta',
    'io.kubernetes.pod.namespace': 'kube-system',
  };
  const [change] = model.apply(upsert(pod('web-0', '10.1.0.5', { labels })));
  const text = encodeLabels((change?.kind === 'endpoint' && change.value?.labels) || []);
  t.match(text, /k8s:io\.cilium\.k8s\.policy\.cluster=alpha;/);
  t.notMatch(text, /beta|kube-system/);
});

test('a changed namespace label changes the identities of its pods, and of no others', async (t) => {
  const model = createClusterModel(cluster);
  model.apply(upsert(pod('web-0', '10.1.0.5'), pod('web-1', '10.1.0.6')));
  const changes = model.apply(
    upsert(parseObject({ kind: 'Namespace', metadata: { name: 'demo', labels: { a: 'b' } } })),
  );
  t.equal(changes.filter((change) => change.kind === 'endpoint').length, 2);
  t.equal(
    model.apply(upsert(parseObject({ kind: 'Namespace', metadata: { name: 'other' } }))).length,
    0,
  );
});

test('of two pods with one address the first publishes it, and the second takes over', async (t) => {
  const model = createClusterModel(cluster);
  const first = pod('first', '10.1.0.5');
  const second = pod('second', '10.1.0.5');
  const owner = (changes: readonly RecordChange[]) =>
    changes.flatMap((change) => (change.kind === 'endpoint' ? [change.value?.podName] : []));
  t.same(owner(model.apply(upsert(first))), ['first']);
  t.same(owner(model.apply(upsert(second))), ['first']);
  t.same(owner(model.apply(remove(first))), ['second']);
  t.same(owner(model.apply(remove(second))), [undefined]);
});

test('pods on the host network and finished pods hold no address', async (t) => {
  const model = createClusterModel(cluster);
  t.same(model.apply(upsert(pod('host', '10.1.0.5', { spec: { hostNetwork: true } }))), []);
  const running = pod('job', '10.1.0.6');
  model.apply(upsert(running));
  const finished = { ...running, finished: true } as ClusterObject;
  const [change] = model.apply(upsert(finished));
  t.match(change, { kind: 'endpoint', address: '10.1.0.6', value: undefined });
});

test('backends come from pods as long as a service has no slices', async (t) => {
  const model = createClusterModel(cluster);
  t.same(
    backendsIn(
      model.apply(
        upsert(service(), pod('web-0', '10.1.0.5'), pod('sick', '10.1.0.7', { ready: false })),
      ),
    ),
    ['10.1.0.5'],
  );
  t.same(backendsIn(model.apply(upsert(slice('web-a', ['10.1.0.6'])))), ['10.1.0.6']);
  t.same(backendsIn(model.apply(remove(slice('web-a', ['10.1.0.6'])))), ['10.1.0.5']);
  t.same(backendsIn(model.apply(remove(pod('web-0', '10.1.0.5')))), []);
});

test('ready and serving backends count, others do not, and mesh slices never', async (t) => {
  const model = createClusterModel(cluster);
  model.apply(upsert(service()));
  t.same(
    backendsIn(model.apply(upsert(slice('a', ['10.1.0.5'], { ready: false, serving: true })))),
    ['10.1.0.5'],
  );
  t.same(backendsIn(model.apply(upsert(slice('b', ['10.1.0.6'], { ready: false })))), ['10.1.0.5']);
  const mesh = slice('c', ['10.2.0.6'], { managedBy: 'endpointslice-mesh-controller.cilium.io' });
  t.same(backendsIn(model.apply(upsert(mesh))), ['10.1.0.5']);
});

test('a service is exported while it is global and shared, and kept for our own agents always', async (t) => {
  const model = createClusterModel(cluster);
  const exported = (annotations: Record<string, string>) => {
    const [change] = model.apply(upsert(service(annotations)));
    return change?.kind === 'service' && change.value !== undefined
      ? change.value.exported !== undefined
      : undefined;
  };
  t.equal(exported({}), false);
  t.equal(exported({ 'service.cilium.io/global': 'true' }), true);
  t.equal(
    exported({ 'service.cilium.io/global': 'true', 'service.cilium.io/shared': 'false' }),
    false,
  );
  const [gone] = model.apply(remove(service()));
  t.match(gone, { kind: 'service', value: undefined });
});

test('a slice that moves to another service leaves the first', async (t) => {
  const model = createClusterModel(cluster);
  model.apply(upsert(service(), slice('s', ['10.1.0.5'])));
  const moved = { ...slice('s', ['10.1.0.5']), service: 'other' } as ClusterObject;
  t.same(
    backendsIn(
      model
        .apply(upsert(moved))
        .filter((change) => change.kind === 'service' && change.name === 'web'),
    ),
    [],
  );
});
