import { test } from 'tap';
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type LocalService, PLAIN_TRAFFIC } from '../../mesh/wire/local-service.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';
import type { FrontendEntry } from '../datapath/desired.ts';
import { sameFrontend } from '../merge/frontends.ts';
import { DEFAULT_SERVICE_RULES, type ServiceRules } from '../merge/service-rules.ts';
import { createMemoryDatapath, type MemoryDatapath } from './memory-datapath.ts';
import { createReconciler } from './reconciler.ts';
import { createServiceState } from './service-state.ts';

const ref = (name: string, id: number): ClusterRef => ({
  name: parseClusterName(name),
  id: parseClusterId(id),
  own: id === 1,
});

function local(name: string, clusterIp: string, backend?: string): LocalService {
  return {
    namespace: 'demo',
    name,
    clusterIps: [parseIpAddress(clusterIp)],
    ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
    headless: false,
    global: true,
    shared: true,
    affinity: 'none',
    ...PLAIN_TRAFFIC,
    backends: new Map(
      backend === undefined
        ? []
        : [[parseIpAddress(backend), new Map([['http', { protocol: 'TCP', port: 80 }]])]],
    ),
  };
}

/** What a row has besides its address, port and backends. */
const PLAIN = {
  scope: 'internal',
  isExternal: false,
  draining: [],
  affinitySeconds: 0,
  algorithm: 'random',
  service: '',
} as const;

/** Without kube-proxy. */
const REPLACEMENT: ServiceRules = { ...DEFAULT_SERVICE_RULES, kubeProxyReplacement: true };

function remote(clusterId: number, backend: string): ClusterService {
  return {
    cluster: parseClusterName(`c${clusterId}`),
    namespace: 'demo',
    name: 'web',
    frontends: new Map(),
    backends: new Map([
      [parseIpAddress(backend), new Map([['http', { protocol: 'TCP', port: 80 }]])],
    ]),
    hostnames: undefined,
    zones: undefined,
    labels: {},
    selector: {},
    includeExternal: true,
    shared: true,
    clusterId,
  };
}

function open(
  datapath: MemoryDatapath,
  isOutstanding: (id: number) => boolean = () => false,
  rules: ServiceRules = DEFAULT_SERVICE_RULES,
) {
  const reconciler = createReconciler(datapath.services, { sameRow: sameFrontend });
  const state = createServiceState(
    { clusterId: 1, nodeName: 'n1', nodeIps: [parseIpAddress('192.0.2.1')] },
    { reconciler, rules, isOutstanding },
  );
  const settle = (): string[] => {
    state.refresh();
    reconciler.flush(0);
    return datapath.services
      .rows()
      .map(({ address, service, backends }) =>
        `${address} ${service} ${backends.map((backend) => backend.address).join(' ')}`.trim(),
      )
      .sort();
  };
  return { state, settle, reconciler };
}

test('a remote record alone makes nothing, with the local Service it adds backends', async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  state.setRemote(ref('beta', 2), 'demo/web', remote(2, '10.2.0.5'));
  t.same(settle(), []);
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5 10.2.0.5']);
  state.setRemote(ref('beta', 2), 'demo/web', undefined);
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
  state.setLocal('demo/web', undefined);
  t.same(settle(), []);
});

test("the own cluster's shared record adds nothing", async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  state.setRemote(ref('alpha', 1), 'demo/web', remote(1, '10.1.0.9'));
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
});

test('of two Services with one address the first has it, until it goes', async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  state.setLocal('demo/old', local('old', '10.96.0.1', '10.1.0.5'));
  state.setLocal('demo/new', local('new', '10.96.0.1', '10.1.0.6'));
  t.same(settle(), ['10.96.0.1 demo/old 10.1.0.5']);
  t.same(state.conflicts(), ['TCP 10.96.0.1 port 80 is held by demo/old, not by demo/new']);
  state.setLocal('demo/old', undefined);
  t.same(settle(), ['10.96.0.1 demo/new 10.1.0.6']);
  t.same(state.conflicts(), []);
});

test('a changed address moves the frontend', async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  settle();
  state.setLocal('demo/web', local('web', '10.96.0.2', '10.1.0.5'));
  t.same(settle(), ['10.96.0.2 demo/web 10.1.0.5']);
});

test('after a restart backends of a cluster that has not spoken stay, and cost no write', async (t) => {
  const datapath = createMemoryDatapath();
  const row: FrontendEntry = {
    address: parseIpAddress('10.96.0.1'),
    port: 80,
    protocol: 'TCP',
    ...PLAIN,
    backends: [
      { address: parseIpAddress('10.2.0.5'), port: 80, protocol: 'TCP', clusterId: 2 },
      { address: parseIpAddress('10.1.0.5'), port: 80, protocol: 'TCP', clusterId: 1 },
      { address: parseIpAddress('10.3.0.5'), port: 80, protocol: 'TCP', clusterId: 3 },
    ],
  };
  datapath.services.apply({ upserts: [row], deletes: [] });
  const silent = new Set([2, 3]);
  const { state, settle } = open(datapath, (id) => silent.has(id));
  const written = datapath.log.length;
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  settle();
  t.equal(datapath.log.length, written);
  state.setRemote(ref('beta', 2), 'demo/web', remote(2, '10.2.0.6'));
  t.same(
    settle(),
    ['10.96.0.1 demo/web 10.1.0.5 10.2.0.6 10.3.0.5'],
    'a record replaces what was remembered of its cluster',
  );
  silent.clear();
  state.forgetRemembered();
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5 10.2.0.6']);
});

