import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { ClusterService, L4Port } from '../../mesh/wire/service.ts';
import { parseKubernetesObject } from './kubernetes-object.ts';
import { groupEndpoints } from './slice-endpoints.ts';
import { isMeshSlice, makeMeshSlice, readMeshSlice, sliceName } from './slice-object.ts';

function remote(
  backends: Record<string, Record<string, L4Port>>,
  hostnames: Record<string, string> = {},
): ClusterService {
  return {
    cluster: parseClusterName('beta'),
    namespace: 'shop',
    name: 'web',
    frontends: new Map(),
    backends: new Map(
      Object.entries(backends).map(([ip, ports]) => [
        parseIpAddress(ip),
        new Map(Object.entries(ports)),
      ]),
    ),
    hostnames: new Map(Object.entries(hostnames).map(([ip, name]) => [parseIpAddress(ip), name])),
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: 2,
  };
}
const tcp = (port: number): L4Port => ({ protocol: 'TCP', port });

test('families are those of the local Service, ports those of the record', (t) => {
  const service = remote({
    '10.2.0.1': { http: tcp(8080) },
    '10.2.0.2': { http: tcp(8080) },
    '10.2.0.3': { http: tcp(9090) },
    'fd00::1': { http: tcp(8080), '': { protocol: 'UDP', port: 53 } },
  });
  const { groups, refused } = groupEndpoints(service, ['IPv4', 'IPv6']);
  t.same(refused, []);
  t.same(
    groups.map(({ addressType, ports, endpoints }) => [addressType, ports, [...endpoints.keys()]]),
    [
      ['IPv4', [{ name: 'http', protocol: 'TCP', port: 8080 }], ['10.2.0.1', '10.2.0.2']],
      ['IPv4', [{ name: 'http', protocol: 'TCP', port: 9090 }], ['10.2.0.3']],
      [
        'IPv6',
        [
          { name: '', protocol: 'UDP', port: 53 },
          { name: 'http', protocol: 'TCP', port: 8080 },
        ],
        ['fd00::1'],
      ],
    ],
    'backends of other ports are in slices of their own',
  );
  t.same(
    groupEndpoints(service, ['IPv6']).groups.map(({ addressType }) => addressType),
    ['IPv6'],
  );
  t.end();
});

test('what Kubernetes would refuse is left out, and the rest stays', (t) => {
  const { groups, refused } = groupEndpoints(
    remote(
      {
        '127.0.0.1': { http: tcp(80) },
        '169.254.1.1': { http: tcp(80) },
        '224.0.0.9': { http: tcp(80) },
        'fe80::1': { http: tcp(80) },
        '10.2.0.1': { http: tcp(80), 'Not A Name': tcp(81), zero: tcp(0) },
      },
      { '10.2.0.1': 'web_0' },
    ),
    ['IPv4', 'IPv6'],
  );
  t.same(
    groups.map(({ endpoints, ports }) => [[...endpoints.values()], ports]),
    [
      [
        [{ address: '10.2.0.1', hostname: undefined }],
        [{ name: 'http', protocol: 'TCP', port: 80 }],
      ],
    ],
  );
  t.equal(refused.length, 7);
  t.end();
});

test('a slice says whose it is (section 6.4)', (t) => {
  const service = parseKubernetesObject({
    metadata: {
      name: 'web',
      namespace: 'shop',
      uid: 'u1',
      resourceVersion: '1',
      labels: {
        app: 'web',
        'kubernetes.io/service-name': 'other',
        'endpointslice.kubernetes.io/managed-by': 'me',
      },
    },
  });
  const owner = { service, cluster: parseClusterName('beta'), isHeadless: true };
  const name = sliceName(owner, 'IPv4', 0);
  const endpoints = [{ address: '10.2.0.1', hostname: 'web-0' }];
  const ports = [{ name: 'http', protocol: 'TCP' as const, port: 80 }];
  const made = makeMeshSlice(owner, { name, addressType: 'IPv4', ports, endpoints });
  t.match(name, /^web-beta-[0-9a-f]{10}$/);
  t.same(made.metadata.labels, {
    app: 'web',
    'kubernetes.io/service-name': 'web',
    'endpointslice.kubernetes.io/managed-by': 'endpointslice-mesh-controller.cilium.io',
    'multicluster.kubernetes.io/source-cluster': 'beta',
    'service.kubernetes.io/headless': '',
  });
  t.same(made.metadata.ownerReferences, [
    {
      apiVersion: 'v1',
      kind: 'Service',
      name: 'web',
      uid: 'u1',
      controller: true,
      blockOwnerDeletion: true,
    },
  ]);
  t.same(made.endpoints, [
    {
      addresses: ['10.2.0.1'],
      conditions: { ready: true, serving: true, terminating: false },
      hostname: 'web-0',
      nodeName: 'beta',
    },
  ]);
  const read = parseKubernetesObject({
    ...made,
    metadata: { ...made.metadata, uid: 'x', resourceVersion: '1' },
  });
  t.ok(isMeshSlice(read));
  t.match(readMeshSlice(read), { addressType: 'IPv4', ports, endpoints });
  t.equal(sliceName(owner, 'IPv4', 0), name, 'the same in every replica');
  t.not(sliceName(owner, 'IPv6', 0), name);
  t.not(sliceName(owner, 'IPv4', 1), name);
  t.end();
});
