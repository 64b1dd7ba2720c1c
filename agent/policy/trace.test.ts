import { test } from 'tap';
import { parse } from 'yaml';
import { parseWorld, readCase } from './testing/corpus.ts';
import { corpusView } from './testing/corpus-view.ts';
import { tracePacket } from './trace.ts';
import { imagineParty, parseParty, resolveParty } from './trace-party.ts';
import { parsePortQuestion, portText } from './trace-port.ts';
import { reportTrace } from './trace-report.ts';
import type { PartyInfo, PolicyView } from './trace-view.ts';

const WORLD = parseWorld(`
namespaces:
  demo: { team: red }
  other: {}
endpoints:
  server: { cluster: alpha, namespace: demo, labels: { app: server }, ports: { http: TCP/8080 } }
  client: { cluster: alpha, namespace: demo, labels: { app: client } }
  far-server: { cluster: beta, namespace: demo, labels: { app: server } }
  far-client: { cluster: beta, namespace: demo, labels: { app: client } }
nodes:
  alpha-1: { cluster: alpha, labels: {} }
  beta-1: { cluster: beta, labels: {} }
outside:
  visitor: 203.0.113.9
`);

const POLICY = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: server, namespace: demo }
spec:
  endpointSelector: { matchLabels: { app: server } }
  ingress:
    - fromEndpoints: [{ matchLabels: { app: client } }]
      toPorts: [{ ports: [{ port: "80", protocol: TCP }] }]
    - fromCIDR: [203.0.113.0/24]
      toPorts: [{ ports: [{ port: http }] }]
  ingressDeny:
    - fromEndpoints: [{ matchLabels: { app: evil } }]
