import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createNodeProber } from './node-prober.ts';

const { signal } = new AbortController();
const QUESTION = { addresses: ['192.0.2.1', '192.0.2.2'], udpPort: 8472 };

test('createNodeProber() asks nodes that have a session', async (t) => {
  const prober = createNodeProber({ clock: createManualClock() });
  t.equal(await prober.ask(QUESTION, signal), undefined, 'nobody is there');
  const sent: { name: string; probe: { id: number } }[] = [];
  const [n1, n2] = ['n1', 'n2'].map((name) =>
    prober.open(name, (message) => void sent.push({ name, ...(message as { probe: never }) })),
  );
  const asked = prober.ask(QUESTION, signal);
  t.match(sent, [
    { name: 'n1', probe: { addresses: QUESTION.addresses, udp_port: 8472 } },
    { name: 'n2', probe: { addresses: QUESTION.addresses, udp_port: 8472 } },
  ]);
  const [first, second] = sent.map(({ probe }) => probe.id);
  t.equal(n1?.take({ id: String(first), nodes: 'x' }), false, 'it cannot be read');
  n1?.take({ id: String(second), nodes: [{ address: '192.0.2.1', problem: 'a lie' }] });
  n1?.take({ id: String(first), nodes: [{ address: '192.0.2.1' }, { address: '198.51.100.9' }] });
  n2?.take({ id: String(second), nodes: [{ address: '192.0.2.2', problem: 'closed' }] });
  t.same(
    await asked,
    [
      { from: 'n1', address: '192.0.2.1', problem: '' },
      { from: 'n2', address: '192.0.2.2', problem: 'closed' },
    ],
    'nobody answers for another one, nor of what was not asked',
  );
});

test('createNodeProber() waits for nobody for ever', async (t) => {
  const clock = createManualClock();
  const prober = createNodeProber({ clock });
  const node = prober.open('n1', () => undefined);
  const asked = prober.ask(QUESTION, signal);
  await clock.advance(6000);
  t.same(await asked, []);
  const ending = new AbortController();
  const given = prober.ask(QUESTION, ending.signal);
  ending.abort(new Error('gone'));
  await t.rejects(given, { message: 'gone' });
  node.close();
  t.equal(await prober.ask(QUESTION, signal), undefined);
});
