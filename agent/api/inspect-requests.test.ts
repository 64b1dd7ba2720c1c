import { test } from 'tap';
import { until } from '../../mesh/remote/testing/until.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { type NodeRig, openNodeRig } from '../testing/node-rig.ts';
import { backendText, publishAlpha, publishBeta } from '../testing/two-clusters.ts';
import { callAgent } from './client.ts';

async function get(rig: NodeRig, path: string): Promise<unknown[]> {
  const { status, body } = await callAgent(rig.socketPath, { path });
  if (status !== 200) throw new Error(`${path}: ${status}: ${body}`);
  return body
    .trim()
    .split('\n')
    .map((line): unknown => JSON.parse(line));
}

test('the socket lists what is known of the mesh, a line each, and describes a Service', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('web', {
    affinity: 'local',
    backends: new Map([
      [parseIpAddress('10.1.0.5'), new Map([['http', { protocol: 'TCP', port: 8080 }]])],
    ]),
  });
  await rig.alpha.marked();
  const beta = await publishBeta();
  await beta.service('web', { '10.2.0.5': 9090, '10.2.0.66': 9090 });
  await beta.service('only', { '10.2.0.5': 1 });
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('beta');
  await rig.addPod('p1', '10.1.0.5');
  await until('the own backend is used', () => backendText(rig.datapath).length === 1);
  const agent = { agent: { cluster: 'alpha', node: 'n1' } };

  t.same(await get(rig, '/v1/inspect/nodes'), [
    agent,
    {
      cluster: 'alpha',
      name: 'n1',
      own: true,
      addresses: ['192.0.2.1'],
      labels: clusterOf('alpha'),
    },
    {
      cluster: 'alpha',
      name: 'n2',
      own: false,
      addresses: ['192.0.2.2'],
      labels: clusterOf('alpha'),
    },
    {
      cluster: 'beta',
      name: 'm1',
      own: false,
      addresses: ['198.51.100.1'],
      labels: clusterOf('beta'),
    },
  ]);
  t.match(await get(rig, '/v1/inspect/identities'), [
    agent,
    { identity: 65793, cluster: 'alpha', namespace: 'demo', labels: { app: 'server' } },
    { identity: 65794, cluster: 'alpha', namespace: 'demo', labels: { app: 'client' } },
    { identity: 131329, cluster: 'beta', namespace: 'demo', labels: { app: 'client' } },
  ]);
  const endpoints = await get(rig, '/v1/inspect/endpoints');
  t.equal(endpoints.length, 4, 'nodes are no endpoints');
  t.match(endpoints, [
    agent,
    { address: '10.1.0.5', cluster: 'alpha', namespace: 'demo', pod: 'p1', node: 'n1' },
    { address: '10.1.1.5', cluster: 'alpha', namespace: 'demo', pod: '', node: 'n2' },
    { address: '10.2.0.5', cluster: 'beta', namespace: 'demo', pod: '', node: 'm1' },
  ]);
  t.match(await get(rig, '/v1/inspect/services'), [
    agent,
    { cluster: 'alpha', namespace: 'demo', name: 'web', global: true, backends: 1, used: 1 },
    { cluster: 'beta', namespace: 'demo', name: 'web', global: true, backends: 1, shared: true },
    { cluster: 'beta', namespace: 'demo', name: 'only', backends: 1 },
  ]);
  t.match(await get(rig, '/v1/inspect/backends'), [
    agent,
    { service: 'web', cluster: 'alpha', address: '10.1.0.5', state: 'used' },
    { service: 'web', cluster: 'beta', address: '10.2.0.5', state: 'standby', reason: /^affinity/ },
    { service: 'web', cluster: 'beta', address: '10.2.0.66', state: 'unused', reason: /count/ },
    {
      service: 'only',
      cluster: 'beta',
      address: '10.2.0.5',
      state: 'unused',
      reason: /no Service/,
    },
  ]);
  t.match(await get(rig, '/v1/inspect/peers'), [
    agent,
    { name: 'beta', id: 2, state: 'ready', backends: 'used', nodes: 1, endpoints: 1, services: 2 },
  ]);
  const [described] = await get(rig, '/v1/inspect/service?name=demo/web');
  t.match(described, {
    ...agent,
    namespace: 'demo',
    name: 'web',
    exists: true,
    affinity: 'local',
    frontends: [{ address: '10.96.0.10', port: 80, backends: 1 }],
    clusters: [
      { cluster: 'alpha', own: true, backends: 1, used: 1 },
      { cluster: 'beta', own: false, backends: 2, used: 0 },
    ],
  });
});

test('the socket says what cannot be listed or described', async (t) => {
  const rig = await openNodeRig(t);
  await rig.start();
  const call = async (path: string, method: 'GET' | 'POST' = 'GET') => {
    const { status, body } = await callAgent(rig.socketPath, { path, method });
    return `${status} ${JSON.parse(body).error}`;
  };
  t.equal(
    await call('/v1/inspect/x'),
    '404 cannot list x: expected one of nodes, identities, endpoints, services, backends, peers',
  );
  t.equal(
    await call('/v1/inspect/nodes', 'POST'),
    '405 cannot POST /v1/inspect/nodes: expected GET',
  );
  t.equal(
    await call('/v1/inspect/service?name=web'),
    '400 cannot describe Service web: expected NAMESPACE/NAME',
  );
  t.equal(
    await call('/v1/inspect/service?name=demo/web'),
    '404 neither this cluster nor a peer has a Service demo/web',
  );
});

test('many rows come in turns: others are answered meanwhile, and all of them arrive', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  for (let host = 0; host < 3000; host += 1) {
    await rig.alpha.ip(`10.1.${8 + (host >> 8)}.${host & 255}`, { host: '192.0.2.2', local: 258 });
  }
  await rig.alpha.marked();
  await rig.start();
  await rig.ready('alpha');
  const [rows, health] = await Promise.all([
    get(rig, '/v1/inspect/endpoints'),
    callAgent(rig.socketPath, { path: '/healthz' }),
  ]);
  t.equal(rows.length, 1 + 2 + 3000);
  t.equal(health.status, 200);
});

const clusterOf = (name: string) => ({ 'io.cilium.k8s.policy.cluster': name });