test('withdrawn backends serve where no active one remains, and never before (promise 1)', async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  const withdraw = (id: number, level: 'none' | 'last' | 'gone', always = false): string[] => {
    state.setWithdrawn(id, level, { always });
    return settle();
  };
  const row = (...backends: string[]): string[] => [
    `10.96.0.1 demo/web ${backends.join(' ')}`.trim(),
  ];
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  state.setRemote(ref('beta', 2), 'demo/web', remote(2, '10.2.0.5'));
  state.setRemote(ref('gamma', 3), 'demo/web', remote(3, '10.3.0.5'));
  t.same(settle(), row('10.1.0.5', '10.2.0.5', '10.3.0.5'));
  t.same(withdraw(2, 'last'), row('10.1.0.5', '10.3.0.5'), 'others remain');
  t.same(withdraw(1, 'gone', true), row('10.1.0.5', '10.3.0.5'), 'never the own cluster');
  t.same(withdraw(3, 'gone'), row('10.1.0.5'));
  state.setLocal('demo/web', local('web', '10.96.0.1'));
  t.same(settle(), row('10.2.0.5'), 'a silent cluster before a dead one');
  t.same(withdraw(2, 'gone', true), row('10.3.0.5'), 'a dead one before none');
  t.same(withdraw(3, 'gone', true), row(), 'with always, none');
  t.same(withdraw(3, 'last'), row('10.3.0.5'));
  t.same(withdraw(2, 'none'), row('10.2.0.5'), 'whoever is back goes first');
  t.same(withdraw(3, 'none'), row('10.2.0.5', '10.3.0.5'));
});

test('with a preference for remote ones, the local ones come before those of a silent cluster', async (t) => {
  const { state, settle } = open(createMemoryDatapath());
  state.setLocal('demo/web', { ...local('web', '10.96.0.1', '10.1.0.5'), affinity: 'remote' });
  state.setRemote(ref('beta', 2), 'demo/web', remote(2, '10.2.0.5'));
  t.same(settle(), ['10.96.0.1 demo/web 10.2.0.5']);
  state.setWithdrawn(2, 'last', { always: false });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
});

test('backends remembered of a cluster that is withdrawn before it speaks are withdrawn, too', async (t) => {
  const datapath = createMemoryDatapath();
  const backend = {
    address: parseIpAddress('10.2.0.5'),
    port: 80,
    protocol: 'TCP',
    clusterId: 2,
  } as const;
  const address = parseIpAddress('10.96.0.1');
  const row: FrontendEntry = {
    address,
    port: 80,
    protocol: 'TCP',
    ...PLAIN,
    backends: [backend],
  };
  datapath.services.apply({ upserts: [row], deletes: [] });
  const { state, settle } = open(datapath, (id) => id === 2);
  state.setLocal('demo/web', local('web', '10.96.0.1', '10.1.0.5'));
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5 10.2.0.5']);
  state.setWithdrawn(2, 'gone', { always: false });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
  state.setLocal('demo/web', local('web', '10.96.0.1'));
  t.same(settle(), ['10.96.0.1 demo/web 10.2.0.5'], 'they are the last ones');
});

test('of two ports of one Service that meet in one node port, the first has it', async (t) => {
  const datapath = createMemoryDatapath();
  const { state, settle } = open(datapath, undefined, REPLACEMENT);
  const service = local('web', '10.96.0.1', '10.1.0.5');
  state.setLocal('demo/web', {
    ...service,
    type: 'NodePort',
    ports: [
      { name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 },
      { name: 'other', protocol: 'TCP', port: 81, nodePort: 30080 },
    ],
  });
  t.same(settle(), [
    '10.96.0.1 demo/web',
    '10.96.0.1 demo/web 10.1.0.5',
    '192.0.2.1 demo/web 10.1.0.5',
  ]);
});

