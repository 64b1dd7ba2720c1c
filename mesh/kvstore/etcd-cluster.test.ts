import { test } from 'tap';
import { systemClock } from '../runtime/clock.ts';
import { openEtcdCluster } from '../testing/etcd-cluster.ts';
import { etcdSkipReason } from '../testing/etcd-server.ts';
import { openWatchLog } from '../testing/watch-log.ts';
import { openEtcd } from './etcd.ts';

/** An election takes as long as the machine is busy. */
async function untilWritten(write: () => Promise<void>): Promise<void> {
  const deadline = systemClock.monotonic() + 60_000;
  for (;;) {
    try {
      return await write();
    } catch (error) {
      if (systemClock.monotonic() > deadline) throw error;
    }
    await systemClock.sleep(20);
  }
}

const skip = etcdSkipReason(process.env);

test('a store on an etcd of three members', { skip, timeout: 120_000 }, async (t) => {
  await using cluster = await openEtcdCluster();
  await using store = await openEtcd({
    endpoints: cluster.endpoints,
    retry: { minMs: 20, maxMs: 500 },
    callTimeoutMs: 4_000,
    progressIntervalMs: 1_000,
    keepalive: { timeMs: 5_000, timeoutMs: 2_000 },
  });
  await using log = openWatchLog(store, { prefix: 'a/' });
  await using lease = await store.lease(60);
  let lost = 0;
  lease.onLost(() => {
    lost += 1;
  });
  const leaseId = lease.id;
  await log.until('the list', ({ of }) => of('synced').length === 1);
  let count = 0;
  const follows = async (what: string): Promise<void> => {
    count += 1;
    const key = `a/${count}`;
    await untilWritten(() => store.put(key, what, { lease }));
    await log.until(what, ({ held }) => held.has(key), 30_000);
    t.equal(log.of('delete').length, 0, `${what}: nothing goes`);
    t.equal(log.of('list-start').length, 1, `${what}: nothing is listed again`);
  };

  await follows('a change');
  const before = await cluster.leader();
  t.not((await cluster.moveLeader()).name, before.name);
  await follows('the lead moved');
  const leader = await cluster.leader();
  await leader.kill();
  await follows('the leader was killed');
  leader.start();
  await cluster.untilHealthy();
  const hanging = await cluster.leader();
  hanging.pause();
  await follows('the leader hangs');
  hanging.resume();

  const [kept, ...others] = cluster.members;
  for (const member of others) await member.kill();
  await log.until('the loss of the quorum', ({ events }) => events.at(-1)?.kind === 'disconnected');
  await t.rejects(store.put('a/none', 'x'), { name: 'KvError', retryable: true });
  t.equal(log.of('delete').length, 0, 'without a quorum nothing is withdrawn');
  for (const member of others) member.start();
  await follows('the quorum is back');
  t.ok(kept);
  t.equal(lost, 0, 'the lease lived through all of it');
  t.equal(lease.id, leaseId);
});
