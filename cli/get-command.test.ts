import { type Test, test } from 'tap';
import { parse } from 'yaml';
import { type NodeRig, openNodeRig } from '../agent/testing/node-rig.ts';
import { backendText, publishAlpha, publishBeta } from '../agent/testing/two-clusters.ts';
import { until } from '../mesh/remote/testing/until.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { runCli } from './testing/cli-run.ts';

const HTTP = new Map([['http', { protocol: 'TCP', port: 8080 } as const]]);

/** Node n1 of alpha with a pod, and peer beta; of beta's two backends one has an address that it does not publish. */
async function openMesh(t: Test): Promise<NodeRig> {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('web', {
    affinity: 'local',
    labels: { tier: 'front' },
    backends: new Map([[parseIpAddress('10.1.0.5'), HTTP]]),
  });
  await rig.alpha.localService('plain', {
    global: false,
    clusterIps: [parseIpAddress('10.96.0.11')],
    backends: new Map(),
  });
  await rig.alpha.marked();
  const beta = await publishBeta();
  await beta.service('web', { '10.2.0.5': 9090, '10.2.0.66': 9090 });
  await rig.addPeer(beta);
  await rig.start();
  await rig.ready('beta');
  await rig.addPod('p1', '10.1.0.5');
  await until('the own backend is used', () => backendText(rig.datapath).length === 1);
  return rig;
}

const lines = (...all: string[]): string => `${all.join('\n')}\n`;

test('clustermesh get: tables, filters, JSON and YAML of what an agent knows', async (t) => {
  const { socketPath } = await openMesh(t);
  const get = async (...args: string[]) =>
    (await runCli(['get', ...args, '--socket-path', socketPath])).stdout;

  t.equal(
    await get('nodes'),
    lines(
      'CLUSTER  NODE           ADDRESSES',
      'alpha    n1 (this one)  192.0.2.1',
      'alpha    n2             192.0.2.2',
      'beta     m1             198.51.100.1',
    ),
  );
  t.equal(
    await get('endpoints'),
    lines(
      'ADDRESS   CLUSTER  NAMESPACE  POD  NODE  IDENTITY',
      '10.1.0.5  alpha    demo       p1   n1    65793',
      '10.1.1.5  alpha    demo       -    n2    65794',
      '10.2.0.5  beta     demo       -    m1    131329',
    ),
  );
  t.match(
    await get('backends', '-o', 'wide', '-n', 'demo', '-l', 'tier=front'),
    /^NAMESPACE .* WHY .*ZONE\n.* 10\.1\.0\.5 .* used .*\n.* 10\.2\.0\.5 .* standby {2}affinity is local.*\n.* 10\.2\.0\.66 {2}- .* unused {3}it does not count.*\n$/,
  );
  t.match(await get('peers'), /^PEER {2}ID {2}STATE.*\nbeta {2}2 {3}ready.* used .*\n$/);
  t.match(await get('identities', '--cluster', 'beta'), /^IDENTITY.*\n131329.*app=client\n$/);
  t.equal(await get('services', '-n', 'nowhere'), 'no services\n');
  t.equal(await get('nodes', '-l', 'zone'), 'no nodes\n');

  const services = JSON.parse(await get('services', '-o', 'json'));
  t.match(services, [
    {
      agent: { cluster: 'alpha', node: 'n1' },
      kind: 'services',
      items: [
        { cluster: 'alpha', namespace: 'demo', name: 'plain', global: false, backends: 0, used: 0 },
        {
          cluster: 'alpha',
          namespace: 'demo',
          name: 'web',
          addresses: ['10.96.0.10'],
          ports: ['80/TCP'],
          global: true,
          shared: true,
          affinity: 'local',
          backends: 1,
          used: 1,
          labels: { tier: 'front' },
        },
        { cluster: 'beta', namespace: 'demo', name: 'web', backends: 1 },
      ],
    },
  ]);
  t.same(parse(await get('services', '-o', 'yaml')), services, 'one value in two forms');
});

test('clustermesh get: names of fields in JSON stay', async (t) => {
  const { socketPath } = await openMesh(t);
  const fieldsOf = async (kind: string) => {
    const run = await runCli(['get', kind, '-o', 'json', '--socket-path', socketPath]);
    const [{ items }] = JSON.parse(run.stdout);
    return Object.keys(items[0]).sort().join(' ');
  };
  t.equal(await fieldsOf('nodes'), 'addresses cluster labels name own');
  t.equal(await fieldsOf('identities'), 'cluster identity labels namespace');
  t.equal(await fieldsOf('endpoints'), 'address cluster identity labels namespace node pod');
  t.equal(
    await fieldsOf('services'),
    'addresses affinity backends cluster global labels name namespace ports shared used',
  );
  t.equal(
    await fieldsOf('backends'),
    'address cluster labels namespace node port portName protocol reason service state zone',
  );
  t.equal(
    await fieldsOf('peers'),
    'backends backendsReason endpointUrls endpoints failures id identities lag lastError name nodes reason services since state',
  );
});

