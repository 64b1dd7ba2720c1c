import { test } from 'tap';
import type { BackendPlace } from '../../mesh/wire/backend-place.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { BackendZone, ClusterService, PortMap } from '../../mesh/wire/service.ts';
import type { Backend } from '../datapath/desired.ts';
import { frontendsOf } from './frontends.ts';
import { DEFAULT_SERVICE_RULES, type ServiceNode, type ServiceRules } from './service-rules.ts';

const ip = parseIpAddress;
const HTTP: PortMap = new Map([['http', { protocol: 'TCP', port: 8080 }]]);
const serving = (...ips: string[]): ReadonlyMap<ReturnType<typeof ip>, PortMap> =>
  new Map(ips.map((text) => [ip(text), HTTP]));

function places(entries: Record<string, Partial<BackendPlace>>): LocalService['places'] {
  return new Map(
    Object.entries(entries).map(([text, place]) => [
      ip(text),
      { node: '', zone: '', forZones: [], forNodes: [], ...place },
    ]),
  );
}

/** Own backends .1 on this node and .2 on another one; a global Service unless `changes` say otherwise. */
function local(changes: Partial<LocalService> = {}): LocalService {
  return {
    namespace: 'demo',
    name: 'web',
    clusterIps: [ip('10.96.0.1')],
    ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
    headless: false,
    global: true,
    shared: true,
    affinity: 'none',
    ...PLAIN_TRAFFIC,
    backends: serving('10.1.0.1', '10.1.0.2'),
    places: places({ '10.1.0.1': { node: 'n1' }, '10.1.0.2': { node: 'n2' } }),
    ...changes,
  };
}

function remote(zones?: Record<string, BackendZone>, ...ips: string[]): ClusterService {
  return {
    cluster: parseClusterName('beta'),
    namespace: 'demo',
    name: 'web',
    frontends: new Map(),
    backends: serving(...(ips.length === 0 ? ['10.2.0.1'] : ips)),
    hostnames: undefined,
    zones: zones && new Map(Object.entries(zones).map(([text, zone]) => [ip(text), zone])),
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: 2,
  };
}

const NODE: ServiceNode = {
  clusterId: 1,
  nodeName: 'n1',
  nodeIps: [ip('192.0.2.1'), ip('2001:db8::1')],
  zone: 'za',
};
const REPLACEMENT: ServiceRules = { ...DEFAULT_SERVICE_RULES, kubeProxyReplacement: true };

interface Given {
  readonly service?: Partial<LocalService>;
  readonly rules?: ServiceRules;
  readonly remotes?: readonly ClusterService[];
  readonly remembered?: readonly Backend[];
  readonly node?: Partial<ServiceNode>;
}

/** Rows as `address:port scope backends / draining`; a star where clients from outside may come. */
function rows({
  service,
  rules = REPLACEMENT,
  remotes = [],
  remembered = [],
  node,
}: Given): string[] {
  const found = frontendsOf(local(service), {
    node: { ...NODE, ...node },
    rules,
    remotes,
    remembered: () => remembered,
  });
  const list = (backends: readonly Backend[]): string =>
    backends.map(({ address }) => address).join(' ');
  return found.map((row) =>
    [
      `${row.address}:${row.port}`,
      `${row.scope === 'internal' ? 'in' : 'out'}${row.isExternal ? '*' : ''}`,
      list(row.backends),
      ...(row.draining.length === 0 ? [] : [`/ ${list(row.draining)}`]),
    ]
      .join(' ')
      .trim(),
  );
}

const NODE_PORT = {
  type: 'NodePort',
  ports: [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 }],
} as const;
const BALANCED = {
  ...NODE_PORT,
  type: 'LoadBalancer',
  loadBalancerIps: [ip('198.51.100.7')],
} as const;
const DUAL = { clusterIps: [ip('10.96.0.1'), ip('fd00::1')] };
const BOTH = '10.1.0.1 10.1.0.2';
/** Hints of both own backends for these zones. */
const hinted = (one: string, two: string): Partial<LocalService> => ({
  places: places({
    '10.1.0.1': { zone: one, forZones: [one] },
    '10.1.0.2': { zone: two, forZones: [two] },
  }),
});

