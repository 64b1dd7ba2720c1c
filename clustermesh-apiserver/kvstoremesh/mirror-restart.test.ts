import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { ADDRESSES, dataKeys, openBetaRig, untilReady, watchDeletes } from './testing/beta-rig.ts';

const skip = etcdSkipReason(process.env);

test('a restarted mirror adopts what stands, and rewrites nothing that is equal', {
  skip,
}, async (t) => {
  const { rig, side, beta } = await openBetaRig(t);
  const first = await rig.start();
  await untilReady(first);
  const before = (await rig.local.store.list('cilium/')).pairs;
  await first[Symbol.asyncDispose]();

  await beta.ip('10.2.0.0', { host: '192.0.2.1', local: 301 });
  await beta.removeIp('10.2.0.2');
  await side.store.put('cilium/state/ip/v1/default/10.2.9.9', 'no JSON');
  await rig.local.store.put('cilium/cache/nodes/v1/beta/leftover', 'of another mirror');
  const deleted = watchDeletes(t, rig);
  const second = await rig.start();
  await untilReady(second);
  await eventually(
    'the leftovers to go',
    async () => (await dataKeys(rig)).length === ADDRESSES + 2,
  );

  const after = new Map(
    (await rig.local.store.list('cilium/')).pairs.map((pair) => [pair.key, pair]),
  );
  const rewritten = before.filter(({ key, modRevision }) => {
    const now = after.get(key);
    return now !== undefined && now.modRevision !== modRevision && !key.includes('lock');
  });
  t.same(
    rewritten.map(({ key }) => key),
    ['cilium/cache/ip/v1/beta/10.2.0.0'],
  );
  t.same(deleted, ['cilium/cache/ip/v1/beta/10.2.0.2']);
  t.notOk(after.has('cilium/cache/nodes/v1/beta/leftover'));
  t.notOk(after.has('cilium/cache/ip/v1/beta/10.2.9.9'), 'what is refused is not mirrored');
});

test('leftovers stay until the source has told everything of their kind', { skip }, async (t) => {
  const { rig, side } = await openBetaRig(t);
  await side.store.delete('cilium/synced/beta/cilium/state/ip/v1');
  const leftover = 'cilium/cache/ip/v1/beta/10.2.99.99';
  const marker = 'cilium/synced/beta/cilium/cache/ip/v1';
  await rig.local.store.put(leftover, 'x');
  await rig.local.store.put('cilium/cache/nodes/v1/beta/gone', 'x');
  await rig.start();
  await eventually(
    'nodes to be swept',
    async () => (await rig.local.store.get('cilium/cache/nodes/v1/beta/gone')) === undefined,
  );
  t.ok(await rig.local.store.get(leftover));
  t.notOk(await rig.local.store.get(marker));
  await side.store.put('cilium/synced/beta/cilium/state/ip/v1', '');
  await eventually('the marker', async () => (await rig.local.store.get(marker)) !== undefined);
  t.notOk(await rig.local.store.get(leftover));
  t.equal((await dataKeys(rig)).length, ADDRESSES + 3);
});

test('two mirrors on one etcd: one writes, the other is ready, and takes over unseen', {
  skip,
}, async (t) => {
  const { rig, beta } = await openBetaRig(t);
  const first = await rig.start();
  await untilReady(first);
  const second = await rig.start();
  await eventually('the second to stand by', () => second.mesh.leader === 'standby');
  t.same(second.mesh.missing, []);
  t.same(second.mesh.peers, []);
  const before = (await rig.local.store.list('cilium/cache/')).pairs;
  await first[Symbol.asyncDispose]();
  await beta.ip('10.2.6.6', { host: '192.0.2.1', local: 300 });
  await untilReady(second);
  const after = new Map(
    (await rig.local.store.list('cilium/cache/')).pairs.map((pair) => [pair.key, pair]),
  );
  t.ok(after.has('cilium/cache/ip/v1/beta/10.2.6.6'));
  t.ok(
    before.every(({ key, modRevision }) => after.get(key)?.modRevision === modRevision),
    'nothing else was touched',
  );
});
