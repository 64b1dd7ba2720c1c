import { test } from 'tap';
import type { KvLease } from '../../mesh/kvstore/kvstore.ts';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { MESH_STAMP_KEY } from '../../mesh/wire/keys.ts';
import { decodeMeshStamp } from '../../mesh/wire/stamp.ts';
import { createStamper } from './stamp.ts';
import { createSyncStore } from './sync-store.ts';

const START = 1_700_000_000_000;

test('a stamp is made once a second at most, and again at once when the lease was lost', async (t) => {
  const clock = createManualClock({ now: START });
  let lose = (): void => undefined;
  const lease: KvLease = {
    id: 1n,
    ttlSeconds: 900,
    onLost(callback) {
      lose = callback;
    },
    revoke: async () => undefined,
    [Symbol.asyncDispose]: async () => undefined,
  } as KvLease;
  const stamper = createStamper({ lease, clock });
  t.same(stamper.next(), {
    kind: 'put',
    key: MESH_STAMP_KEY,
    value: `{"schema":1,"at":${START}}`,
    lease,
  });
  t.equal(stamper.next(), undefined);
  await clock.advance(999);
  t.equal(stamper.next(), undefined);
  await clock.advance(1);
  t.ok(stamper.next());
  t.equal(stamper.next(), undefined);
  lose();
  t.ok(stamper.next());
});

test('a stamp has the revision of the changes that it was written with', async (t) => {
  const clock = createManualClock({ now: START });
  const store = createMemoryStore();
  await using lease = await store.lease(900);
  const ending = new AbortController();
  const sync = createSyncStore({
    store,
    lease,
    stamper: createStamper({ lease, clock }),
    logger: createLogger('test', { level: 'silent' }),
    clock,
  });
  const running = sync.run(ending.signal);
  const revisionOf = async (key: string) => (await store.get(key))?.modRevision;
  for (let round = 0; round < 3; round += 1) {
    const key = `cilium/state/nodes/v1/alpha/n${round}`;
    sync.upsert(key, 'value');
    await sync.flushed(ending.signal);
    t.equal(await revisionOf(MESH_STAMP_KEY), await revisionOf(key), `round ${round}`);
    const stamp = await store.get(MESH_STAMP_KEY);
    t.equal(decodeMeshStamp(stamp?.value ?? '', MESH_STAMP_KEY).at, START + round * 1000);
    await clock.advance(1000);
  }
  sync.upsert('cilium/state/nodes/v1/alpha/a', 'value');
  await sync.flushed(ending.signal);
  const before = await revisionOf(MESH_STAMP_KEY);
  sync.upsert('cilium/state/nodes/v1/alpha/b', 'value');
  const written = sync.flushed(ending.signal);
  // What comes so soon after another write waits a little for more of its kind.
  await clock.advance(100);
  await written;
  t.equal(await revisionOf(MESH_STAMP_KEY), before, 'within a second there is no second one');
  ending.abort();
  await running;
});
