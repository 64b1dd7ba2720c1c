import { test } from 'tap';
import type { DesiredObject } from '../applied-fields.ts';
import { recordOf } from '../kubernetes-object.ts';
import { type MirrorInput, mirroredSlices } from './mirrored-slice.ts';
import { serviceOf, sliceOf } from './testing/kubernetes-objects.ts';

const derived = (...ports: readonly object[]) =>
  serviceOf('derived-p1lq1mrn4r', {
    metadata: { labels: { tier: 'gold', 'multicluster.kubernetes.io/service-name': 'db' } },
    ports: ports.length === 0 ? [{ name: 'pg', port: 5432, protocol: 'TCP' }] : ports,
  });

const INPUT: MirrorInput = {
  cluster: 'alpha',
  service: serviceOf('db'),
  slices: [sliceOf('db-x7k2p')],
  derived: derived(),
  families: ['IPv4'],
};
const portsOf = (slice: DesiredObject | undefined): unknown => slice?.ports;

test('mirroredSlices() takes a slice over with the labels of the API', async (t) => {
  const [slice, ...more] = mirroredSlices(INPUT);
  t.equal(more.length, 0);
  t.strictSame(slice?.metadata, {
    name: 'derived-p1lq1mrn4r-x7k2p',
    namespace: 'data',
    labels: {
      tier: 'gold',
      'multicluster.kubernetes.io/service-name': 'db',
      'kubernetes.io/service-name': 'derived-p1lq1mrn4r',
      'multicluster.kubernetes.io/source-cluster': 'alpha',
      'endpointslice.kubernetes.io/managed-by': 'endpointslice-local-mcsapi-controller.cilium.io',
      'service.cilium.io/local-endpointslice': 'db-x7k2p',
    },
    ownerReferences: [
      {
        apiVersion: 'v1',
        kind: 'Service',
        name: 'derived-p1lq1mrn4r',
        uid: 'uid-of-derived-p1lq1mrn4r',
        controller: true,
        blockOwnerDeletion: true,
      },
    ],
  });
  t.equal(slice?.addressType, 'IPv4');
  t.strictSame(slice?.endpoints, INPUT.slices[0]?.endpoints, 'every endpoint as it is');
  t.strictSame(portsOf(slice), [{ name: 'pg', protocol: 'TCP', port: 5432 }]);
});

/** Slices that are not mirrored. */
const NOT_MIRRORED = {
  'of another family': sliceOf('db-a', { addressType: 'IPv6' }),
  'of names': sliceOf('db-a', { addressType: 'FQDN' }),
  'of another Service': sliceOf('web-a', {
    metadata: { labels: { 'kubernetes.io/service-name': 'web' } },
  }),
  'of a peer, by Cilium': sliceOf('db-a', {
    metadata: {
      labels: {
        'kubernetes.io/service-name': 'db',
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io',
      },
    },
  }),
  'mirrored already': sliceOf('db-a', {
    metadata: {
      labels: {
        'kubernetes.io/service-name': 'db',
        'endpointslice.kubernetes.io/managed-by': 'endpointslice-local-mcsapi-controller.cilium.io',
      },
    },
  }),
  'being deleted': sliceOf('db-a', {
    metadata: {
      deletionTimestamp: '2026-01-02T03:04:05Z',
      labels: { 'kubernetes.io/service-name': 'db' },
    },
  }),
};

for (const [name, slice] of Object.entries(NOT_MIRRORED)) {
  test(`mirroredSlices() leaves out a slice ${name}`, async (t) => {
    t.strictSame(mirroredSlices({ ...INPUT, slices: [slice] }), []);
  });
}

test('mirroredSlices() gives a port the imported name, and leaves out one on which clusters disagree', async (t) => {
  const ports = [
    { name: 'web', port: 8080, protocol: 'TCP' },
    { name: 'pg', port: 15432, protocol: 'TCP' },
  ];
  const service = serviceOf('db', {
    ports: [
      { name: 'web', port: 80, protocol: 'TCP' },
      { name: 'pg', port: 5433, protocol: 'TCP' },
    ],
  });
  const [slice] = mirroredSlices({
    ...INPUT,
    service,
    slices: [sliceOf('db-a', { ports })],
    derived: derived(
      { name: 'http', port: 80, protocol: 'TCP' },
      { name: 'pg', port: 5432, protocol: 'TCP' },
    ),
  });
  t.strictSame(portsOf(slice), [{ name: 'http', protocol: 'TCP', port: 8080 }]);
});

test('mirroredSlices() tells protocols of one number apart', async (t) => {
  const ports = [
    { name: 'tcp', port: 42, protocol: 'TCP' },
    { name: 'udp', port: 42, protocol: 'UDP' },
  ];
  const [slice] = mirroredSlices({
    ...INPUT,
    service: serviceOf('db', { ports }),
    slices: [sliceOf('db-a', { ports })],
    derived: derived({ name: 'udp', port: 42, protocol: 'UDP' }),
  });
  t.strictSame(portsOf(slice), [{ name: 'udp', protocol: 'UDP', port: 42 }]);
});

test('mirroredSlices() leaves out a slice of which no port is imported', async (t) => {
  const none = derived({ name: 'other', port: 1, protocol: 'TCP' });
  t.strictSame(mirroredSlices({ ...INPUT, derived: none }), []);
});

test('mirroredSlices() takes a headless Service without ports', async (t) => {
  const [slice] = mirroredSlices({
    ...INPUT,
    service: serviceOf('db', { clusterIP: 'None', clusterIPs: ['None'], ports: [] }),
    slices: [sliceOf('db-a', { ports: null })],
    derived: serviceOf('derived-p1lq1mrn4r', {
      clusterIP: 'None',
      clusterIPs: ['None'],
      ports: [],
    }),
  });
  t.strictSame(portsOf(slice), []);
  t.equal(slice?.metadata.labels?.['service.kubernetes.io/headless'], '');
});

test('mirroredSlices() names every slice once, whatever the names are', async (t) => {
  const long = `db-${'x'.repeat(245)}`;
  const slices = ['db-a', 'db--a', 'a', 'db', long].map((name) => sliceOf(name));
  const names = mirroredSlices({ ...INPUT, slices }).map(({ metadata }) => metadata.name);
  t.equal(new Set(names).size, 5);
  t.ok(names.every((name) => name.length <= 253 && name.startsWith('derived-p1lq1mrn4r')));
  const labels = mirroredSlices({ ...INPUT, slices }).map(
    ({ metadata }) => metadata.labels?.['service.cilium.io/local-endpointslice'] ?? '',
  );
  t.ok(
    labels.every((label) => label.length <= 63),
    'a label has 63 characters at most',
  );
  t.equal(new Set(labels).size, 5);
});

test('mirroredSlices() of another cluster bears its name', async (t) => {
  const [slice] = mirroredSlices({ ...INPUT, cluster: 'beta' });
  t.equal(recordOf(slice?.metadata.labels)?.['multicluster.kubernetes.io/source-cluster'], 'beta');
});
