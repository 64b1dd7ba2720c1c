/** `clustermesh policy simulate` without an agent: everything stands in files. */
import { mkdir, writeFile } from 'node:fs/promises';
import { type Test, test } from 'tap';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { runPolicy } from './testing/policy-run.ts';

const server = (from: string, port = '"8080"') => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: server, namespace: demo }
spec:
  endpointSelector: { matchLabels: { app: server } }
  ingress:
    - fromEndpoints: [{ matchLabels: ${from} }]
      toPorts: [{ ports: [{ port: ${port}, protocol: TCP }] }]
`;
const CLIENTS = '{ app: client }';
const BOTH = '{ app: client, io.cilium.k8s.policy.cluster: beta }';

const PODS = `
endpoints:
  - { name: demo/server-1, namespace: demo, labels: { app: server }, ports: { http: 8080/TCP } }
  - { namespace: demo, labels: { app: client } }
  - { cluster: beta, namespace: demo, labels: { app: client } }
  - { cluster: beta, namespace: shop, labels: { app: client }, serviceAccount: till }
namespaces:
  shop: { team: front }
`;

async function openFiles(t: Test) {
  const dir = await openTempDir('offline');
  t.teardown(() => dir[Symbol.asyncDispose]());
  const put = async (name: string, text: string): Promise<string> => {
    await writeFile(dir.file(name), text);
    return dir.file(name);
  };
  await mkdir(dir.file('now'));
  await put('now/server.yaml', server(CLIENTS));
  await put('now/README.md', 'no manifest');
  const pods = await put('pods.yaml', PODS);
  const there = ['--policies', dir.file('now'), '--endpoints', pods, '--cluster', 'alpha'];
  return { put, there, pods, policies: dir.file('now') };
}

type Change = { peer: { labels: string[]; cluster?: string }; after: { verdict: string } };

test('simulate works from files alone, with the same answers and exit codes', async (t) => {
  const { put, there } = await openFiles(t);
  const same = await put('same.yaml', server(CLIENTS));
  const other = await put('other.yaml', server(BOTH));
  t.match(await runPolicy('simulate', '-f', same, ...there), {
    code: 0,
    stdout: /server: unchanged\nno verdict of cluster alpha would change\n$/,
  });
  const changed = await runPolicy('simulate', '-f', other, ...there, '-o', 'json');
  t.equal(changed.code, 4, changed.stderr);
  const { changes } = JSON.parse(changed.stdout) as { changes: Change[] };
  t.same(
    changes.map(({ peer, after }) => [peer.cluster, after.verdict]).sort(),
    [
      ['alpha', 'denied'],
      ['beta', 'allowed'],
    ],
    'clients of the own cluster no more, those of the other one in the same namespace then',
  );
  t.match(await runPolicy('simulate', '-f', other, ...there), {
    code: 4,
    stdout: /app=server.*\(alpha\) +app=client.*\(beta\) +8080\/TCP +denied +allowed/,
  });
  const deleted = await runPolicy('simulate', '--delete', 'demo/server', ...there);
  t.match(deleted, { code: 4, stdout: /server: deleted/ });
  const opened = ['simulate', '--delete', 'demo/server', '--fail-on', 'denied', ...there];
  t.equal((await runPolicy(...opened)).code, 0);
});

test('simulate without an agent knows labels of namespaces, service accounts and ports with names', async (t) => {
  const { put, there } = await openFiles(t);
  const shop = await put(
    'shop.yaml',
    server(
      '{ k8s:io.cilium.k8s.namespace.labels.team: front, k8s:io.kubernetes.pod.namespace: shop, io.cilium.k8s.policy.serviceaccount: till, io.cilium.k8s.policy.cluster: beta }',
      'http',
    ),
  );
  const { stdout, code, stderr } = await runPolicy('simulate', '-f', shop, ...there, '-o', 'json');
  t.equal(code, 4, stderr);
  const { changes } = JSON.parse(stdout) as { changes: (Change & { ports: string[] })[] };
  t.match(
    changes.find(({ after }) => after.verdict === 'allowed'),
    { ports: ['8080/TCP'], peer: { cluster: 'beta', labels: /serviceaccount=till/ } },
  );
});

test('what `kv dump` prints is a list of pods, too', async (t) => {
  const { put, there, policies } = await openFiles(t);
  const line = (id: number, app: string, cluster: string): string =>
    JSON.stringify({
      key: `cilium/state/identities/v1/id/${id}`,
      value: `k8s:app=${app};k8s:io.cilium.k8s.policy.cluster=${cluster};k8s:io.kubernetes.pod.namespace=demo;`,
    });
  const dump = await put(
    'dump.jsonl',
    [
      line(65_800, 'server', 'alpha'),
      line(131_400, 'client', 'beta'),
      JSON.stringify({ key: 'cilium/.heartbeat', value: '2026-01-01T00:00:00Z' }),
      '',
    ].join('\n'),
  );
  const both = await put('both.yaml', server(BOTH));
  const args = ['--policies', policies, '--endpoints', dump, '--cluster', 'alpha'];
  t.match(await runPolicy('simulate', '-f', both, ...args), {
    code: 4,
    stdout: /app=client.*\(beta\) +8080\/TCP +denied +allowed/,
  });
  t.equal((await runPolicy('simulate', '-f', both, ...there)).code, 4);
});

test('simulate says what its files lack', async (t) => {
  const { put, there, pods, policies } = await openFiles(t);
  const file = await put('new.yaml', server(CLIENTS));
  const broken = await put('broken.yaml', server(CLIENTS).replace('toPorts', 'toWhom'));
  const odd = await put('odd.yaml', 'endpoints: [{ label: { app: a } }]');
  const badPort = await put('port.yaml', 'endpoints: [{ ports: { http: 70000 } }]');
  const noCluster = await put(
    'none.jsonl',
    `${JSON.stringify({ key: 'cilium/state/identities/v1/id/65800', value: 'k8s:app=a;' })}\n`,
  );
  const from = (endpoints: string) => [
    '--policies',
    policies,
    '--endpoints',
    endpoints,
    '--cluster',
    'alpha',
  ];
  const cases: [readonly string[], number, RegExp][] = [
    [['--policies', policies], 2, /give --policies, --endpoints and --cluster together/],
    [['--endpoints', pods, '--cluster', 'alpha'], 2, /together/],
    [[...there, '--flows', pods], 2, /--flows, --socket-path and --lab need an agent/],
    [[...there, '--lab', 'demo'], 2, /need an agent/],
    [[...from(pods).with(-1, 'A')], 2, /--cluster: /],
    [from('/nowhere.yaml'), 2, /cannot read \/nowhere\.yaml/],
    [['--policies', '/nowhere', ...from(pods).slice(2)], 2, /cannot read \/nowhere/],
    [from(odd), 2, /odd\.yaml: endpoints\.0: .*label.*expected endpoints: a list/],
    [from(badPort), 2, /endpoints\.0\.ports\.http: expected NUMBER or NUMBER\/PROTOCOL/],
    [from(noCluster), 2, /an endpoint has no label io\.cilium\.k8s\.policy\.cluster: k8s:app=a/],
    [[...there, '--delete', 'demo/web'], 2, /cluster alpha has no policy of that name/],
  ];
  for (const [args, code, text] of cases) {
    const run = await runPolicy('simulate', '-f', file, ...args);
    t.equal(run.code, code, `${args.join(' ')}: ${run.stderr}`);
    t.match(run.stderr, text);
  }
  t.match(await runPolicy('simulate', '-f', broken, ...there), {
    code: 4,
    stderr: /broken\.yaml:8: CiliumNetworkPolicy demo\/server: spec\.ingress\[0\]\.toWhom/,
  });
});
