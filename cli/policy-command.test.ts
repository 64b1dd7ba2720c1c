import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { type Test, test } from 'tap';
import { parse } from 'yaml';
import { type NodeRig, openNodeRig } from '../agent/testing/node-rig.ts';
import { until } from '../mesh/remote/testing/until.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { runPolicy as policy } from './testing/policy-run.ts';

const SERVER_POLICY = {
  endpointSelector: { matchLabels: { app: 'server' } },
  ingress: [
    {
      fromEndpoints: [{ matchLabels: { app: 'client' } }],
      toPorts: [{ ports: [{ port: '8080', protocol: 'TCP' }] }],
    },
  ],
};

/** Pod demo/a (client) on a node of alpha, demo/b (server) on a node of beta: policies select both servers. */
async function openMesh(t: Test): Promise<{ readonly alpha: NodeRig; readonly beta: NodeRig }> {
  const alpha = await openNodeRig(t);
  const beta = await openNodeRig(t, { place: { cluster: 'beta', id: 2, ip: '198.51.100.1' } });
  for (const { alpha: own } of [alpha, beta]) {
    const [host, client, server] =
      own.name === 'alpha'
        ? ['192.0.2.1', '10.1.0.5', '10.1.0.6']
        : ['198.51.100.1', '10.2.0.5', '10.2.0.6'];
    await own.config();
    await own.node('n1', host);
    await own.identity(257, { app: 'client' });
    await own.identity(258, { app: 'server' });
    await own.ip(client, { host, local: 257 });
    await own.ip(server, { host, local: 258 });
    await own.policy('server', SERVER_POLICY, {
      origin: { file: 'server.yaml', lines: { spec: 5, 'spec.ingress[0]': 9 } },
    });
    await own.service('web', { [server]: 8080 });
    await own.localService('web', {
      backends: new Map([
        [parseIpAddress(server), new Map([['http', { protocol: 'TCP', port: 8080 }]])],
      ]),
    });
    await own.marked();
  }
  await alpha.addPeer(beta.alpha);
  await beta.addPeer(alpha.alpha);
  await Promise.all([alpha.start(), beta.start()]);
  await alpha.addPod('client', '10.1.0.5');
  await alpha.addPod('server', '10.1.0.6');
  await beta.addPod('server', '10.2.0.6');
  for (const rig of [alpha, beta]) {
    await Promise.all([rig.ready('alpha'), rig.ready('beta')]);
    await until('who the pods are is known', async () =>
      (await rig.status()).endpoints.every(({ identity }) => identity > 256),
    );
  }
  await until('the service has both backends', () =>
    alpha.datapath.services.rows().some(({ backends }) => backends.length === 2),
  );
  return { alpha, beta };
}