test('a Service that is no longer of NodePort leaves the node port to the one that wanted it, too', async (t) => {
  const datapath = createMemoryDatapath();
  const { state, settle } = open(datapath, undefined, REPLACEMENT);
  const ports = [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 }] as const;
  const first = { ...local('a', '10.96.0.1', '10.1.0.5'), type: 'NodePort', ports } as const;
  const second = { ...local('b', '10.96.0.2', '10.1.0.6'), type: 'NodePort', ports } as const;
  state.setLocal('demo/a', first);
  state.setLocal('demo/b', { ...second, externalTrafficPolicy: 'Local' });
  t.ok(settle().includes('192.0.2.1 demo/a 10.1.0.5'));
  t.same(state.conflicts(), ['TCP 192.0.2.1 port 30080 is held by demo/a, not by demo/b']);
  state.setLocal('demo/a', { ...first, type: 'ClusterIP' });
  t.same(
    settle().filter((row) => row.startsWith('192.0.2.1')),
    ['192.0.2.1 demo/b', '192.0.2.1 demo/b 10.1.0.6'],
    'the row for clients from outside has none of this node, the other one all',
  );
  t.same(state.conflicts(), []);
});

test('beside kube-proxy a Service that stops being global loses its rows', async (t) => {
  const datapath = createMemoryDatapath();
  const rules: ServiceRules = { ...DEFAULT_SERVICE_RULES, services: 'global' };
  const { state, settle } = open(datapath, undefined, rules);
  const service = local('web', '10.96.0.1', '10.1.0.5');
  state.setLocal('demo/web', service);
  state.setLocal('demo/plain', { ...local('plain', '10.96.0.2', '10.1.0.6'), global: false });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
  state.setLocal('demo/web', { ...service, global: false });
  t.same(settle(), []);
  state.setLocal('demo/web', service);
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
});

test("the node's zone is followed, and costs a write only where it changes who serves", async (t) => {
  const datapath = createMemoryDatapath();
  const { state, settle } = open(datapath);
  const near = parseIpAddress('10.1.0.5');
  const far = parseIpAddress('10.1.0.6');
  const http = new Map([['http', { protocol: 'TCP', port: 80 } as const]]);
  const place = (zone: string) => ({ node: '', zone, forZones: [zone], forNodes: [] });
  state.setLocal('demo/plain', local('plain', '10.96.0.2', '10.1.0.7'));
  state.setLocal('demo/web', {
    ...local('web', '10.96.0.1'),
    backends: new Map([
      [near, http],
      [far, http],
    ]),
    places: new Map([
      [near, place('za')],
      [far, place('zb')],
    ]),
  });
  const plain = '10.96.0.2 demo/plain 10.1.0.7';
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5 10.1.0.6', plain]);
  let written = datapath.log.length;
  state.setZone('za');
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5', plain]);
  t.equal(datapath.log.length, written + 1);
  written = datapath.log.length;
  state.setZone('za');
  state.setZone('zc');
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5 10.1.0.6', plain], 'no backend is for this zone');
  t.equal(datapath.log.length, written + 1);
});

test('a backend that begins to end leaves the choice, stays known, and is all there is when alone', async (t) => {
  const datapath = createMemoryDatapath();
  const { state, settle } = open(datapath);
  const service = local('web', '10.96.0.1', '10.1.0.5');
  const other = parseIpAddress('10.1.0.6');
  const http = new Map([['http', { protocol: 'TCP', port: 80 } as const]]);
  const draining = (): string[] =>
    datapath.services.rows().flatMap((row) => row.draining.map(({ address }) => address));
  state.setLocal('demo/web', { ...service, draining: new Map([[other, http]]) });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.5']);
  t.same(draining(), ['10.1.0.6']);
  state.setLocal('demo/web', {
    ...service,
    backends: new Map(),
    draining: new Map([[other, http]]),
  });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.6']);
  t.same(draining(), []);
  state.setRemote(ref('beta', 2), 'demo/web', remote(2, '10.2.0.5'));
  t.same(settle(), ['10.96.0.1 demo/web 10.2.0.5'], 'one of another cluster stays');
  t.same(draining(), ['10.1.0.6']);
  state.setWithdrawn(2, 'last', { always: false });
  t.same(settle(), ['10.96.0.1 demo/web 10.2.0.5'], 'a silent cluster may well be there');
  state.setWithdrawn(2, 'gone', { always: false });
  t.same(settle(), ['10.96.0.1 demo/web 10.1.0.6'], 'a dead one is worse than one about to end');
});

test('after a restart, a row that is new gets what is remembered of the others', async (t) => {
  const datapath = createMemoryDatapath();
  const service = { ...local('web', '10.96.0.1', '10.1.0.5'), type: 'NodePort' } as const;
  const ports = [{ name: 'http', protocol: 'TCP', port: 80, nodePort: 30080 }] as const;
  datapath.services.apply({
    upserts: [
      {
        ...PLAIN,
        address: parseIpAddress('10.96.0.1'),
        port: 80,
        protocol: 'TCP',
        backends: [
          { address: parseIpAddress('10.2.0.5'), port: 80, protocol: 'TCP', clusterId: 2 },
        ],
      },
    ],
    deletes: [],
  });
  const { state, settle } = open(datapath, (id) => id === 2, REPLACEMENT);
  state.setLocal('demo/web', { ...service, ports });
  t.same(settle(), [
    '10.96.0.1 demo/web 10.1.0.5 10.2.0.5',
    '192.0.2.1 demo/web 10.1.0.5 10.2.0.5',
  ]);
});
