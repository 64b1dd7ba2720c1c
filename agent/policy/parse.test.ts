import { test } from 'tap';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { cnp, judge, np } from './testing/judge.ts';

const refused: readonly [name: string, policy: Partial<LocalPolicy>, problem: string][] = [
  ['fromCIDR', cnp({ fromCIDR: ['10.0.0.0/8'] }), 'spec.ingress[0].fromCIDR is not supported'],
  [
    'fromCIDRSet beside endpoints',
    cnp({ fromEndpoints: [{}], fromCIDRSet: [] }),
    'spec.ingress[0].fromCIDRSet',
  ],
  [
    'an HTTP rule',
    cnp({ toPorts: [{ ports: [{ port: '80' }], rules: { http: [] } }] }),
    'spec.ingress[0].toPorts[0].rules',
  ],
  [
    'a named port',
    cnp({ toPorts: [{ ports: [{ port: 'http' }] }] }),
    'spec.ingress[0].toPorts[0].ports[0].port is a port name',
  ],
  [
    'an unknown entity',
    cnp({ fromEntities: ['kube-apiserver'] }),
    'spec.ingress[0].fromEntities[0]',
  ],
  [
    'an unknown protocol',
    cnp({ toPorts: [{ ports: [{ port: '1', protocol: 'ICMP' }] }] }),
    'ports[0].protocol must be one of',
  ],
  ['a port beyond 65535', cnp({ toPorts: [{ ports: [{ port: '70000' }] }] }), 'must be 0 to 65535'],
  [
    'a range that runs backwards',
    cnp({ toPorts: [{ ports: [{ port: '20', endPort: 10 }] }] }),
    'endPort must not be below',
  ],
  [
    'an ipBlock',
    np({ ingress: [{ from: [{ ipBlock: { cidr: '10.0.0.0/8' } }] }] }),
    'spec.ingress[0].from[0].ipBlock is not supported',
  ],
  [
    'an empty peer',
    np({ ingress: [{ from: [{}] }] }),
    'must have a podSelector or a namespaceSelector',
  ],
  [
    'a broken peer',
    np({ ingress: [{ from: [{ podSelector: { matchLabels: 1 } }] }] }),
    'spec.ingress[0].from[0].podSelector.matchLabels',
  ],
];

for (const [name, policy, problem] of refused) {
  test(`a rule with ${name} is refused alone, says so and allows nothing`, async (t) => {
    const outcome = judge([policy, cnp({ fromEntities: ['health'] })]);
    t.equal(outcome.enforced, true);
    t.same(outcome.rows, ['health 0/0/0'], 'the good policy still works');
    t.equal(outcome.problems.length, 1);
    t.match(outcome.problems[0], problem);
    t.match(outcome.problems[0], 'the rule allows nothing');
  });
}

const isolating: readonly [name: string, policy: Partial<LocalPolicy>, problem: string][] = [
  [
    'ingressDeny',
    { manifest: { spec: { endpointSelector: {}, ingressDeny: [{ fromEntities: ['world'] }] } } },
    'spec.ingressDeny is not supported',
  ],
  [
    'an unknown field',
    { manifest: { spec: { endpointSelector: {}, ingress: [{}], novelty: {} } } },
    'spec.novelty is not supported',
  ],
  [
    'no endpointSelector',
    { manifest: { spec: { ingress: [{}] } } },
    'spec.endpointSelector must be an object',
  ],
  [
    'a broken endpointSelector',
    {
      manifest: {
        spec: {
          endpointSelector: { matchExpressions: [{ key: 'a', operator: 'Is' }] },
          ingress: [{}],
        },
      },
    },
    'operator must be one of',
  ],
  [
    'no rules at all',
    { manifest: { spec: { endpointSelector: {} } } },
    'spec must have ingress or egress rules',
  ],
  ['no spec', { manifest: {} }, 'spec must be an object'],
  ['a manifest that is no object', { manifest: 'x' }, 'the manifest must be an object'],
  [
    'a NetworkPolicy with a broken podSelector',
    np({ podSelector: { matchLabels: { a: 1 } } }),
    'spec.podSelector',
  ],
];

for (const [name, policy, problem] of isolating) {
  test(`a policy with ${name} closes the pods it may be about, and says so`, async (t) => {
    const outcome = judge([policy, cnp({ fromEntities: ['all'] })]);
    t.equal(outcome.enforced, true);
    t.same(outcome.rows, [], 'what another policy allows does not count');
    t.match(outcome.problems.join('\n'), problem);
  });
}

test('an unreadable policy of one namespace leaves others alone', async (t) => {
  const outcome = judge([{ namespace: 'other', manifest: {} }]);
  t.equal(outcome.enforced, false);
});

test('egress rules close egress and say so, and leave ingress as it is written', async (t) => {
  const outcome = judge([
    {
      manifest: {
        spec: { endpointSelector: {}, ingress: [{ fromEntities: ['host'] }], egress: [{}] },
      },
    },
  ]);
  t.same(outcome.rows, ['host 0/0/0']);
  t.equal(outcome.egressEnforced, true);
  t.match(outcome.problems[0], 'spec.egress is not supported by this version: nothing may leave');
});

test('a policy about nodes has no effect on pods and says so', async (t) => {
  const outcome = judge([
    {
      kind: 'CiliumClusterwideNetworkPolicy',
      namespace: '',
      manifest: { spec: { nodeSelector: {}, ingress: [{}] } },
    },
  ]);
  t.equal(outcome.enforced, false);
  t.match(outcome.problems[0], 'spec.nodeSelector is not supported');
});
