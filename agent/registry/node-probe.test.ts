import { test } from 'tap';
import type { ReachQuestion } from '../withdrawal/reach.ts';
import { answerProbe } from './node-probe.ts';

const PROBE = { id: '7', addresses: ['192.0.2.1', 'fd00::1'], udp_port: 8472 };

test('answerProbe() answers what can be read', async (t) => {
  const sent: object[] = [];
  const stream = { write: (message: object) => sent.push(message) };
  const asked: ReachQuestion[] = [];
  const lookAtNodes = async (question: ReachQuestion) => {
    asked.push(question);
    return question.addresses.map((address, index) => ({
      address,
      problem: index === 0 ? undefined : 'closed',
    }));
  };
  const { signal } = new AbortController();
  await answerProbe(stream, { probe: PROBE, lookAtNodes, signal });
  t.same(asked, [{ addresses: PROBE.addresses, udpPort: 8472 }]);
  t.same(sent.splice(0), [
    {
      probed: {
        id: '7',
        nodes: [
          { address: '192.0.2.1', problem: '' },
          { address: 'fd00::1', problem: 'closed' },
        ],
      },
    },
  ]);
  await answerProbe(stream, { probe: { ...PROBE, udp_port: 0 }, lookAtNodes, signal });
  t.equal(asked[1]?.udpPort, undefined, 'nothing is tunnelled');
  sent.splice(0);
  for (const probe of [{ ...PROBE, addresses: ['nonsense'] }, { addresses: [] }, 'x']) {
    await answerProbe(stream, { probe, lookAtNodes, signal });
  }
  await answerProbe(stream, { probe: PROBE, lookAtNodes: undefined, signal });
  await answerProbe(stream, { probe: PROBE, lookAtNodes, signal: AbortSignal.abort() });
  await answerProbe(stream, {
    probe: PROBE,
    lookAtNodes: async () => Promise.reject(new Error('the session has ended')),
    signal,
  });
  t.same(sent, [], 'nobody is told what nobody knows');
});