test('clustermesh policy: list, get, trace, simulate and audit of running agents', async (t) => {
  const { alpha, beta } = await openMesh(t);
  const one = ['--socket-path', alpha.socketPath];
  const both = ['--socket-path', alpha.socketPath, beta.socketPath];
  const toBeta = ['--from', 'demo/client', '--to', '10.2.0.6'];

  const [list, get, byNumber, nobody, local, half, whole, service] = await Promise.all([
    policy('list', ...both),
    policy('get', 'demo/server', ...one, '-o', 'json'),
    policy('get', '2', ...one),
    policy('get', 'demo/nobody', ...one),
    policy('trace', '--from', 'demo/client', '--to', '10.1.0.6', '--port', '8080', ...one),
    policy('trace', ...toBeta, '--port', '8080', ...one),
    policy('trace', ...toBeta, '--port', '8080', ...both),
    policy('trace', '--from', 'demo/client', '--to', 'service/demo/web', ...both, '-o', 'yaml'),
  ]);

  t.equal(list.code, 0, list.stderr);
  t.match(list.stdout, /^CLUSTER +NODE +POLICY +GENERATION +STATE +ENDPOINTS +ENTRIES +FILE\n/);
  for (const cluster of ['alpha', 'beta']) {
    t.match(
      list.stdout,
      new RegExp(
        `^${cluster} +n1 +CiliumNetworkPolicy demo/server +\\d+ +enforced +1 +1 +server.yaml$`,
        'm',
      ),
    );
  }

  t.equal(get.code, 0, get.stderr);
  t.match(JSON.parse(get.stdout), [
    {
      cluster: 'alpha',
      pod: 'demo/server',
      ingressEnforced: true,
      egressEnforced: false,
      audit: false,
      policies: ['CiliumNetworkPolicy demo/server'],
      entries: [
        {
          direction: 'ingress',
          identity: 65_793,
          cluster: 'alpha',
          port: '8080/TCP',
          verdict: 'allow',
          rules: [{ path: 'spec.ingress[0]', file: 'server.yaml', line: 9 }],
        },
      ],
    },
  ]);
  t.match(
    byNumber.stdout,
    /ingress +allow +8080\/TCP +65793 app=client.* \(alpha\) +CiliumNetworkPolicy demo\/server spec\.ingress\[0\] \(server\.yaml:9\)/,
  );
  t.match(nobody, { code: 1, stderr: /cannot find endpoint demo\/nobody on alpha\/n1/ });

  t.match(local, {
    code: 0,
    stdout:
      /^ALLOWED: demo\/client 10\.1\.0\.5 \(alpha\/n1\) -> demo\/server 10\.1\.0\.6 \(alpha\/n1\) 8080\/TCP\n/,
  });
  t.match(local.stdout, /egress +allowed by alpha\/n1: no policy closes this direction/);
  t.match(
    local.stdout,
    /ingress +allowed by alpha\/n1: a rule allows it\n +allow CiliumNetworkPolicy demo\/server spec\.ingress\[0\] \(server\.yaml:9\): from app=client/,
  );
  t.match(local.stdout, /route +local: stays on node n1/);

  t.equal(half.code, 3, 'the verdict of beta is unknown');
  t.match(half.stdout, /^UNKNOWN: /);
  t.match(
    half.stdout,
    /ingress +unknown: policies of cluster beta are known to its own agents alone: run `clustermesh policy trace --from demo\/client --to 10\.2\.0\.6 --port 8080` on one of its nodes/,
  );
  t.match(half.stdout, /route +overlay: from node n1 in VXLAN to 198\.51\.100\.1/);

  t.equal(whole.code, 1, whole.stderr);
  t.match(
    whole.stdout,
    /^DENIED: demo\/client 10\.1\.0\.5 \(alpha\/n1\) -> demo\/server 10\.2\.0\.6 \(beta\/n1\) 8080\/TCP\n/,
  );
  t.match(
    whole.stdout,
    /ingress +denied by beta\/n1: no rule allows it; closed by CiliumNetworkPolicy demo\/server/,
  );
  t.match(
    whole.stdout,
    /near: CiliumNetworkPolicy demo\/server spec\.ingress\[0\] \(server\.yaml:9\): .*fits but for the cluster/,
  );

  t.equal(service.code, 1, 'one of two backends is closed');
  t.match(
    parse(service.stdout).reports.map(({ verdict, port, to, route }: Record<string, never>) => [
      verdict,
      port,
      to,
      route,
    ]),
    [
      ['allowed', '8080/TCP', { cluster: 'alpha' }, { kind: 'local' }],
      ['denied', '8080/TCP', { cluster: 'beta' }, { kind: 'overlay' }],
    ],
  );

  const files = await openTempDir('policy');
  t.teardown(() => files[Symbol.asyncDispose]());
  const manifest = (port: string) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: server, namespace: demo }
spec:
  endpointSelector: { matchLabels: { app: server } }
  ingress:
    - fromEndpoints: [{ matchLabels: { app: client } }]
      toPorts: [{ ports: [{ port: "${port}", protocol: TCP }] }]
`;
  const [same, other, broken, flows] = ['same', 'other', 'broken', 'flows'].map((name) =>
    files.file(`${name}.yaml`),
  ) as [string, string, string, string];
  await writeFile(same, manifest('8080'));
  await writeFile(other, manifest('9090'));
  await writeFile(broken, manifest('8080').replace('toPorts', 'toWhom'));
  const event = {
    kind: 'trace',
    state: 'new',
    protocol: 'TCP',
    source: { address: '10.1.0.5', identity: 65_793, port: 40_000 },
    destination: { address: '10.1.0.6', identity: 65_794, port: 8080 },
  };
  await writeFile(flows, `${JSON.stringify({ kind: 'start' })}\n${JSON.stringify(event)}\n`);

  const [unchanged, changed, onlyOpening, refused, ambiguous, gone] = await Promise.all([
    policy('simulate', '-f', same, '--flows', flows, ...one),
    policy('simulate', '-f', other, '--flows', flows, ...one, '-o', 'json'),
    policy('simulate', '--delete', 'demo/server', '--fail-on', 'denied', ...one),
    policy('simulate', '-f', broken, ...one),
    policy('simulate', '-f', same, ...both),
    policy('simulate', '--delete', 'demo/web', ...one),
  ]);
  t.match(unchanged, {
    code: 0,
    stdout: /no verdict of cluster alpha would change\n1 recorded flows were judged\n$/,
  });
  t.equal(changed.code, 4, changed.stderr);
  const answer = JSON.parse(changed.stdout);
  t.match(answer.flowChanges, [
    { direction: 'ingress', before: { verdict: 'allowed' }, after: { verdict: 'denied' } },
  ]);
  t.same(
    answer.changes
      .map(({ ports, after }: { ports: string[]; after: { verdict: string } }) => [
        ports.join(),
        after.verdict,
      ])
      .sort(),
    [
      ['8080/TCP', 'denied'],
      ['9090/TCP', 'allowed'],
    ],
  );
  t.match(
    onlyOpening,
    { code: 0, stdout: /ingress +.*app=server.*\n?/ },
    'nothing would be denied by it',
  );
  t.match(refused, {
    code: 4,
    stderr: /broken\.yaml:8: CiliumNetworkPolicy demo\/server: spec\.ingress\[0\]\.toWhom/,
  });
  t.match(ambiguous, { code: 2, stderr: /give --cluster: the agents asked are of alpha, beta/ });
  t.match(gone, { code: 2, stderr: /cluster alpha has no policy of that name/ });

  const on = await policy('audit', 'demo/server', 'on', ...one);
  t.match(on, { code: 0, stdout: 'audit mode of demo/server on alpha/n1 is on\n' });
  const audited = await policy(
    'trace',
    '--from',
    'demo/client',
    '--to',
    '10.1.0.6',
    '--port',
    '1',
    ...one,
  );
  t.match(audited, {
    code: 0,
    stdout: /^AUDITED: [\s\S]*denied \(audit mode: passes\) by alpha\/n1/,
  });
  t.match(await policy('audit', 'server', 'on', ...both), {
    code: 2,
    stderr: /means several endpoints/,
  });
  t.equal((await policy('audit', '10.1.0.6', 'off', ...one)).code, 0);
  t.match(await policy('get', 'demo/server', ...one, '-o', 'json'), { stdout: /"audit": false/ });
});

test('clustermesh policy: wrong calls and agents out of reach have their exit codes', async (t) => {
  await using dir = await openTempDir('policy');
  // Takes connections and never answers.
  const silent = createServer();
  silent.listen(dir.file('silent.sock'));
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  await writeFile(dir.file('good.yaml'), 'apiVersion: v1\nkind: ConfigMap\n');
  await writeFile(
    dir.file('bad.yaml'),
    'apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: x }\nspec:\n  ingress: 5\n',
  );
  const nowhere = ['--socket-path', '/nowhere.sock'];
  const cases: [readonly string[], number, RegExp][] = [
    [['--help'], 0, /list.*get.*trace.*simulate.*validate.*audit/s],
    [['list', ...nowhere], 3, /cannot reach the agent on \/nowhere\.sock/],
    [
      ['list', '--socket-path', dir.file('silent.sock'), '--timeout', '1'],
      124,
      /does not answer within 1 s/,
    ],
    [['list', '--socket-path', '/x', '--lab', 'y'], 2, /not both/],
    [['list', '--timeout', '0'], 2, /expected 1 to 9999 seconds/],
    [['list', '-o', 'xml'], 2, /Allowed choices are table, json, yaml/],
    [['get'], 2, /missing required argument/],
    [['trace', '--from', 'a'], 2, /--to/],
    [['trace', '--from', 'a', '--to', 'b', '--port', 'x', ...nowhere], 3, /cannot reach/],
    [['audit', 'a', 'maybe'], 2, /expected on or off/],
    [['simulate', ...nowhere], 2, /give --file, --delete or both/],
    [['simulate', '-f', '/nowhere.yaml', ...nowhere], 2, /cannot read \/nowhere\.yaml/],
    [['validate'], 2, /missing required argument/],
    [['validate', '/nowhere.yaml'], 2, /cannot read \/nowhere\.yaml/],
    [['validate', dir.file('good.yaml')], 0, /good\.yaml:2: note: ConfigMap is no policy/],
    [
      ['validate', dir.file('good.yaml'), dir.file('bad.yaml')],
      1,
      /bad\.yaml:5: NetworkPolicy default\/x: spec\.ingress must be a list.*0 problems|1 problems/s,
    ],
    [['validate', '--cluster-name', 'A', dir.file('good.yaml')], 2, /--cluster-name/],
  ];
  const runs = await Promise.all(cases.map(([args]) => policy(...args)));
  for (const [index, [args, code, text]] of cases.entries()) {
    const run = runs[index];
    t.equal(run?.code, code, `${args.join(' ')}: ${run?.stderr}`);
    t.match(`${run?.stdout}${run?.stderr}`, text, args.join(' '));
  }
});
