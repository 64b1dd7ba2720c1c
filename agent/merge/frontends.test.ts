import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { ClusterService, PortMap, Protocol } from '../../mesh/wire/service.ts';
import type { Backend, FrontendEntry } from '../datapath/desired.ts';
import { frontendsOf, sameFrontend } from './frontends.ts';
import { DEFAULT_SERVICE_RULES } from './service-rules.ts';

type Ports = Record<string, readonly [Protocol, number]>;

function backends(entries: Record<string, Ports>): ReadonlyMap<IpAddress, PortMap> {
  return new Map(
    Object.entries(entries).map(([ip, ports]) => [
      parseIpAddress(ip),
      new Map(Object.entries(ports).map(([name, [protocol, port]]) => [name, { protocol, port }])),
    ]),
  );
}

function local(changes: Partial<LocalService> = {}): LocalService {
  return {
    namespace: 'demo',
    name: 'web',
    clusterIps: [parseIpAddress('10.96.0.1')],
    ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
    headless: false,
    global: true,
    shared: true,
    affinity: 'none',
    ...PLAIN_TRAFFIC,
    backends: backends({ '10.1.0.5': { http: ['TCP', 8080] } }),
    ...changes,
  };
}

function remote(
  clusterId: number,
  entries: Record<string, Ports>,
  changes: Partial<ClusterService> = {},
): ClusterService {
  return {
    cluster: parseClusterName(`c${clusterId}`),
    namespace: 'demo',
    name: 'web',
    frontends: new Map(),
    backends: backends(entries),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId,
    ...changes,
  };
}

const NONE = backends({});
const BETA = remote(2, { '10.2.0.5': { http: ['TCP', 9090] } });

function texts(
  service: LocalService,
  remotes: readonly ClusterService[] = [],
  remembered: readonly Backend[] = [],
): string[] {
  const node = { clusterId: 1, nodeName: 'n1', nodeIps: [], zone: '' };
  const rules = DEFAULT_SERVICE_RULES;
  return frontendsOf(service, { node, rules, remotes, remembered: () => remembered }).map((row) =>
    `${row.address}:${row.port}/${row.protocol} ${row.backends.map(({ address, port, clusterId }) => `${address}:${port}@${clusterId}`).join(' ')}`.trim(),
  );
}

