import { test } from 'tap';
import { createMemoryStore } from '../../mesh/kvstore/memory.ts';
import { createManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { meshPeerKey } from '../../mesh/wire/keys.ts';
import { eventually } from '../testing/publishing-rig.ts';
import { createMirroredPeers } from './mirrored-peers.ts';

const BETA = meshPeerKey(parseClusterName('beta'));
const GAMMA = meshPeerKey(parseClusterName('gamma'));

test('peers are those that a mirror reports, and one that goes is not forgotten at once', async (t) => {
  const store = createMemoryStore();
  const clock = createManualClock();
  const peers = createMirroredPeers({ store, isExpected: true, clock });
  const stopping = new AbortController();
  const running = peers.run(stopping.signal);
  await clock.advance(2_000);
  t.equal(peers.names, undefined, 'a mirror is expected and has said nothing');
  await store.put(GAMMA, '{}');
  await store.put(BETA, '{}');
  await eventually('both', () => peers.names?.join() === 'beta,gamma');
  await store.delete(BETA);
  await store.delete(GAMMA);
  await clock.advance(30_000);
  t.same(peers.names, ['beta', 'gamma'], 'a mirror may begin anew');
  await store.put(GAMMA, '{}');
  await eventually('one is back', async () => {
    await clock.advance(1_000);
    return clock.monotonic() > 70_000 && peers.names?.join() === 'gamma';
  });
  stopping.abort();
  await running;
});

test('a mirror that says nothing for long has no peers; without a mirror that is known at once', async (t) => {
  const store = createMemoryStore();
  for (const isExpected of [true, false]) {
    const clock = createManualClock();
    const peers = createMirroredPeers({ store, isExpected, clock });
    const stopping = new AbortController();
    const running = peers.run(stopping.signal);
    await clock.advance(14_000);
    t.same(peers.names, isExpected ? undefined : []);
    await clock.advance(2_000);
    t.same(peers.names, []);
    stopping.abort();
    await running;
  }
});
