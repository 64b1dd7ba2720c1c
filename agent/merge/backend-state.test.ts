import { test } from 'tap';
import { NO_PLACES } from '../../mesh/wire/backend-place.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress as ip } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { ClusterService, PortMap } from '../../mesh/wire/service.ts';
import type { BackendRank } from './backend-choice.ts';
import type { ServiceFacts } from './backend-state.ts';
import { frontendsOf } from './frontends.ts';
import { accountOfService, type PeerFacts } from './service-account.ts';
import { DEFAULT_SERVICE_RULES, type ServiceNode } from './service-rules.ts';

const NODE: ServiceNode = {
  clusterId: 1,
  nodeName: 'n1',
  nodeIps: [ip('192.0.2.1')],
  zone: 'za',
};
const HTTP: PortMap = new Map([['http', { protocol: 'TCP', port: 8080 }]]);
const serving = (...ips: string[]): LocalService['backends'] =>
  new Map(ips.map((text) => [ip(text), HTTP]));

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
    backends: serving('10.1.0.1'),
    ...changes,
  };
}

function remote(changes: Partial<ClusterService> = {}): ClusterService {
  return {
    cluster: parseClusterName('beta'),
    namespace: 'demo',
    name: 'web',
    frontends: new Map(),
    backends: serving('10.2.0.1'),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId: 2,
    ...changes,
  };
}

interface Given {
  readonly service?: Partial<LocalService> | undefined;
  readonly offer?: Partial<ClusterService>;
  readonly rank?: BackendRank;
  readonly peer?: Partial<PeerFacts>;
  readonly heldBy?: string;
  readonly services?: 'global' | 'all';
}

function account(given: Given) {
  const { rank = 'active', heldBy } = given;
  const service =
    'service' in given && given.service === undefined ? undefined : local(given.service);
  const remotes = [remote(given.offer)];
  const rules = { ...DEFAULT_SERVICE_RULES, services: given.services ?? 'all' } as const;
  const rankOf = (clusterId: number): BackendRank => (clusterId === 2 ? rank : 'active');
  const rows =
    service === undefined
      ? []
      : frontendsOf(service, { node: NODE, rules, rankOf, remotes, remembered: () => [] });
  const facts: ServiceFacts = {
    node: NODE,
    rules,
    local: service,
    remotes,
    frontends: rows.map((row) => ({ row, heldBy })),
    rankOf,
  };
  const peer = { name: 'beta', useReason: '', unknown: [], refused: [], ...given.peer };
  return accountOfService('demo/web', facts, { ownName: 'alpha', peers: new Map([[2, peer]]) });
}

/** `cluster state: reason`, a line for each backend. */
const linesOf = (given: Given): string[] =>
  account(given).backends.map(({ cluster, state, reason }) => `${cluster} ${state}: ${reason}`);

const place = (node: string, zone: string) => ({ node, zone, forZones: [zone], forNodes: [] });

