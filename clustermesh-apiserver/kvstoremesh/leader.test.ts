import { test } from 'tap';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { LEADER_LOCK_PREFIX, openLeaderLock, watchTerm } from './leader.ts';

const skip = etcdSkipReason(process.env);
const logger = createLogger('test', { level: 'silent' });

test('one leads, in the order in which they came, by the lock that Cilium uses', {
  skip,
}, async (t) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const ending = new AbortController();
  t.teardown(() => ending.abort());
  const options = { clock: systemClock, logger, signal: ending.signal, ttlSeconds: 2 };
  const first = await openLeaderLock(store, options);
  const second = await openLeaderLock(store, options);
  t.teardown(() => second[Symbol.asyncDispose]());
  const signal = ending.signal;

  const term = await first.campaign({
    signal,
    onStandby: () => void t.fail('nobody else is there'),
  });
  t.match(term.fence.key, /^cilium\/kvstoremesh-lock\/[0-9a-f]+$/);
  t.equal(
    (await store.get(term.fence.key))?.value.length,
    0,
    'its value is empty, as etcd makes it',
  );

  let standby = false;
  const next = second.campaign({
    signal,
    onStandby: () => {
      standby = true;
    },
  });
  while (!standby) await systemClock.sleep(10);
  t.equal((await store.list(LEADER_LOCK_PREFIX)).pairs.length, 2);

  await first[Symbol.asyncDispose]();
  t.ok(term.over.aborted, 'giving the lock back ends the term');
  const successor = await next;
  t.notOk(successor.over.aborted);
  const late = await store.transact({
    compare: [term.fence],
    then: [{ kind: 'put', key: 'late', value: '' }],
  });
  t.notOk(late.succeeded, 'a write of the term before changes nothing');
  const timely = await store.transact({
    compare: [successor.fence],
    then: [{ kind: 'put', key: 'timely', value: '' }],
  });
  t.ok(timely.succeeded);
});

test('a lost lease ends the term, and the next campaign begins anew', { skip }, async (t) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const { signal } = new AbortController();
  await using lock = await openLeaderLock(store, {
    clock: systemClock,
    logger,
    signal,
    ttlSeconds: 1,
  });
  const onStandby = (): void => void t.fail('nobody else is there');
  const term = await lock.campaign({ signal, onStandby });
  await server.etcdctl('lease', 'revoke', term.fence.key.slice(LEADER_LOCK_PREFIX.length));
  await new Promise<void>((resolve) => term.over.addEventListener('abort', () => resolve()));
  const again = await lock.campaign({ signal, onStandby });
  t.not(again.fence.key, term.fence.key);

  // Our lock was deleted by somebody: the term ends, and the campaign that finds it gone puts another.
  const watching = watchTerm(store, again, signal);
  await store.delete(again.fence.key);
  await watching;
  t.ok(again.over.aborted);
  const third = await lock.campaign({ signal, onStandby });
  t.equal(third.fence.key, again.fence.key);
});

test('a campaign ends with its signal', { skip }, async (t) => {
  await using server = await openEtcdServer();
  await using store = await openEtcd({ endpoints: [server.endpoint] });
  const ending = new AbortController();
  const options = { clock: systemClock, logger, signal: ending.signal, ttlSeconds: 5 };
  await using first = await openLeaderLock(store, options);
  await using second = await openLeaderLock(store, options);
  await first.campaign({ signal: ending.signal, onStandby: () => undefined });
  const waiting = second.campaign({ signal: ending.signal, onStandby: () => ending.abort() });
  await t.rejects(waiting, { name: 'AbortError' });
});
