import { test } from 'tap';
import { parse, stringify } from 'yaml';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { answerSimulation, type SimulateAnswer, type SimulateRequest } from './simulate-answer.ts';
import { createFlowReader } from './simulate-flows.ts';
import { parseWorld, readCase } from './testing/corpus.ts';
import { corpusView } from './testing/corpus-view.ts';
import { readManifests } from './validate-manifest.ts';

const WORLD = parseWorld(`
namespaces: { demo: {}, other: {} }
endpoints:
  server: { cluster: alpha, namespace: demo, labels: { app: server }, ports: { http: TCP/8080 } }
  client: { cluster: alpha, namespace: demo, labels: { app: client } }
  stranger: { cluster: alpha, namespace: other, labels: { app: client } }
  far-client: { cluster: beta, namespace: demo, labels: { app: client } }
nodes: { alpha-1: { cluster: alpha, labels: {} } }
outside: { visitor: 203.0.113.9 }
`);

const base = (ingress: unknown) => ({
  apiVersion: 'cilium.io/v2',
  kind: 'CiliumNetworkPolicy',
  metadata: { name: 'server', namespace: 'demo' },
  spec: { endpointSelector: { matchLabels: { app: 'server' } }, ingress },
});
const fromClients = (ports: unknown[]) => ({
  fromEndpoints: [{ matchLabels: { app: 'client' } }],
  toPorts: [{ ports }],
});
const PORT_80 = { port: '80', protocol: 'TCP' };

function run(
  before: unknown[],
  request: Partial<SimulateRequest> & { files?: unknown[] },
): SimulateAnswer {
  const raw = {
    name: 'x',
    page: 'kubernetes.io/docs/x',
    policies: before,
    expect: 'client server tcp/80 allow',
  };
  const view = corpusView(readCase(raw, WORLD), 'alpha');
  const text = (request.files ?? []).map((file) => stringify(file)).join('---\n');
  const running = answerSimulation(
    {
      manifests: readManifests({ name: 'new.yaml', text }).policies,
      deleted: request.deleted ?? [],
      flows: request.flows ?? [],
      withPairs: request.withPairs ?? true,
    },
    view,
    { clusterName: parseClusterName('alpha'), defaultLocalCluster: true },
  );
  for (;;) {
    const step = running.next();
    if (step.done) return step.value;
  }
}

/** Changes as lines: who, to whom, which ports, what becomes of it. */
function lines({ changes }: SimulateAnswer): string[] {
  return changes
    .map(({ direction, subject, peer, ports, after }) => {
      const name = (labels: readonly string[]) =>
        labels.find((label) => /^(k8s:app|reserved)/.test(label))?.replace('k8s:app=', '') ??
        'others';
      const who = peer.address ?? `${peer.cluster ?? ''} ${name(peer.labels)}`.trim();
      return `${direction} ${name(subject.labels)} ${who} x${peer.count} ${ports.join('+') || 'any'} ${after.verdict}`;
    })
    .sort();
}

test('a first policy closes everything that it does not allow', (t) => {
  const answer = run([], { files: [base([fromClients([PORT_80])])] });
  t.match(answer.objects, [
    { name: 'CiliumNetworkPolicy demo/server', becomes: 'added', problems: [] },
  ]);
  const all = lines(answer);
  t.ok(
    all.includes(
      'ingress server alpha client x1 0-79/TCP+81-65535/TCP+any UDP+any SCTP+any ICMP+any ICMPv6+any other protocol denied',
    ),
    all.join('\n'),
  );
  t.ok(
    all.some((line) =>
      /^ingress server .*beta client x\d+ any denied$|^ingress server alpha server x\d+ any denied$/.test(
        line,
      ),
    ),
    all.join('\n'),
  );
  t.ok(
    all.some((line) => /reserved:world/.test(line) && line.endsWith('any denied')),
    all.join('\n'),
  );
  t.notOk(
    all.some((line) => line.startsWith('egress')),
    'egress stays open',
  );
  t.notOk(
    all.some((line) => / reserved:host /.test(line)),
    'the own node always gets in',
  );
  t.end();
});

test('the same policy again, or in another order of fields, changes nothing', (t) => {
  const policy = base([fromClients([PORT_80])]);
  const answer = run([policy], { files: [parse(stringify(policy))] });
  t.match(answer.objects, [{ becomes: 'unchanged' }]);
  t.same(answer.changes, []);
  t.end();
});

test('ports are told as ranges, and both ways', (t) => {
  const before = base([fromClients([{ port: '8000', endPort: 8100, protocol: 'TCP' }])]);
  const after = base([
    fromClients([{ port: '8050', endPort: 8200, protocol: 'TCP' }, { port: 'http' }]),
  ]);
  const answer = run([before], { files: [after] });
  t.match(answer.objects, [{ becomes: 'changed' }]);
  t.same(lines(answer), [
    'ingress server alpha client x1 8000-8049/TCP denied',
    'ingress server alpha client x1 8101-8200/TCP allowed',
  ]);
  t.match(answer.changes[0]?.after.nearMisses, [{ path: 'spec.ingress[0]', misses: 'port' }]);
  t.end();
});