const CASES: readonly [string, Given, readonly string[]][] = [
  ['both serve', {}, ['alpha used: ', 'beta used: ']],
  [
    'affinity local',
    { service: { affinity: 'local' } },
    [
      'alpha used: ',
      'beta standby: affinity is local: used when the own cluster has no backend that is ready',
    ],
  ],
  [
    'affinity remote',
    { service: { affinity: 'remote' } },
    ['alpha standby: affinity is remote: used when no other cluster has a backend', 'beta used: '],
  ],
  [
    'the peer was drained',
    { rank: 'last', peer: { useReason: 'drained' } },
    ['alpha used: ', 'beta standby: cluster beta is used last: drained'],
  ],
  [
    'the peer was drained and nobody else is there',
    { rank: 'last', service: { backends: new Map() }, peer: { useReason: 'drained' } },
    ['beta used: as the last resort: no better backend is there'],
  ],
  [
    'the peer is believed dead',
    { rank: 'spare', peer: { useReason: 'silent' } },
    [
      'alpha used: ',
      'beta standby: cluster beta is withdrawn, used when nothing else is left: silent',
    ],
  ],
  [
    'the peer is believed dead, and --withdraw=always',
    { rank: 'never', service: { backends: new Map() }, peer: { useReason: 'silent' } },
    ['beta unused: cluster beta is withdrawn: silent'],
  ],
  [
    'the Service is not global',
    { service: { global: false } },
    [
      'alpha used: ',
      'beta unused: the Service of this cluster is not global: annotate it with service.cilium.io/global: "true"',
    ],
  ],
  [
    'the peer does not share it',
    { offer: { shared: false } },
    [
      'alpha used: ',
      'beta unused: cluster beta does not share it: its service.cilium.io/shared is "false"',
    ],
  ],
  [
    'the peer has another port',
    {
      offer: {
        backends: new Map([[ip('10.2.0.1'), new Map([['web', { protocol: 'TCP', port: 1 }]])]]),
      },
    },
    [
      'alpha used: ',
      'beta unused: the Service of this cluster has no port named web of protocol TCP',
    ],
  ],
  [
    'the peer has another family',
    { offer: { backends: serving('fd00::1') } },
    ['alpha used: ', 'beta unused: the Service has no IPv6 address on this node'],
  ],
  [
    'no Service here',
    { service: undefined },
    [
      'beta unused: this cluster has no Service of this name: make one, and what other clusters offer is used',
    ],
  ],
  [
    'headless',
    { service: { headless: true } },
    [
      'alpha unused: it is headless: clients take addresses from DNS',
      'beta unused: it is headless: clients take addresses from DNS',
    ],
  ],
  [
    'left to kube-proxy',
    { service: { global: false }, services: 'global' },
    [
      'alpha unused: it is not global: this node leaves it to kube-proxy',
      'beta unused: it is not global: this node leaves it to kube-proxy',
    ],
  ],
  [
    'another Service has the address',
    { heldBy: 'demo/old' },
    [
      'alpha unused: its addresses are held by Service demo/old',
      'beta unused: its addresses are held by Service demo/old',
    ],
  ],
  [
    'one is about to end',
    { service: { draining: serving('10.1.0.2') } },
    [
      'alpha used: ',
      'alpha draining: it is about to end: it keeps its connections, new ones go on',
      'beta used: ',
    ],
  ],
  [
    'all are about to end',
    {
      service: { backends: new Map(), draining: serving('10.1.0.2') },
      offer: { backends: new Map() },
    },
    ['alpha used: it is about to end, and no other backend is there'],
  ],
  [
    'a nearer zone',
    {
      service: {
        backends: serving('10.1.0.1', '10.1.0.2'),
        places: new Map([
          [ip('10.1.0.1'), place('', 'za')],
          [ip('10.1.0.2'), place('', 'zb')],
        ]),
      },
      offer: { backends: new Map() },
    },
    ['alpha used: ', 'alpha standby: topology: backends nearer to this node are there'],
  ],
  [
    'internalTrafficPolicy Local',
    {
      service: {
        internalTrafficPolicy: 'Local',
        backends: serving('10.1.0.1', '10.1.0.2'),
        places: new Map([
          [ip('10.1.0.1'), place('n1', '')],
          [ip('10.1.0.2'), place('n2', '')],
        ]),
      },
    },
    [
      'alpha used: ',
      'alpha unused: internalTrafficPolicy is Local, and it does not run on this node',
      'beta unused: internalTrafficPolicy is Local, and it does not run on this node',
    ],
  ],
  [
    'an address that the peer does not publish',
    { offer: { backends: new Map() }, peer: { unknown: [ip('10.2.0.9')] } },
    [
      'alpha used: ',
      'beta unused: it does not count: cluster beta publishes no node or endpoint with this address',
    ],
  ],
];

for (const [name, given, expected] of CASES) {
  test(`accountOfService(): ${name}`, async (t) => t.same(linesOf(given), expected));
}

test('accountOfService() counts what each cluster offers, and says what is odd', async (t) => {
  const found = account({
    service: { backends: new Map() },
    peer: { refused: ['cannot use cilium/state/services/v1/beta/demo/web: too large'] },
  });
  t.match(found, {
    namespace: 'demo',
    name: 'web',
    exists: true,
    notTranslated: '',
    frontends: [
      { address: '10.96.0.1', port: 80, protocol: 'TCP', scope: 'internal', backends: 1 },
    ],
    clusters: [
      {
        cluster: 'alpha',
        own: true,
        offers: true,
        backends: 0,
        used: 0,
        notes: ['none of its backends is ready'],
      },
      {
        cluster: 'beta',
        own: false,
        offers: true,
        backends: 1,
        used: 1,
        notes: ['cannot use cilium/state/services/v1/beta/demo/web: too large'],
      },
    ],
  });
});

test('accountOfService(): of any Service, used are exactly the backends that frontends have', async (t) => {
  let seed = 20_260_101;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };
  const of = <T>(...choices: readonly T[]): T => choices[random(choices.length)] as T;
  const some = (network: number): LocalService['backends'] =>
    serving(...[1, 2, 3].filter(() => random(2) === 1).map((host) => `10.${network}.0.${host}`));
  for (let round = 0; round < 2000; round += 1) {
    const backends = some(1);
    const found = account({
      service: {
        backends,
        draining: new Map([...serving('10.1.0.8', '10.1.0.9')].filter(() => random(4) === 0)),
        affinity: of('none', 'local', 'remote'),
        global: random(5) > 0,
        internalTrafficPolicy: of('Cluster', 'Cluster', 'Local'),
        trafficDistribution: of(undefined, 'PreferSameZone', 'PreferSameNode'),
        places:
          random(2) === 0
            ? NO_PLACES
            : new Map(
                [...backends.keys()].map((address) => [
                  address,
                  { node: of('n1', 'n2'), zone: of('za', 'zb'), forZones: [], forNodes: [] },
                ]),
              ),
      },
      offer: { backends: some(2), shared: random(6) > 0 },
      rank: of('active', 'active', 'last', 'spare', 'never'),
      services: of('all', 'global'),
    });
    const used = found.backends.filter(({ state }) => state === 'used').length;
    const wanted = Math.max(0, ...found.frontends.map((frontend) => frontend.backends));
    if (
      used === wanted &&
      found.backends.every(({ state, reason }) => state === 'used' || reason)
    ) {
      continue;
    }
    t.fail('account and frontends differ', { round, found });
    return;
  }
  t.pass('in 2000 Services');
});
