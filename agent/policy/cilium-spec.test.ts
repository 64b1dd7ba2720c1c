import { test } from 'tap';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { ccnpOf, clauseText, cnpOf, parse, ruleLines } from './testing/rule-text.ts';

const NAMESPACE = 'io.kubernetes.pod.namespace';
const DEMO = 'k8s:NAMESPACE=demo';

const clauses: readonly [name: string, policy: Partial<LocalPolicy>, text: string][] = [
  ['ingress closes ingress', cnpOf({ ingress: [{}] }), `pods {${DEMO}} closes ingress`],
  ['egress closes egress', cnpOf({ egress: [{}], ingress: [] }), `pods {${DEMO}} closes egress`],
  [
    'denies close, too',
    cnpOf({ ingressDeny: [{}], egressDeny: [{}] }),
    `pods {${DEMO}} closes ingress egress`,
  ],
  [
    'without default deny nothing is closed',
    cnpOf({
      enableDefaultDeny: { ingress: false, egress: false },
      ingress: [{}],
      egressDeny: [{}],
    }),
    `pods {${DEMO}} closes`,
  ],
  [
    'default deny of a direction without rules closes nothing',
    cnpOf({ enableDefaultDeny: { ingress: true, egress: true }, egress: [{}] }),
    `pods {${DEMO}} closes egress`,
  ],
  [
    'fields without a meaning for packets',
    cnpOf({ ingress: [{}], labels: [], description: 'x', log: { value: 'x' } }),
    `pods {${DEMO}} closes ingress`,
  ],
  [
    'a subject by labels',
    { manifest: { spec: { endpointSelector: { matchLabels: { app: 'a' } }, ingress: [{}] } } },
    `pods {any:app=a, ${DEMO}} closes ingress`,
  ],
  [
    'a clusterwide one is about pods of every namespace',
    ccnpOf({ endpointSelector: {}, ingress: [{}] }),
    'pods {k8s:NAMESPACE Exists} closes ingress',
  ],
  [
    'a clusterwide one may be about nodes',
    ccnpOf({ nodeSelector: { matchLabels: { role: 'x' } }, ingress: [{}] }),
    'nodes {any:role=x} closes ingress',
  ],
];

for (const [name, given, text] of clauses) {
  test(`CiliumNetworkPolicy: ${name}`, async (t) => {
    const policy = parse(given);
    t.same(policy.problems, []);
    t.same(policy.clauses.map(clauseText), [text]);
  });
}

test('CiliumNetworkPolicy: spec and specs add up, and each rule says where it stands', async (t) => {
  const spec = { endpointSelector: {}, ingress: [{}], egressDeny: [{}, {}] };
  const policy = parse({
    manifest: { spec, specs: [spec, { endpointSelector: {}, egress: [{}] }] },
  });
  t.same(policy.problems, []);
  t.same(
    policy.clauses.map(({ rules }) => rules.map(({ path }) => path)),
    [
      ['spec.ingress[0]', 'spec.egressDeny[0]', 'spec.egressDeny[1]'],
      ['specs[0].ingress[0]', 'specs[0].egressDeny[0]', 'specs[0].egressDeny[1]'],
      ['specs[1].egress[0]'],
    ],
  );
  t.same(parse({ manifest: { specs: [spec] } }).clauses.length, 1, 'specs alone will do');
});

test("CiliumNetworkPolicy: another namespace in the subject is replaced by the policy's own", async (t) => {
  const endpointSelector = { matchLabels: { app: 'a', [`k8s:${NAMESPACE}`]: 'other' } };
  const policy = parse({ manifest: { spec: { endpointSelector, ingress: [{}] } } });
  t.same(policy.clauses.map(clauseText), [`pods {any:app=a, ${DEMO}} closes ingress`]);
  t.match(policy.problems, [
    {
      path: 'spec.endpointSelector',
      message: "asks for another namespace than the policy's own, demo",
    },
  ]);
});

test('CiliumNetworkPolicy: a subject by a reserved label is nobody, and says so', async (t) => {
  const endpointSelector = { matchLabels: { 'reserved:init': '' } };
  const policy = parse(ccnpOf({ endpointSelector, ingress: [{}] }));
  t.match(policy.problems, [
    { path: 'spec.endpointSelector', message: 'asks for a reserved label, which no pod has' },
  ]);
});

