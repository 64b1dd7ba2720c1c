import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { openFaultyProxy } from '../../mesh/testing/faulty-proxy.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, dataKeys, openBetaRig, untilReady, watchDeletes } from './testing/beta-rig.ts';

const skip = etcdSkipReason(process.env);

test('a wiped source: nothing is taken back that it publishes again (promise 2)', {
  skip,
}, async (t) => {
  const { rig, side, beta, fill } = await openBetaRig(t);
  const running = await rig.start();
  await untilReady(running);
  const deleted = watchDeletes(t, rig);
  await side.server.wipe();
  await eventually('the source to answer', () =>
    beta.config().then(
      () => true,
      () => false,
    ),
  );
  await beta.identity(300, { app: 'web' });
  await fill();
  await beta.removeIp('10.2.0.7');
  await eventually('the mirror to follow', () => deleted.length > 0);
  t.same(deleted, ['cilium/cache/ip/v1/beta/10.2.0.7']);
  t.equal((await dataKeys(rig)).length, ADDRESSES + 2);
});

test('changes while the source was cut off and compacted arrive (promise 2)', {
  skip,
}, async (t) => {
  const { rig, side, beta } = await openBetaRig(t);
  await using proxy = await openFaultyProxy({ targetPort: side.server.port });
  await rig.configure('beta', `http://127.0.0.1:${proxy.port}`);
  const running = await rig.start();
  await untilReady(running);
  const deleted = watchDeletes(t, rig);
  proxy.setFaults({ refuse: true });
  proxy.cut();
  await beta.removeIp('10.2.0.9');
  await beta.ip('10.2.7.7', { host: '192.0.2.1', local: 300 });
  await side.server.compact();
  proxy.setFaults({});
  await eventually('the changes', async () => {
    const keys = await dataKeys(rig);
    return keys.includes('cilium/cache/ip/v1/beta/10.2.7.7') && deleted.length > 0;
  });
  t.same(deleted, ['cilium/cache/ip/v1/beta/10.2.0.9']);
  t.equal((await dataKeys(rig)).length, ADDRESSES + 3);
});