const LOCAL = '10.1.0.5:8080@1';
const REMOTE = '10.2.0.5:9090@2';
const cases: readonly [name: string, found: () => string[], wanted: readonly string[]][] = [
  ['none: both', () => texts(local(), [BETA]), [`10.96.0.1:80/TCP ${LOCAL} ${REMOTE}`]],
  [
    'not global: remote ones never',
    () => texts(local({ global: false }), [BETA]),
    [`10.96.0.1:80/TCP ${LOCAL}`],
  ],
  [
    'not global and nothing local: refused',
    () => texts(local({ global: false, backends: NONE }), [BETA]),
    ['10.96.0.1:80/TCP'],
  ],
  [
    'local: only local ones',
    () => texts(local({ affinity: 'local' }), [BETA]),
    [`10.96.0.1:80/TCP ${LOCAL}`],
  ],
  [
    'local, none there: remote ones',
    () => texts(local({ affinity: 'local', backends: NONE }), [BETA]),
    [`10.96.0.1:80/TCP ${REMOTE}`],
  ],
  [
    'remote: only remote ones',
    () => texts(local({ affinity: 'remote' }), [BETA]),
    [`10.96.0.1:80/TCP ${REMOTE}`],
  ],
  [
    'remote, none there: local ones',
    () => texts(local({ affinity: 'remote' }), []),
    [`10.96.0.1:80/TCP ${LOCAL}`],
  ],
  [
    'a peer that no longer shares',
    () => texts(local(), [{ ...BETA, shared: false }]),
    [`10.96.0.1:80/TCP ${LOCAL}`],
  ],
  ['headless: none', () => texts(local({ headless: true }), [BETA]), []],
  [
    'the same port name, whatever the number',
    () =>
      texts(local({ backends: NONE }), [
        remote(2, { '10.2.0.5': { https: ['TCP', 80], http: ['TCP', 81] } }),
      ]),
    ['10.96.0.1:80/TCP 10.2.0.5:81@2'],
  ],
  [
    'the same name but another protocol: not',
    () => texts(local({ backends: NONE }), [remote(2, { '10.2.0.5': { http: ['UDP', 80] } })]),
    ['10.96.0.1:80/TCP'],
  ],
  [
    'an unnamed port matches an unnamed one',
    () =>
      texts(local({ ports: [{ name: '', protocol: 'UDP', port: 53 }], backends: NONE }), [
        remote(2, { '10.2.0.5': { '': ['UDP', 5353] } }),
      ]),
    ['10.96.0.1:53/UDP 10.2.0.5:5353@2'],
  ],
  [
    'each family has its own backends',
    () =>
      texts(
        local({
          clusterIps: [parseIpAddress('10.96.0.1'), parseIpAddress('fd00::1')],
          backends: backends({ '10.1.0.5': { http: ['TCP', 1] }, 'fd01::5': { http: ['TCP', 2] } }),
        }),
      ),
    ['10.96.0.1:80/TCP 10.1.0.5:1@1', 'fd00::1:80/TCP fd01::5:2@1'],
  ],
  [
    'several peers',
    () =>
      texts(local({ backends: NONE }), [BETA, remote(3, { '10.3.0.5': { http: ['TCP', 80] } })]),
    [`10.96.0.1:80/TCP ${REMOTE} 10.3.0.5:80@3`],
  ],
];

for (const [name, found, wanted] of cases) {
  test(`frontendsOf(): ${name}`, async (t) => {
    t.same(found(), wanted);
  });
}

test('frontendsOf() keeps what is remembered of a cluster until that cluster speaks, and for global services only', async (t) => {
  const remembered: Backend[] = [
    { address: parseIpAddress('10.2.0.9'), port: 1, protocol: 'TCP', clusterId: 2 },
  ];
  t.same(texts(local(), [], remembered), [`10.96.0.1:80/TCP ${LOCAL} 10.2.0.9:1@2`]);
  t.same(texts(local(), [BETA], remembered), [`10.96.0.1:80/TCP ${LOCAL} ${REMOTE}`]);
  t.same(texts(local({ global: false }), [], remembered), [`10.96.0.1:80/TCP ${LOCAL}`]);
});

test('sameFrontend() does not look at the order of backends', async (t) => {
  const backend = (ip: string): Backend => ({
    address: parseIpAddress(ip),
    port: 80,
    protocol: 'TCP',
    clusterId: 1,
  });
  const row = (...ips: string[]): FrontendEntry => ({
    address: parseIpAddress('10.96.0.1'),
    port: 80,
    protocol: 'TCP',
    scope: 'internal',
    isExternal: false,
    service: '',
    backends: ips.map(backend),
    draining: [],
    affinitySeconds: 0,
    algorithm: 'random',
  });
  t.ok(sameFrontend(row('10.0.0.1', '10.0.0.2'), row('10.0.0.2', '10.0.0.1')));
  t.notOk(sameFrontend(row('10.0.0.1'), row('10.0.0.2')));
  t.notOk(sameFrontend(row('10.0.0.1'), row('10.0.0.1', '10.0.0.2')));
  const one = row('10.0.0.1');
  t.ok(sameFrontend(one, { ...one, service: 'of somebody' }), 'the kernel knows no names');
  t.notOk(sameFrontend(one, { ...one, isExternal: true }));
  t.notOk(sameFrontend(one, { ...one, affinitySeconds: 1 }));
  t.notOk(sameFrontend(one, { ...one, algorithm: 'maglev' }));
  t.notOk(sameFrontend(one, { ...one, draining: [backend('10.0.0.2')] }));
});
