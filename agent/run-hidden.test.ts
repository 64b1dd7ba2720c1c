import { test } from 'tap';
import { until } from '../mesh/remote/testing/until.ts';
import { openNodeRig } from './testing/node-rig.ts';
import { ipcacheText, policyText, publishAlpha, SERVER } from './testing/two-clusters.ts';

const CLIENT = '10.1.1.5/32';

test('what only the own cluster may know stands in its tables as everything else, and moves without a gap', async (t) => {
  const rig = await openNodeRig(t);
  await publishAlpha(rig.alpha);
  await rig.alpha.policy('p', {
    endpointSelector: SERVER,
    ingress: [{ fromEndpoints: [{ matchLabels: { app: 'client' } }] }],
  });
  await rig.alpha.marked();
  await rig.start();
  t.equal((await rig.addPod('a', '10.1.0.5')).status, 200);
  await rig.ready('alpha');
  await until('the policy', () => policyText(rig.datapath).length === 1);
  const before = [ipcacheText(rig.datapath), policyText(rig.datapath)];
  const written = rig.datapath.log.length;

  await rig.alpha.hideIp('10.1.1.5');
  await rig.alpha.hideIdentity(258);
  const seen = async (counts: Record<string, number>): Promise<boolean> => {
    const own = (await rig.status()).clusters.find(({ name }) => name === 'alpha');
    return Object.entries(counts).every(
      ([kind, count]) => own?.counts[kind as keyof typeof own.counts] === count,
    );
  };
  await until('both to have moved', () =>
    seen({ ips: 1, 'local-ips': 1, identities: 1, 'local-identities': 1 }),
  );
  // Longer than a name is kept that stands nowhere.
  await new Promise((resolve) => setTimeout(resolve, 1200));
  t.same([ipcacheText(rig.datapath), policyText(rig.datapath)], before);
  t.same(rig.datapath.log.slice(written), [], 'not a row was written or deleted');

  // An agent that starts only now reads both as one, and prunes nothing of either.
  await rig.stop();
  await rig.start();
  await rig.ready('alpha');
  await until('everything is taken up', async () =>
    (await rig.status()).tables.every(({ adopted, pending }) => adopted + pending === 0),
  );
  t.same([ipcacheText(rig.datapath), policyText(rig.datapath)], before);

  await rig.alpha.removeHiddenIp('10.1.1.5');
  await until('it to go', () => rig.datapath.ipcache.get(CLIENT) === undefined);
});
