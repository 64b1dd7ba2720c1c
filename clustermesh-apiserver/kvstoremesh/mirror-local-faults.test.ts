import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, dataKeys, openBetaRig, untilReady } from './testing/beta-rig.ts';
import { mirrored } from './testing/mirror-rig.ts';

const skip = etcdSkipReason(process.env);

test('a wiped local etcd is rebuilt, markers last, also without the source', {
  skip,
}, async (t) => {
  const { rig, side } = await openBetaRig(t);
  const running = await rig.start();
  await untilReady(running);
  const before = await mirrored(rig.local.store, 'beta');
  await side.server.kill();
  await rig.local.server.wipe();
  const marked = 'cilium/synced/beta/cilium/cache/ip/v1';
  await eventually(
    'the marker to be back',
    async () => (await rig.local.store.get(marked).catch(() => undefined)) !== undefined,
  );
  t.ok((await dataKeys(rig)).length >= ADDRESSES, 'the marker came behind the data');
  await eventually(
    'everything',
    async () => (await mirrored(rig.local.store, 'beta')).size === before.size,
  );
  t.same(await mirrored(rig.local.store, 'beta'), before);
});

test('a lost lease: everything is written again on another', { skip }, async (t) => {
  const { rig } = await openBetaRig(t);
  const running = await rig.start();
  await untilReady(running);
  const before = await mirrored(rig.local.store, 'beta');
  const config = await rig.local.store.get('cilium/cluster-config/beta');
  await rig.local.server.etcdctl('lease', 'revoke', (config?.lease ?? 0n).toString(16));
  t.equal((await mirrored(rig.local.store, 'beta')).size, 0);
  // The next write meets the lost lease, long before its next keepalive.
  await eventually(
    'everything to be back',
    async () => (await mirrored(rig.local.store, 'beta')).size === before.size,
  );
  t.same(await mirrored(rig.local.store, 'beta'), before);
  const again = await rig.local.store.get('cilium/cluster-config/beta');
  t.not(again?.lease, config?.lease);
});

test('keys that an outage of the local etcd delayed arrive when it is back', {
  skip,
}, async (t) => {
  const { rig, beta } = await openBetaRig(t);
  const running = await rig.start();
  await untilReady(running);
  await rig.local.server.kill();
  await beta.ip('10.2.8.8', { host: '192.0.2.1', local: 300 });
  await beta.removeIp('10.2.0.3');
  await rig.local.server.start();
  await eventually('both changes', async () => {
    const keys = await dataKeys(rig);
    const added = keys.includes('cilium/cache/ip/v1/beta/10.2.8.8');
    return added && !keys.includes('cilium/cache/ip/v1/beta/10.2.0.3');
  });
  t.equal((await dataKeys(rig)).length, ADDRESSES + 3);
});
