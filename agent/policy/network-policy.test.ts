import { test } from 'tap';
import { clauseText, npOf, parse, ruleLines } from './testing/rule-text.ts';

const CLUSTER = 'io.cilium.k8s.policy.cluster';
const DEMO = 'k8s:NAMESPACE=demo';
const ALPHA = 'k8s:CLUSTER=alpha';

const rules: readonly {
  readonly name: string;
  readonly spec: Record<string, unknown>;
  readonly lines: readonly string[];
  readonly defaultLocalCluster?: boolean;
}[] = [
  {
    name: 'pods of the same namespace',
    spec: { ingress: [{ from: [{ podSelector: { matchLabels: { app: 'a' } } }] }] },
    lines: [`allow ingress from {k8s:app=a, ${DEMO}, ${ALPHA}} on any`],
  },
  {
    name: 'pods of the same namespace of every cluster',
    spec: { ingress: [{ from: [{ podSelector: {} }] }] },
    lines: [`allow ingress from {${DEMO}} on any`],
    defaultLocalCluster: false,
  },
  {
    name: 'a cluster by its label',
    spec: { ingress: [{ from: [{ podSelector: { matchLabels: { [CLUSTER]: 'beta' } } }] }] },
    lines: [`allow ingress from {k8s:CLUSTER=beta, ${DEMO}} on any`],
  },
  {
    name: 'every namespace',
    spec: { ingress: [{ from: [{ namespaceSelector: {} }] }] },
    lines: [`allow ingress from {k8s:NAMESPACE Exists, ${ALPHA}} on any`],
  },
  {
    name: 'pods in namespaces with labels',
    spec: {
      egress: [
        {
          to: [
            {
              namespaceSelector: {
                matchLabels: { team: 'x' },
                matchExpressions: [{ key: 'env', operator: 'NotIn', values: ['b', 'a'] }],
              },
              podSelector: { matchLabels: { app: 'a' } },
            },
          ],
        },
      ],
    },
    lines: [
      `allow egress to {k8s:app=a, k8s:NS.team=x, k8s:NS.env NotIn a|b, k8s:NAMESPACE Exists, ${ALPHA}} on any`,
    ],
  },
  {
    name: 'a wholly empty rule: everybody',
    spec: { ingress: [{}] },
    lines: ['allow ingress from any on any'],
  },
  {
    name: 'a rule of null, as Go reads it',
    spec: { ingress: [null] },
    lines: ['allow ingress from any on any'],
  },
  {
    name: 'empty lists, which say the same as none',
    spec: { ingress: [{ from: [], ports: [] }], egress: [{ to: null, ports: null }] },
    lines: ['allow ingress from any on any', 'allow egress to any on any'],
  },
  {
    name: 'an ipBlock',
    spec: { egress: [{ to: [{ ipBlock: { cidr: '10.0.0.0/8' } }] }] },
    lines: ['allow egress to 10.0.0.0/8 on any'],
  },
  {
    name: 'an ipBlock with exceptions, host bits cleared',
    spec: {
      ingress: [
        { from: [{ ipBlock: { cidr: '10.1.2.3/8', except: ['10.1.0.0/16', '10.9.9.9/32'] } }] },
      ],
    },
    lines: ['allow ingress from 10.0.0.0/8 -10.1.0.0/16 -10.9.9.9/32 on any'],
  },
  {
    name: 'the world of each family',
    spec: {
      ingress: [{ from: [{ ipBlock: { cidr: '0.0.0.0/0' } }, { ipBlock: { cidr: '::/0' } }] }],
    },
    lines: ['allow ingress from world4, world6 on any'],
  },
  {
    name: 'the world but for a part of it',
    spec: { egress: [{ to: [{ ipBlock: { cidr: '::/0', except: ['fd00::/8'] } }] }] },
    lines: ['allow egress to ::/0 -fd00::/8 on any'],
  },
  {
    name: 'ports: TCP unless it is said, every port of a protocol, names',
    spec: {
      ingress: [
        {
          ports: [
            { port: 80 },
            { port: '81' },
            { port: 53, protocol: 'UDP' },
            { protocol: 'SCTP' },
            { port: 'http' },
            { port: 'dns', protocol: 'UDP' },
          ],
        },
      ],
    },
    lines: ['allow ingress from any on 6/80 6/81 17/53 132/* 6:http 17:dns'],
  },
  {
    name: 'the same port twice is one',
    spec: { ingress: [{ ports: [{ port: 80 }, { port: 80, protocol: 'TCP' }] }] },
    lines: ['allow ingress from any on 6/80'],
  },
  {
    name: 'endPort, the same as port or beyond it',
    spec: {
      ingress: [
        {
          ports: [
            { port: 8000, endPort: 8009 },
            { port: 7, endPort: 7 },
          ],
        },
      ],
    },
    lines: ['allow ingress from any on 6/8000/13 6/8008/15 6/7'],
  },
  {
    name: 'rules of a direction that policyTypes leaves out do not count',
    spec: { policyTypes: ['Egress'], ingress: [{}], egress: [{}] },
    lines: ['allow egress to any on any'],
  },
];