const CASES: readonly (readonly [what: string, given: Given, wanted: readonly string[]])[] = [
  // Which addresses
  ['a cluster address', {}, [`10.96.0.1:80 in ${BOTH}`]],
  [
    'a node port: on our own address of the family, for everybody',
    { service: NODE_PORT },
    [`10.96.0.1:80 in ${BOTH}`, `192.0.2.1:30080 in* ${BOTH}`],
  ],
  [
    'a node port beside kube-proxy is left to it',
    { service: { ...NODE_PORT, externalIps: [ip('192.0.2.9')] }, rules: DEFAULT_SERVICE_RULES },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'a node port of both families',
    { service: { ...NODE_PORT, ...DUAL, backends: serving('10.1.0.1', 'fd01::1') } },
    [
      '10.96.0.1:80 in 10.1.0.1',
      '192.0.2.1:30080 in* 10.1.0.1',
      'fd00::1:80 in fd01::1',
      '2001:db8::1:30080 in* fd01::1',
    ],
  ],
  [
    'a number that a type without node ports has kept',
    { service: { ...NODE_PORT, type: 'ClusterIP' } },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'externalIPs of any type, of the families of the Service',
    { service: { externalIps: [ip('192.0.2.9'), ip('2001:db8::9')] } },
    [`10.96.0.1:80 in ${BOTH}`, `192.0.2.9:80 in* ${BOTH}`],
  ],
  [
    'a load balancer: its addresses and the node port',
    { service: BALANCED },
    [`10.96.0.1:80 in ${BOTH}`, `198.51.100.7:80 in* ${BOTH}`, `192.0.2.1:30080 in* ${BOTH}`],
  ],
  [
    'a load balancer for some clients only is not offered by nodes',
    { service: { ...BALANCED, hasSourceRanges: true } },
    [`10.96.0.1:80 in ${BOTH}`, `192.0.2.1:30080 in* ${BOTH}`],
  ],
  [
    'addresses of a load balancer that there is no more',
    { service: { ...BALANCED, type: 'NodePort' } },
    [`10.96.0.1:80 in ${BOTH}`, `192.0.2.1:30080 in* ${BOTH}`],
  ],
  [
    'an address that a Service has twice',
    { service: { ...BALANCED, externalIps: [ip('198.51.100.7'), ip('10.96.0.1')] } },
    [`10.96.0.1:80 in ${BOTH}`, `198.51.100.7:80 in* ${BOTH}`, `192.0.2.1:30080 in* ${BOTH}`],
  ],
  ['a headless Service', { service: { ...NODE_PORT, headless: true } }, []],
  ['an ExternalName', { service: { type: 'ExternalName' } }, []],
  [
    'beside kube-proxy, a global Service',
    { rules: { ...DEFAULT_SERVICE_RULES, services: 'global' } },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'beside kube-proxy, any other one',
    { service: { global: false }, rules: { ...DEFAULT_SERVICE_RULES, services: 'global' } },
    [],
  ],
  // Policies
  [
    'internalTrafficPolicy Local: those of this node, nobody of another cluster',
    { service: { internalTrafficPolicy: 'Local' }, remotes: [remote()] },
    ['10.96.0.1:80 in 10.1.0.1'],
  ],
  [
    'internalTrafficPolicy Local without any here: nobody',
    { service: { internalTrafficPolicy: 'Local' }, node: { nodeName: 'n3' }, remotes: [remote()] },
    ['10.96.0.1:80 in'],
  ],
  [
    'internalTrafficPolicy Local: of which nobody knows the node, nobody',
    { service: { internalTrafficPolicy: 'Local', places: new Map() } },
    ['10.96.0.1:80 in'],
  ],
  [
    'internalTrafficPolicy Local is of cluster addresses alone',
    { service: { ...BALANCED, internalTrafficPolicy: 'Local' }, remotes: [remote()] },
    [
      '10.96.0.1:80 in 10.1.0.1',
      `198.51.100.7:80 in* ${BOTH} 10.2.0.1`,
      `192.0.2.1:30080 in* ${BOTH} 10.2.0.1`,
    ],
  ],
  [
    'externalTrafficPolicy Local: for clients from outside those of this node, for ours all',
    { service: { ...BALANCED, externalTrafficPolicy: 'Local' }, remotes: [remote()] },
    [
      `10.96.0.1:80 in ${BOTH} 10.2.0.1`,
      `198.51.100.7:80 in ${BOTH} 10.2.0.1`,
      '198.51.100.7:80 out* 10.1.0.1',
      `192.0.2.1:30080 in ${BOTH} 10.2.0.1`,
      '192.0.2.1:30080 out* 10.1.0.1',
    ],
  ],
  [
    'externalTrafficPolicy Local without any here: nobody from outside',
    { service: { ...NODE_PORT, externalTrafficPolicy: 'Local' }, node: { nodeName: 'n3' } },
    [`10.96.0.1:80 in ${BOTH}`, `192.0.2.1:30080 in ${BOTH}`, '192.0.2.1:30080 out*'],
  ],
  // Backends that are about to end
  [
    'draining ones get nothing new',
    { service: { draining: serving('10.1.0.3') } },
    [`10.96.0.1:80 in ${BOTH} / 10.1.0.3`],
  ],
  [
    'draining ones are better than nobody',
    { service: { backends: new Map(), draining: serving('10.1.0.3') } },
    ['10.96.0.1:80 in 10.1.0.3'],
  ],
  [
    'backends of another cluster are better than draining ones',
    { service: { backends: new Map(), draining: serving('10.1.0.3') }, remotes: [remote()] },
    ['10.96.0.1:80 in 10.2.0.1 / 10.1.0.3'],
  ],
  [
    'with a policy Local only draining ones of this node',
    {
      service: {
        internalTrafficPolicy: 'Local',
        backends: serving('10.1.0.2'),
        draining: serving('10.1.0.1', '10.1.0.3'),
      },
    },
    ['10.96.0.1:80 in 10.1.0.1'],
  ],
  [
    'with a policy Local and one that stays here',
    {
      service: {
        internalTrafficPolicy: 'Local',
        draining: serving('10.1.0.3', '10.1.0.4'),
        places: places({
          '10.1.0.1': { node: 'n1' },
          '10.1.0.3': { node: 'n1' },
          '10.1.0.4': { node: 'n2' },
        }),
      },
    },
    ['10.96.0.1:80 in 10.1.0.1 / 10.1.0.3'],
  ],
  // Hints
  ['hints for two zones: ours', { service: hinted('za', 'zb') }, ['10.96.0.1:80 in 10.1.0.1']],
  ['hints, none for our zone: all', { service: hinted('zb', 'zc') }, [`10.96.0.1:80 in ${BOTH}`]],
  [
    'hints while our zone is not known: all',
    { service: hinted('za', 'zb'), node: { zone: '' } },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'one backend without a hint: all',
    {
      service: {
        places: places({
          '10.1.0.1': { zone: 'za', forZones: ['za'] },
          '10.1.0.2': { zone: 'zb' },
        }),
      },
    },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'hints for our node come before those for our zone',
    {
      service: {
        places: places({
          '10.1.0.1': { forZones: ['za'], forNodes: ['n1'] },
          '10.1.0.2': { forZones: ['za'], forNodes: ['n2'] },
        }),
      },
    },
    ['10.96.0.1:80 in 10.1.0.1'],
  ],
  [
    'hints for other nodes: those for our zone count',
    {
      service: {
        places: places({
          '10.1.0.1': { forZones: ['zb'], forNodes: ['n2'] },
          '10.1.0.2': { forZones: ['za'], forNodes: ['n3'] },
        }),
      },
    },
    ['10.96.0.1:80 in 10.1.0.2'],
  ],
  [
    'another cluster without hints: all',
    { service: hinted('za', 'zb'), remotes: [remote()] },
    [`10.96.0.1:80 in ${BOTH} 10.2.0.1`],
  ],
  [
    'another cluster with hints is judged like ours',
    {
      service: hinted('za', 'zb'),
      remotes: [
        remote(
          {
            '10.2.0.1': { zone: 'za', forZones: [{ name: 'za' }] },
            '10.2.0.2': { zone: 'zb', forZones: [{ name: 'zb' }] },
          },
          '10.2.0.1',
          '10.2.0.2',
        ),
      ],
    },
    ['10.96.0.1:80 in 10.1.0.1 10.2.0.1'],
  ],
  [
    'affinity decides first, hints among what it leaves',
    { service: { ...hinted('zb', 'za'), affinity: 'local' }, remotes: [remote()] },
    ['10.96.0.1:80 in 10.1.0.2'],
  ],
  [
    'a wish for the same zone needs no hints where zones are known',
    {
      service: {
        trafficDistribution: 'PreferClose',
        places: places({ '10.1.0.1': { zone: 'zb' }, '10.1.0.2': { zone: 'za' } }),
      },
      remotes: [remote({ '10.2.0.1': { zone: 'za', forZones: null } })],
    },
    ['10.96.0.1:80 in 10.1.0.2 10.2.0.1'],
  ],
  [
    'a wish for the same node',
    { service: { trafficDistribution: 'PreferSameNode' } },
    ['10.96.0.1:80 in 10.1.0.1'],
  ],
  [
    'a wish of a newer Kubernetes',
    { service: { trafficDistribution: 'PreferMoon', ...hinted('zb', 'zc') } },
    [`10.96.0.1:80 in ${BOTH}`],
  ],
  [
    'hints do not narrow what is of this node',
    { service: { ...NODE_PORT, ...hinted('zb', 'za'), externalTrafficPolicy: 'Local' } },
    ['10.96.0.1:80 in 10.1.0.2', '192.0.2.1:30080 in 10.1.0.2', '192.0.2.1:30080 out*'],
  ],
];
for (const [what, given, wanted] of CASES) {
  test(`frontendsOf(): ${what}`, async (t) => {
    t.same(rows(given), wanted);
  });
}

