import { test } from 'tap';
import {
  addStandings,
  decodeStanding,
  encodeStanding,
  type NodePolicyReport,
  parsePolicyNews,
  standingOnNode,
} from './policy-report.ts';

const POLICY = 'CiliumNetworkPolicy demo/web';

function reportOf(changes: Partial<NodePolicyReport>): NodePolicyReport {
  const nothing = { generation: 2, endpoints: 0, entries: 0, lastError: '', problems: [] };
  return { policy: POLICY, ...nothing, ...changes };
}

test('addStandings() says what nodes say together', async (t) => {
  const parts = [
    standingOnNode('n1', reportOf({ endpoints: 2, entries: 10, problems: ['a', 'b'] })),
    standingOnNode('n2', reportOf({ problems: ['b'], lastError: 'the map is full' })),
    standingOnNode('n3', reportOf({ generation: 1, endpoints: 1, entries: 4, problems: ['old'] })),
  ];
  const together = {
    policy: POLICY,
    generation: 2,
    nodes: 3,
    behind: 1,
    selecting: 2,
    endpoints: 3,
    entries: 14,
    problems: ['a', 'b'],
    errors: ['node n2: the map is full'],
  };
  t.same(addStandings(parts), together);
  t.equal(addStandings([]), undefined);
  const halves = [addStandings(parts.slice(0, 1)), addStandings(parts.slice(1))];
  t.same(
    addStandings(halves.flatMap((half) => half ?? [])),
    together,
    'the same by way of two registries',
  );
});

test('what is behind in one registry is behind together with another that is ahead', async (t) => {
  const one = addStandings([
    standingOnNode('n1', reportOf({ generation: 1 })),
    standingOnNode('n2', reportOf({ generation: 2 })),
  ]);
  const two = addStandings([standingOnNode('n3', reportOf({ generation: 3 }))]);
  t.match(addStandings([one, two].flatMap((part) => part ?? [])), {
    generation: 3,
    nodes: 3,
    behind: 2,
  });
});

test('parsePolicyNews() reads what travels, and nothing else', async (t) => {
  t.same(
    parsePolicyNews({
      reports: [{ policy: POLICY, generation: '7', problems: ['x'] }],
      gone: ['NetworkPolicy demo/old'],
      complete: true,
    }),
    {
      reports: [reportOf({ generation: 7, problems: ['x'] })],
      gone: ['NetworkPolicy demo/old'],
      complete: true,
    },
  );
  t.same(parsePolicyNews({}), { reports: [], gone: [], complete: false });
  t.equal(parsePolicyNews({ reports: [{ generation: '1' }] }), undefined);
  t.equal(parsePolicyNews({ reports: [{ policy: POLICY, generation: 'x' }] }), undefined);
});

test('decodeStanding() reads what encodeStanding() wrote, and nothing else', async (t) => {
  const standing = standingOnNode('n1', reportOf({ endpoints: 1, problems: ['x'] }));
  const value = encodeStanding(standing);
  t.same(decodeStanding(value), standing);
  for (let length = 0; length < value.length; length += 1) {
    t.equal(decodeStanding(value.slice(0, length)), undefined);
  }
  t.equal(decodeStanding(value.replace('"schema":1', '"schema":2')), undefined);
});