test('a deleted policy opens, and a name that is none or not one alone is refused', (t) => {
  const policy = base([{ fromEntities: ['none'] }]);
  const network = {
    apiVersion: 'networking.k8s.io/v1',
    kind: 'NetworkPolicy',
    metadata: { name: 'server', namespace: 'demo' },
    spec: { podSelector: {} },
  };
  const answer = run([policy], { deleted: ['demo/server'] });
  t.match(answer.objects, [{ name: 'CiliumNetworkPolicy demo/server', becomes: 'deleted' }]);
  t.ok(
    lines(answer).every((line) => line.endsWith('any allowed')),
    lines(answer).join('\n'),
  );
  t.ok(answer.changes.length > 0);
  t.match(run([policy], { deleted: ['server'] }).objects, [{ becomes: 'deleted' }]);
  t.throws(() => run([policy], { deleted: ['web'] }), {
    code: 'bad-question',
    message: /no policy of that name/,
  });
  t.throws(() => run([policy, network], { deleted: ['demo/server'] }), {
    code: 'bad-question',
    message:
      /give one of "NetworkPolicy demo\/server", "CiliumNetworkPolicy|give one of "CiliumNetworkPolicy/,
  });
  t.match(run([policy, network], { deleted: ['NetworkPolicy demo/server'] }).objects, [
    { name: 'NetworkPolicy demo/server' },
  ]);
  t.end();
});

test('networks are judged in every part that rules divide them into', (t) => {
  const before = base([{ fromCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.1.0.0/16'] }] }]);
  const after = base([{ fromCIDRSet: [{ cidr: '10.0.0.0/8', except: ['10.1.2.0/24'] }] }]);
  const answer = run([before], { files: [after] });
  const world = answer.changes.filter(({ peer }) => peer.kind === 'world');
  t.same(
    world.map(({ after: { verdict }, ports }) => [verdict, ports]),
    [['allowed', []]],
    'what is in 10.1.0.0/16 and not in 10.1.2.0/24',
  );
  t.match(world[0]?.peer.address, /^10\.1\./);
  t.notMatch(world[0]?.peer.address, /^10\.1\.2\./);
  t.end();
});

test('a CIDR group that changes moves the policies that refer to it', (t) => {
  const group = (cidr: string) => ({
    apiVersion: 'cilium.io/v2',
    kind: 'CiliumCIDRGroup',
    metadata: { name: 'office' },
    spec: { externalCIDRs: [cidr] },
  });
  const policy = base([{ fromCIDRSet: [{ cidrGroupRef: 'office' }] }]);
  const answer = run([policy, group('203.0.113.0/24')], { files: [group('203.0.113.0/25')] });
  t.match(answer.objects, [{ name: 'CiliumCIDRGroup office', becomes: 'changed' }]);
  t.match(answer.changes, [{ peer: { address: '203.0.113.128' }, after: { verdict: 'denied' } }]);
  t.equal(answer.changes.length, 1);
  t.end();
});

test('what cannot be read leaves the version there is in force', (t) => {
  const answer = run([base([fromClients([PORT_80])])], {
    files: [
      {
        ...base([]),
        spec: {
          endpointSelector: { matchExpressions: [{ key: 'a', operator: 'Bad' }] },
          ingress: [{}],
        },
      },
    ],
  });
  t.match(answer.objects, [{ becomes: 'kept', problems: [{ path: /endpointSelector/ }] }]);
  t.same(answer.changes, []);
  t.end();
});

test('recorded flows are judged on the sides of the cluster', (t) => {
  const reader = createFlowReader();
  const side = (
    identity: number | undefined,
    address: string,
    port?: number,
    cluster?: string,
  ) => ({ identity, address, port, cluster });
  const event = (rest: Record<string, unknown>) => ({
    kind: 'trace',
    state: 'new',
    protocol: 'TCP',
    ...rest,
  });
  const client = side(65_793, '10.1.0.6', 40_000, 'alpha');
  const server = side(65_792, '10.1.0.5', 8080, 'alpha');
  const events: unknown[] = [
    { kind: 'start', node: 'n1' },
    event({ source: client, destination: server }),
    event({ source: { ...client, port: 40_001 }, destination: server }),
    event({ source: server, destination: client, state: 'reply' }),
    event({ source: side(undefined, '203.0.113.9', 5), destination: { ...server, port: 80 } }),
    event({
      source: side(131_331, '10.2.0.8', 1, 'beta'),
      destination: side(131_332, '10.2.0.9', 80, 'beta'),
    }),
    event({ source: client, destination: server, protocol: 'ICMPv4', icmp: { type: 8 } }),
    event({ source: client, destination: server, isLaterFragment: true }),
    event({ source: client, destination: server, protocol: 'protocol 47' }),
  ];
  for (const [index, one] of events.entries()) reader.add(index + 1, JSON.stringify(one));
  reader.add(20, 'no JSON');
  reader.add(21, '');
  const { flows, passedOver, unreadable } = reader.result();
  t.equal(flows.length, 4, 'each flow once, whichever packet told it');
  t.equal(passedOver, 3);
  t.match(unreadable, [{ line: 20 }]);
  const answer = run([], { files: [base([fromClients([PORT_80])])], flows, withPairs: false });
  t.same(answer.changes, []);
  t.match(
    answer.flowChanges.map(({ flow, direction, after }) => [
      flow.from.address,
      flow.port,
      direction,
      after.verdict,
    ]),
    [
      ['10.1.0.6', 8080, 'ingress', 'denied'],
      ['203.0.113.9', 80, 'ingress', 'denied'],
      ['10.1.0.6', 8, 'ingress', 'denied'],
    ],
  );
  t.match([answer.flowsJudged, answer.flowsOfOthers], [3, 1]);
  t.end();
});
