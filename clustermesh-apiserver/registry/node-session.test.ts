import { test } from 'tap';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { createMachineConfigs } from './machine-configs.ts';
import { nodeSubject } from './node-session.ts';

test('a node is told its peers if it asks, and again when there are others', async (t) => {
  const clock = createManualClock();
  let peers: readonly string[] | undefined;
  const configs = createMachineConfigs({
    book: { get: () => undefined, onChange: () => undefined },
    sources: { checksOf: () => [], checksRevision: () => 1, peers: () => peers },
    trustBundle: () => 'authorities',
    issuer: () => 'signs',
    clock,
  });
  const ending = new AbortController();
  const running = configs.run(ending.signal);
  t.teardown(async () => {
    ending.abort();
    await running;
  });
  const closed: string[] = [];
  const subject = nodeSubject('n1', {
    book: {
      open: (name) => ({ offer: async () => undefined, close: () => closed.push(name) }),
    },
    configs,
  });
  const openAs = (takesConfig: boolean) => {
    const greeting = { agentVersion: '0.1.0', instanceId: '', runId: '', takesConfig };
    const opening = subject.open(greeting, () => undefined);
    if (opening.kind !== 'open') throw new Error(opening.reason);
    const told: object[] = [];
    opening.session.follow((message) => told.push(message));
    return { told, close: opening.session.close };
  };
  const asking = openAs(true);
  const older = openAs(false);
  t.same(asking.told, [], 'nobody knows them yet');
  peers = ['beta'];
  await clock.advance(1000);
  t.match(asking.told, [
    { config: { revision: 1, peers: ['beta'], labels: {}, namespace: '', checks: [] } },
  ]);
  t.match(asking.told, [{ config: { trust_bundle: Buffer.from('authorities'), issuer: 'signs' } }]);
  t.match(openAs(true).told, [{ config: { peers: ['beta'] } }], 'at once when they are known');
  peers = ['beta', 'gamma'];
  await clock.advance(1000);
  t.match(asking.told.at(-1), { config: { peers: ['beta', 'gamma'] } });
  await clock.advance(5000);
  t.equal(asking.told.length, 2, 'what is the same is not said again');
  asking.close();
  t.same(closed, ['n1']);
  peers = [];
  await clock.advance(1000);
  t.equal(asking.told.length, 2, 'its session has ended');
  t.same(older.told, [], 'an agent that does not know them is told nothing');
});