const isolating: readonly [
  name: string,
  policy: Partial<LocalPolicy>,
  text: string,
  problem: string,
][] = [
  [
    'an unknown field',
    cnpOf({ ingress: [{}], novelty: {} }),
    `pods {${DEMO}}`,
    'spec.novelty is not supported',
  ],
  [
    'rules that are no list',
    cnpOf({ ingressDeny: {} }),
    `pods {${DEMO}}`,
    'spec.ingressDeny must be a list',
  ],
  ['no rules at all', cnpOf({}), `pods {${DEMO}}`, 'spec must have a rule for ingress or egress'],
  [
    'default deny that is no truth',
    cnpOf({ ingress: [{}], enableDefaultDeny: { ingress: 'no' } }),
    `pods {${DEMO}}`,
    'spec.enableDefaultDeny.ingress must be true or false',
  ],
  [
    'default deny of another direction',
    cnpOf({ ingress: [{}], enableDefaultDeny: { all: true } }),
    `pods {${DEMO}}`,
    'spec.enableDefaultDeny.all is not supported',
  ],
  [
    'a mistake beside a subject by labels',
    { manifest: { spec: { endpointSelector: { matchLabels: { app: 'a' } }, ingress: 1 } } },
    `pods {any:app=a, ${DEMO}}`,
    'spec.ingress must be a list',
  ],
  [
    'no endpointSelector',
    { manifest: { spec: { ingress: [{}] } } },
    `pods {${DEMO}}`,
    'spec.endpointSelector must have an endpointSelector',
  ],
  [
    'a broken endpointSelector',
    cnpOf({
      endpointSelector: { matchExpressions: [{ key: 'a', operator: 'Is' }] },
      ingress: [{}],
    }),
    `pods {${DEMO}}`,
    'operator must be one of',
  ],
  [
    'nodes in a namespace',
    { manifest: { spec: { nodeSelector: {}, ingress: [{}] } } },
    `pods {${DEMO}}`,
    'spec.nodeSelector needs a CiliumClusterwideNetworkPolicy',
  ],
  [
    'both selectors',
    ccnpOf({ endpointSelector: {}, nodeSelector: {}, ingress: [{}] }),
    'pods {k8s:NAMESPACE Exists}',
    'spec must have one of endpointSelector and nodeSelector',
  ],
  [
    'a broken nodeSelector',
    ccnpOf({ nodeSelector: 1, ingress: [{}] }),
    'nodes {}',
    'spec.nodeSelector must be an object',
  ],
  [
    'a mistake about nodes',
    ccnpOf({ nodeSelector: { matchLabels: { role: 'x' } }, ingress: {} }),
    'nodes {any:role=x}',
    'nothing may reach or leave the nodes selected',
  ],
  ['no spec', { manifest: {} }, `pods {${DEMO}}`, 'spec must be an object'],
  [
    'a manifest that is no object',
    { manifest: 'x' },
    `pods {${DEMO}}`,
    'the manifest must be an object',
  ],
  ['specs that are no list', { manifest: { specs: {} } }, `pods {${DEMO}}`, 'specs must be a list'],
  ['empty specs', { manifest: { specs: [] } }, `pods {${DEMO}}`, 'spec must be an object'],
];

for (const [name, given, whom, problem] of isolating) {
  test(`CiliumNetworkPolicy: ${name} closes whom it may be about, and says so`, async (t) => {
    const policy = parse(given);
    t.same(policy.clauses.map(clauseText), [`${whom} closes ingress egress, isolated`]);
    t.same(ruleLines(policy), []);
    t.match(policy.problems.map(({ message }) => message).join('\n'), problem);
    t.match(policy.problems.at(-1)?.message, 'until it is corrected nothing may reach or leave');
  });
}

test('CiliumNetworkPolicy: one bad spec leaves the others as they are', async (t) => {
  const good = {
    endpointSelector: { matchLabels: { app: 'a' } },
    ingress: [{ fromEntities: ['host'] }],
  };
  const policy = parse({ manifest: { specs: [good, 7, good] } });
  t.same(
    policy.clauses.map(({ isolates }) => isolates),
    [false, true, false],
  );
  t.same(ruleLines(policy).length, 2);
  t.match(policy.problems, [{ path: 'specs[1]' }]);
});