for (const { name, spec, lines, ...options } of rules) {
  test(`NetworkPolicy: ${name}`, async (t) => {
    const policy = parse(npOf(spec), options);
    t.same(policy.problems, []);
    t.same(ruleLines(policy), lines);
  });
}

const closes: readonly [name: string, spec: Record<string, unknown>, what: string][] = [
  ['nothing said: ingress', {}, ' ingress'],
  ['no policyTypes and no rules of egress: ingress', { egress: [] }, ' ingress'],
  ['no policyTypes and rules of egress: both', { egress: [{}] }, ' ingress egress'],
  [
    'no policyTypes but an empty list: as without it',
    { policyTypes: [], egress: [{}] },
    ' ingress egress',
  ],
  ['Ingress alone', { policyTypes: ['Ingress'], egress: [{}] }, ' ingress'],
  ['Egress alone, with no rules', { policyTypes: ['Egress'] }, ' egress'],
  [
    'both, each twice',
    { policyTypes: ['Ingress', 'Egress', 'Ingress', 'Egress'] },
    ' ingress egress',
  ],
];

for (const [name, spec, what] of closes) {
  test(`NetworkPolicy closes: ${name}`, async (t) => {
    const policy = parse(npOf(spec));
    t.same(policy.clauses.map(clauseText), [`pods {${DEMO}} closes${what}`]);
    t.same(policy.problems, []);
  });
}

test('NetworkPolicy: a rule says where it stands', async (t) => {
  const policy = parse(npOf({ ingress: [{}, {}], egress: [{}] }));
  t.same(
    policy.clauses.flatMap(({ rules }) => rules.map(({ path }) => path)),
    ['spec.ingress[0]', 'spec.ingress[1]', 'spec.egress[0]'],
  );
});

const refused: readonly [name: string, rule: unknown, problem: string][] = [
  ['a field of the other direction', { to: [] }, 'spec.ingress[0].to is not supported'],
  ['an unknown field', { from: [], novelty: 1 }, 'spec.ingress[0].novelty is not supported'],
  ['a text for a rule', 'x', 'spec.ingress[0] must be an object'],
  ['a list that is none', { from: {} }, 'spec.ingress[0].from must be a list'],
  ['a peer of null', { from: [null] }, 'spec.ingress[0].from[0] must be an object'],
  ['an empty peer', { from: [{}] }, 'spec.ingress[0].from[0] must have either an ipBlock or'],
  [
    'an ipBlock beside a selector',
    { from: [{ podSelector: {}, ipBlock: { cidr: '10.0.0.0/8' } }] },
    'spec.ingress[0].from[0] must have either an ipBlock or',
  ],
  [
    'a peer of another sort',
    { from: [{ podSelector: {}, serviceSelector: {} }] },
    'from[0].serviceSelector is not supported',
  ],
  [
    'a selector of a wrong type',
    { from: [{ podSelector: [] }] },
    'from[0].podSelector must be an object',
  ],
  [
    'a label that is no text',
    { from: [{ podSelector: { matchLabels: { a: 1 } } }] },
    'podSelector.matchLabels["a"] must be a string',
  ],
  [
    'an unknown part of a selector',
    { from: [{ podSelector: { matchName: 'x' } }] },
    'podSelector.matchName is not supported',
  ],
  [
    'an unknown operator',
    {
      from: [
        { namespaceSelector: { matchExpressions: [{ key: 'a', operator: 'Gt', values: ['1'] }] } },
      ],
    },
    'namespaceSelector.matchExpressions[0].operator must be one of',
  ],
  [
    'an address for a network',
    { from: [{ ipBlock: { cidr: '10.0.0.1' } }] },
    'ipBlock.cidr is "10.0.0.1": expected a network',
  ],
  [
    'no network',
    { from: [{ ipBlock: { except: [] } }] },
    'ipBlock.cidr is undefined: expected a network',
  ],
  [
    'a network that is none',
    { from: [{ ipBlock: { cidr: '10.0.0.0/33' } }] },
    'ipBlock.cidr is "10.0.0.0/33"',
  ],
  [
    'a network with a zone',
    { from: [{ ipBlock: { cidr: 'fe80::1%eth0/64' } }] },
    'ipBlock.cidr is "fe80::1%eth0/64"',
  ],
  [
    'an exception outside',
    { from: [{ ipBlock: { cidr: '10.0.0.0/8', except: ['11.0.0.0/16'] } }] },
    'ipBlock.except[0] is 11.0.0.0/16, which does not lie in 10.0.0.0/8',
  ],
  [
    'an exception of another family',
    { from: [{ ipBlock: { cidr: '10.0.0.0/8', except: ['fd00::/16'] } }] },
    'which does not lie in',
  ],
  [
    'an exception that is wider',
    { from: [{ ipBlock: { cidr: '10.0.0.0/8', except: ['10.0.0.0/7'] } }] },
    'which does not lie in',
  ],
  [
    'an exception that is no text',
    { from: [{ ipBlock: { cidr: '10.0.0.0/8', except: [1] } }] },
    'ipBlock.except[0] is 1',
  ],
  [
    'an unknown part of an ipBlock',
    { from: [{ ipBlock: { cidr: '10.0.0.0/8', port: 1 } }] },
    'ipBlock.port is not supported',
  ],
  ['port 0, which is none', { ports: [{ port: 0 }] }, 'ports[0].port must be 1 to 65535'],
  ['a port beyond 65535', { ports: [{ port: 65_536 }] }, 'ports[0].port must be 0 to 65535'],
  ['half a port', { ports: [{ port: 80.5 }] }, 'ports[0].port is 80.5: expected a port number'],
  ['a port below 0', { ports: [{ port: -1 }] }, 'ports[0].port must be'],
  ['a name that is none', { ports: [{ port: 'no_such' }] }, 'ports[0].port is "no_such": expected'],
  ['a name in capitals', { ports: [{ port: 'HTTP' }] }, 'ports[0].port is "HTTP": expected'],
  [
    'an unknown protocol',
    { ports: [{ port: 1, protocol: 'ICMP' }] },
    'ports[0].protocol is "ICMP"',
  ],
  ["Cilium's ANY", { ports: [{ port: 1, protocol: 'ANY' }] }, 'ports[0].protocol is "ANY"'],
  [
    'endPort without a port',
    { ports: [{ endPort: 9 }] },
    'ports[0].endPort needs the number of a port',
  ],
  [
    'endPort with a name',
    { ports: [{ port: 'http', endPort: 9 }] },
    'ports[0].endPort needs the number of a port',
  ],
  [
    'endPort below the port',
    { ports: [{ port: 9, endPort: 8 }] },
    'ports[0].endPort must not be below port 9',
  ],
  ['endPort 0', { ports: [{ port: 9, endPort: 0 }] }, 'ports[0].endPort must not be below port 9'],
];

