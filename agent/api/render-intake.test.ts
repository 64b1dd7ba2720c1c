import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { type IntakeReport, intakeProblems, verifiedText } from './render-intake.ts';

const FINE: IntakeReport = {
  name: parseClusterName('beta'),
  verified: [
    {
      kind: 'nodes',
      revision: 7n,
      count: 3,
      result: 'match',
      digest: 'match',
      reason: undefined,
      at: 0,
    },
    {
      kind: 'ips',
      revision: 7n,
      count: 9,
      result: 'unknown',
      digest: 'absent',
      reason: 'compacted',
      at: 0,
    },
  ],
  heldBack: [],
  unknownBackends: { count: 0, examples: [] },
  announces: { list: undefined, learned: 2, contested: [] },
};

test('a cluster that is as it says has no problems', (t) => {
  t.same(intakeProblems(FINE), []);
  t.equal(verifiedText(FINE), '1/2 digest 1');
  t.equal(verifiedText({ verified: [] }), '-');
  t.end();
});

test('what differs, is held back or does not count is told with what to do', (t) => {
  const [nodes] = FINE.verified;
  if (nodes === undefined) throw new Error('there is one');
  const problems = intakeProblems({
    ...FINE,
    verified: [
      { ...nodes, digest: 'mismatch', reason: 'its publisher says 4 keys' },
      { ...nodes, kind: 'ips', result: 'mismatch', reason: undefined },
    ],
    heldBack: [{ kind: 'services', count: 700 }],
    unknownBackends: { count: 2, examples: ['10.2.0.9:80'] },
    announces: {
      list: undefined,
      learned: 1,
      contested: [
        {
          cluster: FINE.name,
          range: parseIpPrefix('10.2.0.0/16'),
          holder: parseClusterName('gamma'),
        },
      ],
    },
  });
  t.match(problems, [
    /cluster beta: what is held of its nodes .* revision 7: its publisher says 4 keys; it is read again/,
    /cluster beta: what is held of its ips .*: the keys differ; /,
    /cluster beta: 700 services that its last list left out are kept/,
    /cluster beta: 2 backends do not count, .*: 10\.2\.0\.9:80/,
    /cluster beta: its range 10\.2\.0\.0\/16 is also that of cluster gamma/,
  ]);
  t.equal(problems.length, 5);
  t.end();
});
