import { writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { publishCluster } from '../mesh/remote/testing/published-cluster.ts';
import { until } from '../mesh/remote/testing/until.ts';
import { openNodeRig } from './testing/node-rig.ts';
import { backendText, ipcacheText, publishAlpha, publishBeta } from './testing/two-clusters.ts';

test('rows of a peer whose file went while the agent was down are pruned', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.ready('beta');
  await until('its rows are there', () => backendText(rig.datapath).includes('10.2.0.5:9090@2'));
  await rig.stop();
  await rig.removePeer('beta');
  await rig.start();
  await rig.ready('alpha');
  await until(
    'its rows are gone',
    () =>
      backendText(rig.datapath).length === 1 && !ipcacheText(rig.datapath).join().includes('10.2.'),
  );
});

test('a removed peer file takes everything of that peer back, a new one adds it, without a restart', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  t.equal(await rig.stateOf('beta'), 'absent');
  const beta = await publishBeta();
  await rig.addPeer(beta);
  await rig.ready('beta');
  await until('its rows are there', () => backendText(rig.datapath).length === 2);
  await rig.removePeer('beta');
  await until(
    'its rows are gone',
    () =>
      backendText(rig.datapath).length === 1 && !ipcacheText(rig.datapath).join().includes(' 2'),
  );
  t.same(backendText(rig.datapath), ['10.1.0.5:8080@1']);
  t.equal(await rig.stateOf('beta'), 'absent');
  await rig.addPeer(beta);
  await rig.ready('beta');
  await until('its rows are back', () => backendText(rig.datapath).length === 2);
});

test('bad peers each give one clear line, and harm nothing', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('all rows are there', () => ipcacheText(rig.datapath).length === 6);
  const before = ipcacheText(rig.datapath);

  const twin = publishCluster('twin', 1);
  await twin.config();
  await twin.ip('10.1.0.5', { host: '203.0.113.1', local: 257 });
  await twin.marked();
  await rig.addPeer(twin);
  const second = publishCluster('second', 2);
  await second.config();
  await second.marked();
  await rig.addPeer(second);
  await writeFile(rig.dir.file('peers', 'misnamed'), 'endpoints: beta\n');
  await writeFile(rig.dir.file('peers', 'broken'), 'endpoints: \n');
  await writeFile(rig.dir.file('peers', 'alpha'), 'endpoints: alpha\n');
  const expected: Record<string, RegExp> = {
    twin: /cluster twin has our own cluster id 1/,
    second: /cluster second has cluster id 2, which cluster beta holds already/,
    misnamed:
      /cilium\/cluster-config\/misnamed is missing: either the cluster there is not called misnamed/,
    broken: /peers\/broken names no cluster/,
  };
  for (const [name, reason] of Object.entries(expected)) {
    await until(`${name} is refused`, async () => (await rig.stateOf(name)) === 'failed');
    const found = (await rig.status()).clusters.find((cluster) => cluster.name === name);
    const text = found !== undefined && 'reason' in found.state ? found.state.reason : '';
    t.match(text, reason);
    t.notMatch(text, /\n/);
  }
  await until('the own file is noted', async () =>
    (await rig.status()).notes.some((note) => note.includes('not its own peer')),
  );
  t.same(ipcacheText(rig.datapath), before);
  t.equal(await rig.stateOf('beta'), 'ready');
  t.equal(await rig.stateOf('alpha'), 'ready');
});

test('a half-written peer file keeps the last good one in use, and says so', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  await rig.addPeer(await publishBeta());
  await rig.start();
  await rig.ready('beta');
  for (const content of ['', 'endpoints: nobody\n']) {
    await writeFile(rig.dir.file('peers', 'beta'), content);
    await until('it is noticed', async () => {
      const beta = (await rig.status()).clusters.find(({ name }) => name === 'beta');
      return (
        beta?.fileProblem?.includes(content === '' ? 'half written' : 'names no cluster') ?? false
      );
    });
    const beta = (await rig.status()).clusters.find(({ name }) => name === 'beta');
    t.equal(beta?.state.kind, 'ready');
    t.match(beta?.fileProblem, /its last good content stays in use/);
  }
});

test('two clusters with one address: the own one has it, then the first peer, and it is said', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.marked();
  const beta = await publishBeta();
  await beta.ip('10.1.1.5', { host: '198.51.100.1', local: 257 });
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('beta');
  const gamma = publishCluster('gamma', 3);
  await gamma.config();
  await gamma.node('g1', '203.0.113.1');
  await gamma.identity(257, {});
  await gamma.ip('10.2.0.5', { host: '203.0.113.1', local: 257 });
  await gamma.marked();
  await rig.addPeer(gamma);
  await rig.ready('gamma');
  await rig.ready('alpha');
  await until('conflicts are shown', async () => (await rig.status()).conflicts.length === 2);
  t.same([...(await rig.status()).conflicts].sort(), [
    '10.1.1.5/32 is held by alpha, not by beta',
    '10.2.0.5/32 is held by beta, not by gamma',
  ]);
  t.equal(rig.datapath.ipcache.get('10.1.1.5/32')?.clusterId, 1);
  t.equal(rig.datapath.ipcache.get('10.2.0.5/32')?.clusterId, 2);
  await beta.removeIp('10.2.0.5');
  await until(
    'the next claimant has it',
    () => rig.datapath.ipcache.get('10.2.0.5/32')?.clusterId === 3,
  );
});
