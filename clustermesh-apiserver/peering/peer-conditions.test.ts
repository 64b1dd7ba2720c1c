import { test } from 'tap';
import { type PeerSituation, peerConditions, situationFindings } from './peer-conditions.ts';

const GOOD: PeerSituation = {
  refusals: [],
  isFormerInForce: false,
  objectProblem: undefined,
  hasCertificate: true,
  certificateProblem: undefined,
  report: { state: 'ready', reason: '' },
};
const REFUSAL = { id: 'peer-same-id', severity: 'refusal', cause: 'it has id 1' } as const;

test('peerConditions() says first what is wrong first', async (t) => {
  const ready = (change: Partial<PeerSituation>): string => {
    const [first] = peerConditions({ ...GOOD, ...change });
    return `${first?.type} ${first?.status} ${first?.reason}: ${first?.message}`;
  };
  const unknown = { text: 'no peer alpha there', isUnknownThere: true };
  const slow = { text: 'no answer', isUnknownThere: false };
  for (const [change, expected] of [
    [{}, 'Ready true Ready: everything of it is read'],
    [{ objectProblem: 'no YAML' }, 'Ready false Unusable: no YAML'],
    [
      { objectProblem: 'no YAML', isFormerInForce: true },
      'Ready false Unusable: no YAML; what it was before stays in force',
    ],
    [{ refusals: [REFUSAL] }, 'Ready false Refused: peer-same-id: it has id 1'],
    [
      { hasCertificate: false, report: undefined },
      'Ready false Waiting: a certificate is being asked for',
    ],
    [{ hasCertificate: false, certificateProblem: slow }, 'Ready false Waiting: no answer'],
    [
      { hasCertificate: false, certificateProblem: unknown, report: undefined },
      'Ready false HalfConnected: no peer alpha there',
    ],
    [
      { certificateProblem: unknown, report: { state: 'failed', reason: 'refused' } },
      'Ready false HalfConnected: no peer alpha there',
    ],
    [{ certificateProblem: unknown }, 'Ready true Ready: everything of it is read'],
    [{ certificateProblem: slow }, 'Ready true Ready: everything of it is read'],
    [{ report: undefined }, 'Ready false Waiting: it is not read yet'],
    [
      { report: { state: 'connecting', reason: '' } },
      'Ready false Connecting: it is being connected',
    ],
    [{ report: { state: 'syncing', reason: 'nodes' } }, 'Ready false Syncing: nodes'],
    [{ report: { state: 'stale', reason: 'silent' } }, 'Ready false Stale: silent'],
    [{ report: { state: 'failed', reason: 'closed' } }, 'Ready false Failed: closed'],
  ] satisfies readonly (readonly [Partial<PeerSituation>, string])[]) {
    t.equal(ready(change), expected);
  }
});

test('peerConditions() tells of each part', async (t) => {
  const found = peerConditions({
    ...GOOD,
    certificateProblem: { text: 'x', isUnknownThere: false },
  });
  t.same(
    found.map(({ type, status, reason }) => `${type} ${status} ${reason}`),
    [
      'Ready true Ready',
      'Trusted true Trusted',
      'Enrolled true RenewalFails',
      'Connected true Ready',
    ],
  );
});

test('situationFindings() knows a half connected pair', async (t) => {
  t.same(situationFindings(GOOD), []);
  const certificateProblem = { text: 'no peer alpha there', isUnknownThere: true };
  t.same(situationFindings({ ...GOOD, certificateProblem }), [
    { id: 'peer-half-connected', severity: 'warning', cause: 'no peer alpha there' },
  ]);
});
