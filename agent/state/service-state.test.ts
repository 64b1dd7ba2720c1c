import { test } from 'tap';
import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import type { LocalService } from '../../mesh/wire/local-service.ts';
import type { ClusterService } from '../../mesh/wire/service.ts';
import type { FrontendEntry } from '../datapath/desired.ts';
import { sameFrontend } from '../merge/frontends.ts';
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
    backends: new Map(
      backend === undefined
        ? []
        : [[parseIpAddress(backend), new Map([['http', { protocol: 'TCP', port: 80 }]])]],
    ),
  };
}

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

function open(datapath: MemoryDatapath, isOutstanding: (id: number) => boolean = () => false) {
  const reconciler = createReconciler(datapath.services, { sameRow: sameFrontend });
  const state = createServiceState(1, { reconciler, isOutstanding });
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
    service: '',
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
    service: '',
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
