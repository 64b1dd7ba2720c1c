import type { Test } from 'tap';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { serviceExportKey } from '../../mesh/wire/keys.ts';
import { createRemoteServices, type RemoteChange } from './remote-services.ts';
import { openRemotePeers } from './testing/remote-peers.ts';

const BETA = parseClusterName('beta');
const GAMMA = parseClusterName('gamma');

async function rig(t: Test) {
  const peers = await openRemotePeers(t);
  const remote = createRemoteServices({
    own: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
    directory: peers.directory,
    readConnection: peers.readConnection,
    rescanMs: 50,
    clock: systemClock,
    logger: createLogger('test', { level: 'silent' }),
  });
  const changes: RemoteChange[] = [];
  remote.onChange((change) => changes.push(change));
  const stop = new AbortController();
  let running: Promise<void> | undefined;
  t.teardown(async () => {
    stop.abort();
    await running;
  });
  const beta = peers.add('beta', 2);
  return {
    peers,
    remote,
    changes,
    beta,
    start: () => {
      running = remote.run(stop.signal);
    },
    backends: (key: string) => [...(remote.services(key).get(BETA)?.backends.keys() ?? [])],
  };
}

test('nobody is removed before the directory was read, nothing is gone before all was read', async (t) => {
  const { remote, beta, start } = await rig(t);
  await beta.config({ capabilities: { serviceExportsEnabled: true } });
  await beta.node('n1', '198.51.100.1');
  await beta.service('web', { '10.2.0.5': 8080 });
  await beta.configure();
  t.equal(remote.names, undefined);
  start();
  await until('the directory is read', () => remote.names !== undefined);
  t.same([...(remote.names ?? [])], ['beta']);
  t.notOk(remote.isSynced(BETA, 'services'), 'its marker is missing');
  await beta.marked('services');
  await systemClock.sleep(100);
  t.notOk(remote.isSynced(BETA, 'services'), 'its nodes, which tell its ranges, are outstanding');
  await beta.marked('nodes');
  await until('it is synced', () => remote.isSynced(BETA, 'services'));
  t.equal(remote.services('demo/web').size, 1);
  t.notOk(remote.isSynced(BETA, 'serviceexports'));
  await beta.export('web');
  await beta.exportsMarked();
  await until('exports are synced', () => remote.isSynced(BETA, 'serviceexports'));
  t.match(remote.exports('demo/web').get(BETA), { type: 'ClusterSetIP', name: 'web' });
  t.equal(remote.exportsEnabled(BETA), true);
  t.same([...remote.keys('services')], ['demo/web']);
  t.match(remote.clusters, [{ name: 'beta', services: 1, exports: 1 }]);
});

test('a lost connection takes nothing back, a removed file does', async (t) => {
  const { remote, beta, changes, start } = await rig(t);
  await beta.config();
  await beta.service('web', { '10.2.0.5': 8080 });
  await beta.marked();
  await beta.configure();
  start();
  await until('it is synced', () => remote.isSynced(BETA, 'services'));
  t.ok(remote.isSynced(BETA, 'serviceexports'), 'it has no exports, and says so');
  t.equal(remote.exportsEnabled(BETA), false);
  beta.store.faults.disconnect();
  await systemClock.sleep(200);
  t.equal(remote.services('demo/web').size, 1);
  t.ok(remote.isSynced(BETA, 'services'));
  changes.splice(0);
  await beta.unconfigure();
  await until('it is gone', () => remote.names?.size === 0);
  t.notOk(remote.isSynced(BETA, 'services'));
  t.equal(remote.services('demo/web').size, 0);
  t.ok(changes.some(({ cluster, key }) => cluster === BETA && key === undefined));
});

test('a service that is not shared counts as gone, a bad export leaves the good one', async (t) => {
  const { remote, beta, start } = await rig(t);
  await beta.config({ capabilities: { serviceExportsEnabled: true } });
  await beta.service('web', { '10.2.0.5': 8080 });
  await beta.service('db', { '10.2.0.6': 5432 });
  await beta.export('web');
  await beta.marked();
  await beta.exportsMarked();
  await beta.configure();
  start();
  await until('it is synced', () => remote.isSynced(BETA, 'serviceexports'));
  await until('services are there', () => [...remote.keys('services')].length === 2);
  await beta.service('web', { '10.2.0.5': 8080 }, { shared: false });
  await beta.store.put(serviceExportKey(BETA, 'demo', 'web'), '{"cluster":"beta"}');
  await beta.store.put(serviceExportKey(BETA, 'demo', 'fine'), 'no JSON at all');
  await until('web is gone', () => remote.services('demo/web').size === 0);
  await until('both are told', () => remote.clusters[0]?.refused.size === 2);
  t.equal(remote.exports('demo/web').size, 1, 'the last good one stays');
  t.equal(remote.services('demo/db').size, 1);
  await beta.export('fine');
  await until('it heals', () => remote.exports('demo/fine').size === 1);
  t.equal(remote.clusters[0]?.refused.size, 1);
});

test("backends at our own addresses, or at another cluster's, are left out", async (t) => {
  const { peers, remote, beta, backends, start } = await rig(t);
  const gamma = peers.add('gamma', 3);
  await gamma.config();
  await gamma.node('n1', '198.51.100.3');
  await gamma.marked();
  await beta.config();
  await beta.service('web', { '10.1.0.5': 80, '10.2.0.5': 80, '198.51.100.3': 80 });
  await beta.marked();
  await gamma.configure();
  await beta.configure();
  remote.setOwnRanges({ pods: [parseIpPrefix('10.1.0.0/16')], nodes: [], services: [] });
  start();
  await until('both are synced', () =>
    [BETA, GAMMA].every((name) => remote.isSynced(name, 'services')),
  );
  await until('web is read', () => remote.services('demo/web').size === 1);
  t.same(backends('demo/web'), ['10.2.0.5']);
  t.same([...remote.refusedBackends(BETA, 'demo/web').keys()].sort(), ['10.1.0.5', '198.51.100.3']);
  let told = 0;
  remote.onChange(({ cluster, key }) => {
    if (cluster === BETA && key === undefined) told += 1;
  });
  remote.setOwnRanges({ pods: [parseIpPrefix('10.9.0.0/16')], nodes: [], services: [] });
  t.same(backends('demo/web'), ['10.1.0.5', '10.2.0.5']);
  await until('who asks is told to look again', () => told > 0);
});