test('clustermesh describe service: who offers it, and why each backend is used or not', async (t) => {
  const { socketPath } = await openMesh(t);
  const describe = (...args: string[]) =>
    runCli(['describe', 'service', ...args, '--socket-path', socketPath]);
  const { code, stdout } = await describe('web', '-n', 'demo');
  t.equal(code, 0);
  t.equal(
    stdout,
    lines(
      'demo/web on node n1 of cluster alpha: ClusterIP, global, shared, affinity local',
      '',
      'ADDRESS     PORT    CALLED FROM  BACKENDS  HELD BY',
      '10.96.0.10  80/TCP  this node    1         this Service',
      '',
      'CLUSTER      HAS IT  BACKENDS  USED HERE',
      'alpha (own)  yes     1         1',
      'beta         yes     2         0',
      '',
      'CLUSTER  BACKEND    PORT             STATE    WHY',
      'alpha    10.1.0.5   8080/TCP (http)  used     as good as the others',
      'beta     10.2.0.5   9090/TCP (http)  standby  affinity is local: used when the own cluster has no backend that is ready',
      'beta     10.2.0.66  -                unused   it does not count: cluster beta publishes no node or endpoint with this address',
    ),
  );
  t.match(
    (await describe('demo/plain')).stdout,
    /plain.*not global\n(.*\n)*alpha: none of its backends is ready/,
  );
  t.match(JSON.parse((await describe('demo/web', '-o', 'json')).stdout), [
    { name: 'web', clusters: [{ cluster: 'alpha' }, { cluster: 'beta', used: 0 }] },
  ]);
  t.match(await describe('web'), { code: 1, stderr: /has a Service default\/web/ });
  const coloured = await runCli(['describe', 'service', 'demo/web', '--socket-path', socketPath], {
    hasColours: true,
  });
  t.match(coloured.stdout, '\u001b[32m', 'colours where a person reads');
  t.notMatch(stdout, '\u001b');
});

test('clustermesh map dump: rows of the kernel, decoded', async (t) => {
  const { socketPath } = await openMesh(t);
  const dump = (...args: string[]) => runCli(['map', 'dump', ...args, '--socket-path', socketPath]);
  t.equal(
    (await dump('services')).stdout,
    lines(
      'ADDRESS     PORT    CALLED FROM  ALGORITHM  AFFINITY  BACKENDS       DRAINING',
      '10.96.0.10  80/TCP  this node    random     -         10.1.0.5:8080  -',
      '10.96.0.11  80/TCP  this node    random     -         -              -',
    ),
  );
  t.equal((await dump('policy')).stdout, 'no rows\n');
  const all = (await dump()).stdout;
  t.match(all, /^ipcache of .*, \d+ rows:\nPREFIX(.*\n)*\nendpoints of /);
  const [{ map, rows }] = JSON.parse((await dump('ipcache', '-o', 'json')).stdout);
  t.equal(map, 'ipcache');
  t.ok(rows.some((row: { prefix: string }) => row.prefix === '10.2.0.5/32'));
});

test('clustermesh get: what is asked wrongly, and agents that do not answer', async (t) => {
  const { socketPath } = await openMesh(t);
  const cases: readonly [readonly string[], number, RegExp][] = [
    [['get'], 2, /^$/],
    [['get', 'cows'], 2, /^$/],
    [['get', 'peers', '-n', 'demo'], 2, /peers have no namespace: leave the option out/],
    [['get', 'peers', '-l', 'a=b'], 2, /peers have no labels/],
    [['get', 'nodes', '-l', 'a=('], 2, /^$/],
    [['get', 'nodes', '--timeout', '0'], 2, /^$/],
    [['map', 'dump', 'cows'], 2, /^$/],
    [['get', 'nodes', '--socket-path', '/nowhere'], 3, /cannot reach the agent on \/nowhere/],
    [['describe', 'service', 'a/b/c', '--socket-path', socketPath], 2, /expected NAMESPACE\/NAME/],
  ];
  for (const [args, code, text] of cases) {
    const run = await runCli(args);
    t.equal(run.code, code, args.join(' '));
    t.match(run.stderr, text, args.join(' '));
  }
  const half = await runCli(['get', 'nodes', '--socket-path', '/nowhere', socketPath]);
  t.equal(half.code, 1, 'one of two answers: it is shown, and the other is a problem');
  t.match(half.stdout, /n1 \(this one\)/);
  t.match(half.stderr, /^clustermesh: cannot reach the agent on \/nowhere/);
});
