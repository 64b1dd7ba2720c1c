import { statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import type { SessionState } from '../registry/session.ts';
import { openNodeRig } from '../testing/node-rig.ts';
import { callAgent, fetchStatus } from './client.ts';
import { problemsOf, renderStatus } from './render.ts';

test("the socket is its owner's alone, replaces one that a crash left, and goes with the agent", async (t) => {
  const rig = await openNodeRig(t);
  await writeFile(rig.socketPath, '');
  await rig.start();
  t.equal(statSync(rig.socketPath).mode & 0o777, 0o600);
  await rig.stop();
  t.throws(() => statSync(rig.socketPath), { code: 'ENOENT' });
  await t.rejects(fetchStatus(rig.socketPath), {
    code: 'unreachable',
    message: /is clustermesh-agent running on this node/,
  });
});

test('health follows the own cluster', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const health = () => callAgent(rig.socketPath, { path: '/healthz' });
  t.equal((await health()).status, 503);
  await rig.alpha.config();
  await rig.alpha.marked();
  await rig.ready('alpha');
  t.equal((await health()).status, 200);
});

test('maps and counters are dumped as JSON', async (t) => {
  const rig = await openNodeRig(t);
  rig.datapath.counterRows = [
    { reason: 'policy-denied', direction: 'ingress', packets: 3n, bytes: 180n },
  ];
  await rig.start();
  const get = async (path: string): Promise<unknown> =>
    JSON.parse((await callAgent(rig.socketPath, { path })).body);
  t.same(await get('/v1/metrics'), {
    counters: [{ reason: 'policy-denied', direction: 'ingress', packets: 3, bytes: 180 }],
  });
  t.match(await get('/v1/maps/ipcache'), {
    name: 'ipcache',
    rows: [{ prefix: '192.0.2.1/32', identity: 1 }],
  });
  for (const name of ['endpoints', 'policy', 'services']) {
    t.same(await get(`/v1/maps/${name}`), { name, rows: [] });
  }
});

test('what is not there is told', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  t.match(await callAgent(rig.socketPath, { path: '/v1/maps/x' }), {
    status: 404,
    body: /expected one of ipcache, endpoints, policy, services/,
  });
  t.match(await callAgent(rig.socketPath, { path: '/nothing' }), {
    status: 404,
    body: /nothing at \/nothing/,
  });
  t.match(await callAgent(rig.socketPath, { path: '/v1/cni' }), {
    status: 405,
    body: /expected POST/,
  });
  t.match(await callAgent(rig.socketPath, { path: '/v1/status', method: 'POST', body: '{}' }), {
    status: 405,
  });
  t.match(await callAgent(rig.socketPath, { path: '/v1/cni', method: 'POST', body: '{' }), {
    status: 400,
    body: /"code":6/,
  });
  t.match(
    await callAgent(rig.socketPath, {
      path: '/v1/cni',
      method: 'POST',
      body: 'x'.repeat(5 * 1024 * 1024),
    }),
    { status: 500, body: /more than 4194304 bytes/ },
  );
});

test('the text of a status has every cluster, table, endpoint and policy, and says what to do', async (t) => {
  const rig = await openNodeRig(t);
  await rig.alpha.config();
  await rig.alpha.identity(257, { app: 'web' });
  await rig.alpha.ip('10.1.0.5', { host: '192.0.2.1', local: 257 });
  await rig.alpha.ip('127.0.0.9', { host: '192.0.2.1', local: 257 });
  await rig.alpha.policy('p', { endpointSelector: {}, ingress: [{ fromGroups: [{}] }] });
  await rig.alpha.marked();
  await writeFile(rig.dir.file('peers', 'broken'), 'endpoints: \n');
  await rig.start();
  await rig.addPod('a', '10.1.0.5');
  await rig.ready('alpha');
  await until('the broken file is seen', async () => (await rig.stateOf('broken')) === 'failed');
  const text = renderStatus(await rig.status());
  t.match(
    text,
    /^n1 of cluster alpha \(id 1\): not ready, .*\n\nnot ready because:\n {2}- peer broken has not/,
  );
  t.match(text, /ClusterMesh: 0\/1 remote clusters ready, 0 global services/);
  t.match(text, /alpha \(own\) +unknown: it writes no stamps, as Cilium does not\n/);
  t.match(text, /alpha \(own\) +1 +ready +\S+ +- +0 +1 +1 +0 +1 +0/);
  t.match(text, /broken +\? +failed/);
  t.match(text, /ipcache +2 +0 +0 +0 +- +-/);
  t.match(text, /1 +demo\/a +10\.1\.0\.5 +65793 +vetha +policy/);
  t.match(text, /CiliumNetworkPolicy demo\/p +1 +partly refused +1/);
  t.match(text, /problems:\n/);
  t.match(text, /cluster broken: failed: .*names no cluster/);
  t.match(
    text,
    /cluster alpha: values refused: 1 address-not-allowed; last: address 127\.0\.0\.9\/32: nobody may claim it/,
  );
  t.match(text, /CiliumNetworkPolicy demo\/p: spec\.ingress\[0\]\.fromGroups is not supported/);
  t.notMatch(text, / \n/, 'no line ends in blanks');
});

test('a status without problems has no list of them', async (t) => {
  const rig = await openNodeRig(t);
  await rig.alpha.config();
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  const status = await rig.status();
  t.same(problemsOf(status), []);
  t.notMatch(renderStatus(status), /problems/);
  t.match(renderStatus(status), /no endpoints on this node/);
});

test('a session with the registry runs as long as the agent, and its trouble is shown', async (t) => {
  let state: SessionState = { kind: 'disconnected', error: 'connect ECONNREFUSED' };
  const runs: string[] = [];
  const rig = await openNodeRig(t, {
    registry: {
      get state() {
        return state;
      },
      describe: () => state.kind,
      run: async (signal) => {
        runs.push('began');
        await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
        runs.push('ended');
      },
    },
  });
  await rig.alpha.config();
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  t.match(problemsOf(await rig.status()), ['session with the registry: disconnected']);
  state = { kind: 'accepted', since: 0 };
  t.same(problemsOf(await rig.status()), []);
  t.match(renderStatus(await rig.status()), /; registry: accepted/);
  t.same(runs, ['began']);
  await rig.stop();
  t.same(runs, ['began', 'ended']);
});
