import { test } from 'tap';
import type { PolicyStanding } from '../registry/policy-report.ts';
import {
  changeOfConditions,
  conditionsToStore,
  policyConditions,
  readPolicyConditions,
} from './policy-conditions.ts';

const GOOD: PolicyStanding = {
  policy: 'CiliumNetworkPolicy demo/web',
  generation: 3,
  nodes: 5,
  behind: 0,
  selecting: 2,
  endpoints: 12,
  entries: 340,
  problems: [],
  errors: [],
};
const COUNTS = 'generation 3: 12 endpoints on 2 of 5 nodes, 340 entries';

test('policyConditions() says how a policy stands', async (t) => {
  const cases: readonly [string, Partial<PolicyStanding>, string[], string[]][] = [
    [
      'in force',
      {},
      ['True', 'Valid', 'Policy validation succeeded'],
      ['True', 'Enforced', COUNTS],
    ],
    [
      'partly refused',
      { problems: ['spec.ingress[0]: no layer 7', 'spec.egress[1]: no FQDN'] },
      ['False', 'NotEnforcedAsWritten', 'spec.ingress[0]: no layer 7; spec.egress[1]: no FQDN'],
      ['False', 'NotEnforcedAsWritten', COUNTS],
    ],
    [
      'failing',
      { errors: ['node n1: the map is full'] },
      ['True', 'Valid', 'Policy validation succeeded'],
      ['False', 'Failing', `${COUNTS}; node n1: the map is full`],
    ],
    [
      'on its way',
      { behind: 2 },
      ['True', 'Valid', 'Policy validation succeeded'],
      ['Unknown', 'RollingOut', `${COUNTS}; 2 of the nodes do not know this generation yet`],
    ],
  ];
  for (const [name, changes, valid, enforced] of cases) {
    const found = policyConditions({ ...GOOD, ...changes });
    t.same(
      found.map(({ type, status, reason, message }) => [type, status, reason, message]),
      [
        ['Valid', ...valid],
        ['Enforced', ...enforced],
      ],
      name,
    );
  }
  const [long] = policyConditions({ ...GOOD, problems: Array(20).fill('x'.repeat(600)) });
  t.equal(long?.message.length, 4096);
});

test('changeOfConditions() tells what may wait from what may not', async (t) => {
  const before = conditionsToStore(policyConditions(GOOD), { before: [], now: 0 });
  const change = (changes: Partial<PolicyStanding>): string =>
    changeOfConditions(policyConditions({ ...GOOD, ...changes }), before).kind;
  t.equal(change({}), 'none');
  t.equal(change({ endpoints: 13, entries: 400, nodes: 6, selecting: 3 }), 'counts');
  t.equal(change({ generation: 4 }), 'state');
  t.equal(change({ problems: ['x'] }), 'state');
  t.equal(change({ errors: ['x'] }), 'state');
  t.equal(changeOfConditions(policyConditions(GOOD), []).kind, 'state');
  const failing = { ...GOOD, errors: ['node n1: full'] };
  const failed = conditionsToStore(policyConditions(failing), { before, now: 0 });
  const later = (changes: Partial<PolicyStanding>): string =>
    changeOfConditions(policyConditions({ ...failing, ...changes }), failed).kind;
  t.equal(
    later({ endpoints: 13 }),
    'counts',
    'a failing policy is not written for each pod either',
  );
  t.equal(later({ errors: ['node n2: full'] }), 'state');
});

test('conditionsToStore() keeps the time of what is as it was', async (t) => {
  const before = conditionsToStore(policyConditions(GOOD), { before: [], now: 0 });
  t.same(before[0], {
    type: 'Valid',
    status: 'True',
    reason: 'Valid',
    message: 'Policy validation succeeded',
    lastTransitionTime: '1970-01-01T00:00:00Z',
  });
  const failing = policyConditions({ ...GOOD, errors: ['x'] });
  t.same(
    conditionsToStore(failing, { before, now: 60_000 }).map(
      ({ lastTransitionTime }) => lastTransitionTime,
    ),
    ['1970-01-01T00:00:00Z', '1970-01-01T00:01:00Z'],
  );
});

test('readPolicyConditions() reads what others write, and leaves out what is no condition', async (t) => {
  const others = { type: 'Valid', status: 'True', message: 'Policy validation succeeded' };
  t.same(readPolicyConditions({ status: { conditions: [others, 'x', { type: 'y' }] } }), [
    { ...others, reason: '', lastTransitionTime: '' },
  ]);
  t.same(readPolicyConditions({}), []);
});