test('frontendsOf() keeps what is remembered of a cluster, whatever is near', async (t) => {
  const remembered: Backend[] = [
    { address: ip('10.2.0.9'), port: 1, protocol: 'TCP', clusterId: 2 },
  ];
  t.same(rows({ service: hinted('za', 'zb'), remembered }), ['10.96.0.1:80 in 10.1.0.1 10.2.0.9']);
  t.same(
    rows({ service: hinted('zb', 'zb'), remembered }),
    [`10.96.0.1:80 in ${BOTH} 10.2.0.9`],
    'of it alone nobody says that it is near',
  );
});

test('frontendsOf() gives each row the affinity and the algorithm of its Service, or of the node', async (t) => {
  const settings = (service: Partial<LocalService>, rules = REPLACEMENT) =>
    frontendsOf(local({ ...NODE_PORT, ...service }), {
      node: NODE,
      rules,
      remotes: [],
      remembered: () => [],
    }).map(({ affinitySeconds, algorithm }) => [affinitySeconds, algorithm]);
  t.same(settings({}), [
    [0, 'random'],
    [0, 'random'],
  ]);
  t.same(settings({ affinitySeconds: 60, algorithm: 'maglev' }), [
    [60, 'maglev'],
    [60, 'maglev'],
  ]);
  t.same(settings({ algorithm: 'random' }, { ...REPLACEMENT, algorithm: 'maglev' }), [
    [0, 'random'],
    [0, 'random'],
  ]);
  t.same(settings({}, { ...REPLACEMENT, algorithm: 'maglev' }), [
    [0, 'maglev'],
    [0, 'maglev'],
  ]);
});

test('frontendsOf() gives rows with one policy the same lists', async (t) => {
  const [first, ...others] = frontendsOf(local(BALANCED), {
    node: NODE,
    rules: REPLACEMENT,
    remotes: [],
    remembered: () => [],
  });
  t.equal(others.length, 2);
  t.ok(others.every(({ backends }) => backends === first?.backends));
});