`;

function viewOf(cluster: 'alpha' | 'beta', policy = POLICY): PolicyView {
  const raw = {
    name: 'x',
    page: 'kubernetes.io/docs/x',
    policies: cluster === 'alpha' ? [parse(policy)] : [parse(POLICY)],
    betaPolicies: [parse(POLICY)],
    services: [{ name: 'web', namespace: 'demo', backends: ['server', 'far-server'] }],
    expect: 'client server tcp/80 allow',
  };
  return corpusView(readCase(raw, WORLD), cluster);
}

function one(text: string, view: PolicyView): PartyInfo {
  const [party, ...others] = resolveParty(parseParty(text), view).parties;
  if (party === undefined || others.length > 0) throw new Error(`${text} is not one party`);
  return party;
}

test('parseParty() reads every way to name a side, and says what it expects', (t) => {
  const cases: [string, unknown][] = [
    ['10.1.0.5', { kind: 'address', address: '10.1.0.5' }],
    ['FD00::5', { kind: 'address', address: 'fd00::5' }],
    ['7', { kind: 'endpoint', endpointId: 7 }],
    ['identity:65793', { kind: 'identity', identity: 65_793 }],
    ['demo/web', { kind: 'name', namespace: 'demo', name: 'web' }],
    ['web-0', { kind: 'name', namespace: undefined, name: 'web-0' }],
    ['service/demo/web', { kind: 'service', namespace: 'demo', name: 'web' }],
    ['svc/demo/web', { kind: 'service', namespace: 'demo', name: 'web' }],
    ['world', { kind: 'labels', labels: [{ source: 'reserved', key: 'world', value: '' }] }],
    ['reserved:host', { kind: 'labels', labels: [{ source: 'reserved', key: 'host', value: '' }] }],
    [
      'app=web,k8s:tier=',
      {
        kind: 'labels',
        labels: [
          { source: undefined, key: 'app', value: 'web' },
          { source: 'k8s', key: 'tier', value: '' },
        ],
      },
    ],
  ];
  for (const [text, query] of cases) t.strictSame(parseParty(text), query, text);
  for (const text of ['', '300.1.2.3', 'a/b/c/d', 'Demo/Web', '=x', 'dead:beef', 'identity:x']) {
    t.throws(() => parseParty(text), { name: 'TraceError', code: 'bad-question' }, text);
  }
  t.end();
});

test('parsePortQuestion() knows ports, protocols and types of messages', (t) => {
  const cases: [string, string][] = [
    ['80', '80/TCP'],
    ['53/udp', '53/UDP'],
    ['5000/SCTP', '5000/SCTP'],
    ['8/icmp', '8/ICMP'],
    ['128/ICMPv6', '128/ICMPv6'],
  ];
  for (const [text, wanted] of cases) t.equal(portText(parsePortQuestion(text)), wanted);
  for (const text of ['', 'http', '80/', '70000', '80/gre', '256/icmp', '-1']) {
    t.throws(() => parsePortQuestion(text), { code: 'bad-question' }, text);
  }
  t.end();
});

test('resolveParty() finds pods, addresses, labels and Services, and imagines nobody', (t) => {
  const view = viewOf('alpha');
  t.match(one('demo/server', view), {
    pod: 'demo/server',
    cluster: 'alpha',
    node: 'alpha-1',
    address: '10.1.0.5',
  });
  t.match(one('server', view), { pod: 'demo/server' });
  t.match(one('10.2.0.7', view), { cluster: 'beta', kind: 'endpoint', node: undefined });
  t.match(one('203.0.113.200', view), { cluster: undefined, kind: 'world' });
  t.match(one('198.51.100.9', view), { cluster: undefined, kind: 'world', identity: 2 });
  t.match(one('192.0.2.1', view), { cluster: 'alpha', kind: 'node', identity: 1, node: 'alpha-1' });
  t.equal(resolveParty(parseParty('app=client'), view).parties.length, 2, 'of every cluster');
  t.match(one('app=client,io.cilium.k8s.policy.cluster=beta', view), { cluster: 'beta' });
  t.same(
    resolveParty(parseParty('demo/far-server'), view).parties,
    [],
    'pods of others are not known by name',
  );
  const { frontends } = resolveParty(parseParty('service/demo/web'), view);
  t.match(frontends, [
    {
      service: 'demo/web',
      address: '10.96.0.1',
      port: 80,
      backends: [{ cluster: 'alpha' }, { cluster: 'beta' }],
    },
  ]);
  t.same(resolveParty(parseParty('demo/web'), view).frontends, frontends);
  t.same(resolveParty(parseParty('10.96.0.1'), view).frontends, frontends);
  const query = parseParty('app=new');
  t.same(resolveParty(query, view).parties, []);
  t.match(query.kind === 'labels' && imagineParty(query, 'alpha'), {
    cluster: 'alpha',
    identity: 0,
    labels: ['k8s:app=new', 'k8s:io.cilium.k8s.policy.cluster=alpha'],
  });
  t.end();
});

test('tracePacket() names the rule that decided, with its line, and the rows that agree', (t) => {
  const view = viewOf('alpha');
  const trace = (from: string, to: string, port: string) =>
    tracePacket({ from: one(from, view), to: one(to, view), ...parsePortQuestion(port) }, view);
  const allowed = trace('demo/client', 'demo/server', '80');
  t.match(allowed, {
    egress: { kind: 'known', says: { verdict: 'allowed', because: 'not-enforced' } },
    ingress: {
      kind: 'known',
      isLocal: true,
      kernel: 'allowed',
      says: {
        verdict: 'allowed',
        rules: [
          {
            policy: 'CiliumNetworkPolicy demo/server',
            path: 'spec.ingress[0]',
            file: 'policies.yaml',
            verdict: 'allow',
            text: /^from app=client .* on 80\/TCP$/,
          },
        ],
      },
    },
    route: { kind: 'local', node: 'alpha-1' },
  });
  t.match(trace('demo/client', 'demo/server', '81').ingress, {
    kernel: 'denied',
    says: {
      verdict: 'denied',
      because: 'no-rule',
      policies: ['CiliumNetworkPolicy demo/server'],
      nearMisses: [{ path: 'spec.ingress[0]', misses: 'port' }],
    },
  });
  t.match(
    trace('10.2.0.8', 'demo/server', '80').ingress,
    { says: { verdict: 'denied', nearMisses: [{ path: 'spec.ingress[0]', misses: 'cluster' }] } },
    'the usual mistake between clusters has its own name',
  );
  t.match(trace('203.0.113.77', 'demo/server', '8080'), {
    egress: { kind: 'outside' },
    ingress: { kernel: 'allowed', says: { rules: [{ path: 'spec.ingress[1]' }] } },
    route: undefined,
  });
  t.match(trace('demo/server', '203.0.113.77', '443').route, { kind: 'world' });
  t.match(trace('demo/server', '10.2.0.7', '80'), {
    ingress: { kind: 'unknown', cluster: 'beta' },
    route: { kind: 'overlay', tunnelEndpoint: '192.0.2.99' },
  });
  t.match(trace('192.0.2.1', 'demo/server', '9').egress, {
    kind: 'known',
    cluster: 'alpha',
    says: { verdict: 'allowed', because: 'not-enforced' },
  });
  t.match(trace('demo/server', '192.0.2.1', '4240').ingress, {
    kind: 'known',
    says: { verdict: 'allowed', because: 'not-enforced' },
  });
  t.match(trace('192.0.2.1', 'demo/server', '9').ingress, { says: { because: 'own-node' } });
  t.end();
});

test('reportTrace() puts clusters together, and says whom to ask for the rest', (t) => {
  const [alpha, beta] = [viewOf('alpha'), viewOf('beta')];
  const question = {
    from: one('demo/client', alpha),
    to: one('demo/far-server', beta),
    ...parsePortQuestion('80'),
    service: undefined,
  };
  const words = { words: '--from demo/client --to 10.2.0.7 --port 80' };
  const answers = [tracePacket(question, alpha), tracePacket(question, beta)];
  const both = reportTrace(question, answers, words);
  t.match(both, {
    verdict: 'denied',
    egress: { cluster: 'alpha', isLocal: true },
    ingress: { cluster: 'beta', isLocal: true, says: { nearMisses: [{ misses: 'cluster' }] } },
    route: { kind: 'overlay' },
    problems: [],
  });
  const half = reportTrace(question, answers.slice(0, 1), words);
  t.match(half, {
    verdict: 'unknown',
    ingress: {
      kind: 'unknown',
      cluster: 'beta',
      advice:
        /run `clustermesh policy trace --from demo\/client --to 10\.2\.0\.7 --port 80` on one of its nodes/,
    },
  });
  const audited = answers.map((answer) => ({
    ...answer,
    ingress: answer.ingress.kind === 'known' ? { ...answer.ingress, audit: true } : answer.ingress,
  }));
  t.equal(reportTrace(question, audited, words).verdict, 'audited');
  const odd = answers.map((answer) => ({
    ...answer,
    ingress:
      answer.ingress.kind === 'known'
        ? { ...answer.ingress, kernel: 'allowed' as const }
        : answer.ingress,
  }));
  t.match(reportTrace(question, odd, words).problems, [
    /rows of node beta-1 say allowed where its policies say denied/,
  ]);
  t.end();
});
