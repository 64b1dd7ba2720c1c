import { test } from 'tap';
import { publishCluster } from '../mesh/remote/testing/published-cluster.ts';
import { until } from '../mesh/remote/testing/until.ts';
import { addRequest, openNodeRig } from './testing/node-rig.ts';
import {
  backendText,
  ipcacheText,
  policyText,
  publishAlpha,
  publishBeta,
  SERVER,
} from './testing/two-clusters.ts';

test("what two clusters publish comes to stand in the kernel's tables", async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('all rows are there', () => ipcacheText(rig.datapath).length === 6);
  t.same(ipcacheText(rig.datapath), [
    '10.1.0.5/32 65793 - 1',
    '10.1.1.5/32 65794 192.0.2.2 1',
    '10.2.0.5/32 131329 198.51.100.1 2',
    '192.0.2.1/32 1 - 0',
    '192.0.2.2/32 6 - 1',
    '198.51.100.1/32 6 - 2',
  ]);
  await until('both backends are there', () => backendText(rig.datapath).length === 2);
  t.same(backendText(rig.datapath), ['10.1.0.5:8080@1', '10.2.0.5:9090@2']);
  const status = await rig.status();
  t.equal(status.ready, true);
  t.match(status.services, { local: 1, global: 1 });
});

test("a change travels from the store to the kernel's table within milliseconds", async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  const times: number[] = [];
  for (let round = 0; round < 20; round += 1) {
    const begin = performance.now();
    await rig.alpha.ip(`10.1.9.${round + 1}`, { host: '192.0.2.2', local: 258 });
    await until(
      'it is there',
      () => rig.datapath.ipcache.get(`10.1.9.${round + 1}/32`) !== undefined,
    );
    times.push(performance.now() - begin);
  }
  const [, , , , , , , , , , median = 0] = times.sort((a, b) => a - b);
  t.ok(median < 15, `median ${median.toFixed(1)} ms, of which up to 3 are the test's own looking`);
});

test('an agent that ends and starts again changes nothing and loses nothing', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy('p', {
    endpointSelector: SERVER,
    ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }] }],
  });
  await rig.alpha.marked();
  const beta = await publishBeta();
  await rig.addPeer(beta);
  await rig.start();
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  await rig.ready('alpha');
  await rig.ready('beta');
  await until(
    'all rows are there',
    () => backendText(rig.datapath).length === 2 && policyText(rig.datapath).length === 1,
  );
  const before = [
    ipcacheText(rig.datapath),
    backendText(rig.datapath),
    policyText(rig.datapath),
    rig.datapath.endpoints.rows(),
  ];
  await rig.stop();
  t.same(rig.datapath.attached, new Set(['vetha']), 'programs stay attached');
  const written = rig.datapath.log.length;
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('everything is taken up', async () =>
    (await rig.status()).tables.every(({ adopted, pending }) => adopted + pending === 0),
  );
  t.same(
    [
      ipcacheText(rig.datapath),
      backendText(rig.datapath),
      policyText(rig.datapath),
      rig.datapath.endpoints.rows(),
    ],
    before,
  );
  t.same(
    rig.datapath.log.slice(written).filter(({ kind }) => kind !== 'attach'),
    [],
    'no row is written or deleted',
  );
});

test('after a restart rows go only when whoever could want them has spoken', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  const beta = await publishBeta();
  const gamma = publishCluster('gamma', 3);
  await gamma.config();
  await gamma.node('g1', '203.0.113.1');
  await gamma.ip('10.3.0.5', { host: '203.0.113.1', local: 257 });
  await gamma.identity(257, {});
  await gamma.marked();
  await rig.addPeer(beta);
  await rig.addPeer(gamma);
  await rig.start();
  for (const name of ['alpha', 'beta', 'gamma']) await rig.ready(name);
  await until(
    'all rows are there',
    () => ipcacheText(rig.datapath).length === 8 && backendText(rig.datapath).length === 2,
  );
  await rig.stop();

  // While nobody looks an address goes in each cluster, and beta cannot be reached any more.
  await rig.alpha.removeIp('10.1.1.5');
  await beta.removeIp('10.2.0.5');
  await gamma.removeIp('10.3.0.5');
  beta.store.faults.disconnect();
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('gamma');
  await until('rows of those who spoke are gone', () => {
    const rows = ipcacheText(rig.datapath).join('\n');
    return !rows.includes('10.1.1.5') && !rows.includes('10.3.0.5');
  });
  t.match(
    ipcacheText(rig.datapath).join('\n'),
    '10.2.0.5/32',
    'beta has not spoken: its rows stay',
  );
  t.same(backendText(rig.datapath), ['10.1.0.5:8080@1', '10.2.0.5:9090@2'], 'and its backends');
  beta.store.faults.reconnect();
  await rig.ready('beta');
  await until(
    'its stale row is gone',
    () => !ipcacheText(rig.datapath).join('\n').includes('10.2.0.5'),
  );
  await until(
    'its backend is gone, too: the service still lists it, but beta has no such address',
    () => backendText(rig.datapath).join() === '10.1.0.5:8080@1',
  );
});

test('a row that the kernel refuses is retried, shown, and stops no other', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  rig.datapath.ipcache.refuse = ({ prefix }) => prefix === '10.1.1.5/32';
  await rig.start();
  await rig.ready('alpha');
  await until('it is shown', async () =>
    (await rig.status()).tables.some(({ name, failed }) => name === 'ipcache' && failed === 1),
  );
  t.ok(rig.datapath.ipcache.get('10.1.0.5/32'));
  rig.datapath.ipcache.refuse = undefined;
  await until('it is there', () => rig.datapath.ipcache.get('10.1.1.5/32') !== undefined);
  await until('nothing fails', async () =>
    (await rig.status()).tables.every(({ failed }) => failed === 0),
  );
});

test('a second agent on the same socket is refused', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const other = await openNodeRig(t);
  await t.rejects(
    async () => {
      const { listenApi } = await import('./api/server.ts');
      await listenApi(rig.socketPath, {
        status: () => {
          throw new Error('not asked');
        },
        missing: () => [],
        datapath: other.datapath,
        endpoints: { serve: async () => '' },
        logger: (await import('../mesh/runtime/log.ts')).createLogger('test', { level: 'silent' }),
      });
    },
    { code: 'socket-taken', message: /another agent answers/ },
  );
  t.equal(
    (await rig.cni(addRequest('a', '10.1.0.5', 'DEL'))).status,
    200,
    'the first one still answers',
  );
});