for (const [name, rule, problem] of refused) {
  test(`NetworkPolicy: a rule with ${name} is refused alone, and says so`, async (t) => {
    const policy = parse(npOf({ ingress: [rule, { ports: [{ port: 1 }] }] }));
    t.same(ruleLines(policy), ['allow ingress from any on 6/1'], 'the good rule still holds');
    t.match(policy.clauses.map(clauseText), [`pods {${DEMO}} closes ingress`]);
    t.equal(policy.problems.length, 1);
    t.match(policy.problems[0]?.message, problem);
    t.match(policy.problems[0]?.message, /: the rule allows nothing$/);
  });
}

const isolating: readonly [name: string, spec: unknown, problem: string][] = [
  ['an unknown field', { podSelector: {}, novelty: {} }, 'spec.novelty is not supported'],
  [
    'an unknown policy type',
    { podSelector: {}, policyTypes: ['ingress'] },
    'spec.policyTypes[0] is "ingress": expected Ingress or Egress',
  ],
  ['rules that are no list', { podSelector: {}, ingress: {} }, 'spec.ingress must be a list'],
  [
    'a broken podSelector',
    { podSelector: { matchLabels: { a: 1 } } },
    'spec.podSelector.matchLabels["a"]',
  ],
  ['no spec', undefined, 'spec must be an object'],
];

for (const [name, spec, problem] of isolating) {
  test(`NetworkPolicy: ${name} closes whom it may be about, and says so`, async (t) => {
    const policy = parse({ kind: 'NetworkPolicy', manifest: { spec } });
    t.same(policy.clauses.map(clauseText), [`pods {${DEMO}} closes ingress egress, isolated`]);
    t.same(ruleLines(policy), []);
    t.match(policy.problems[0]?.message, problem);
    t.match(policy.problems[0]?.message, 'until it is corrected nothing may reach or leave');
  });
}

test('NetworkPolicy: what can be read of the subject limits whom a mistake closes', async (t) => {
  const spec = { podSelector: { matchLabels: { app: 'a' } }, policyTypes: 'Ingress' };
  const policy = parse({ kind: 'NetworkPolicy', manifest: { spec } });
  t.same(policy.clauses.map(clauseText), [
    `pods {k8s:app=a, ${DEMO}} closes ingress egress, isolated`,
  ]);
});
