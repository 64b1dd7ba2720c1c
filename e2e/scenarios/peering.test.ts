/** Two clusters without Kubernetes become peers by what they declare, read each other, and part. */
import { readdir, writeFile } from 'node:fs/promises';
import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { waitFor } from '../lab/wait-for.ts';
import { mirroredKeys } from './peering-mirror.ts';
import { testUnreachableNodes } from './peering-reach.ts';
import { testClock, testLiveOverlap, testRefusals } from './peering-refusals.ts';
import { openRenewalWatch } from './peering-renewal.ts';
import { preparePeeringCluster, runPeering, untilPeer } from './peering-site.ts';

const skip = etcdSkipReason(process.env);

test('two clusters exchange exports and read each other', { skip, timeout: 600_000 }, async (t) => {
  const alpha = await preparePeeringCluster(t, {
    name: 'alpha',
    id: 1,
    podCidr: '10.1.0.0/24',
    more: ['--routing-mode=tunnel', '--mtu=1500'],
  });
  const beta = await preparePeeringCluster(t, {
    name: 'beta',
    id: 2,
    podCidr: '10.2.0.0/24',
    more: ['--machine-certificate-ttl=45s'],
  });
  await Promise.all([alpha.start(), beta.start()]);
  const [exportA, exportB] = await Promise.all([
    runPeering(['peer', 'export', ...alpha.flags()]),
    runPeering(['peer', 'export', ...beta.flags()]),
  ]);

  await t.test('what is exported holds nothing secret', async (t) => {
    t.equal(exportA.code, 0, exportA.said);
    t.match(exportA.output, /kind: MeshPeer[\s\S]*name: alpha[\s\S]*clusterId: 1/);
    t.match(exportA.output, new RegExp(`https://127\\.0\\.0\\.1:${alpha.gatePort}`));
    t.match(exportA.output, /clientKeyHash: [\w-]{43}/);
    t.notMatch(exportA.output, /PRIVATE/);
  });

  await t.test('apply by the command line on one side, a file on the other', async (t) => {
    const applied = await runPeering(
      ['peer', 'apply', '-f', '-', ...alpha.flags()],
      exportB.output,
    );
    t.equal(applied.code, 0, applied.said + applied.output);
    t.match(applied.output, /beta is a peer now/);
    t.match(applied.output, /peer-half-connected/, 'the other side is not told yet');
    t.same(await readdir(alpha.file('peers')), ['beta.yaml']);
    await beta.writePeer('alpha', exportA.output);
    await untilPeer(alpha, 'beta', ({ ready }) => ready);
    await untilPeer(beta, 'alpha', ({ ready }) => ready);
    const keys = await mirroredKeys(alpha);
    t.ok(keys.includes('cilium/cache/nodes/v1/beta/beta-1'), keys.join('\n'));
    t.ok((await mirroredKeys(beta)).some((key) => key.includes('/services/v1/alpha/')));
  });

  await t.test(
    'the same from the command line and from a file is the same (promise 9)',
    async (t) => {
      const before = await alpha.managed();
      const again = await runPeering(
        ['peer', 'apply', '-f', '-', ...alpha.flags()],
        exportB.output,
      );
      t.match(again.output, /beta is as it should be/);
      await alpha.writePeer('beta', exportB.output);
      t.same(await alpha.managed(), before);
      t.same(Object.keys(before).sort(), [
        'clients/beta',
        'clients/beta.HASH.ca.crt',
        'clients/beta.HASH.crt',
        'clients/beta.HASH.key',
        'trust/beta.crt',
      ]);
    },
  );

  const lab = { alpha, beta, exportB: exportB.output };
  const renewal = await openRenewalWatch(lab);
  t.teardown(() => renewal[Symbol.asyncDispose]());
  await t.test('what cannot work is refused before anything changes', (t) => testRefusals(t, lab));
  await t.test('a certificate is renewed, and no watch is lost', (t) => renewal.verify(t));
  await renewal[Symbol.asyncDispose]();

  await t.test('disconnect while the other side is dead; connect again', async (t) => {
    await beta.kill();
    const parted = await runPeering(['disconnect', ...alpha.flags(), ...beta.flags('destination')]);
    t.equal(parted.code, 0, parted.said);
    t.match(parted.output, /beta is a peer no more/);
    t.match(
      parted.said,
      /was not changed: when it is back, run there "clustermesh peer delete alpha"/,
    );
    t.same(await alpha.managed(), {});
    await beta.start();
    // What we gave it counts no longer, though it has not run out.
    await untilPeer(beta, 'alpha', ({ ready }) => !ready);

    const plan = await runPeering([
      'connect',
      '--dry-run',
      ...alpha.flags(),
      ...beta.flags('destination'),
    ]);
    t.equal(plan.code, 0, plan.said + plan.output);
    t.match(plan.output, /alpha: beta would be a peer/);
    t.match(plan.output, /\+ {3}clusterId: 2/);
    t.match(plan.output, /beta: alpha is as it should be/);
    t.same(await alpha.managed(), {}, 'a plan changes nothing');

    const connected = await runPeering(['connect', ...alpha.flags(), ...beta.flags('destination')]);
    t.equal(connected.code, 0, connected.said + connected.output);
    t.match(connected.said, /both clusters have read each other/);
    const twice = await runPeering(['connect', ...alpha.flags(), ...beta.flags('destination')]);
    t.match(twice.output, /alpha: beta is as it should be\nbeta: alpha is as it should be/);
  });

  await t.test('every change can be undone', async (t) => {
    const undone = await runPeering(['peer', 'rollback', 'beta', ...alpha.flags()]);
    t.match(undone.output, /beta is a peer no more/);
    t.same(await readdir(alpha.file('peers')), []);
    const redone = await runPeering(['peer', 'rollback', 'beta', ...alpha.flags()]);
    t.match(redone.output, /beta is a peer now/);
    await untilPeer(alpha, 'beta', ({ ready }) => ready);
  });

  await t.test('a file that breaks keeps what it said, and a removed one ends it', async (t) => {
    const before = await alpha.managed();
    await writeFile(alpha.file('peers', 'beta.yaml'), 'kind: MeshPeer\n');
    await untilPeer(alpha, 'beta', ({ reason }) => reason === 'Unusable');
    t.same(await alpha.managed(), before);
    const deleted = await runPeering(['peer', 'delete', 'beta', ...alpha.flags()]);
    t.match(deleted.output, /beta is a peer no more/);
    await waitFor('what is mirrored to go from the gate of beta', async () => {
      const { output } = await runPeering(['peer', 'list', '-o', 'json', ...alpha.flags()]);
      return output.trim() === '[]';
    });
    t.same(await alpha.managed(), {});
    const nobody = await runPeering(['peer', 'delete', 'beta', ...alpha.flags()]);
    t.match(nobody.output, /beta is as it should be/);
  });

  await t.test('a wrong clock is refused', (t) => testClock(t, lab));
  await t.test('nodes of both in one network are refused', (t) => testLiveOverlap(t, lab));
  await t.test('nodes that ours do not reach are refused', (t) => testUnreachableNodes(t, lab));
});
