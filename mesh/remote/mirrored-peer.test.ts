import { type Test, test } from 'tap';
import { meshPeerKey } from '../wire/keys.ts';
import { encodePeerReport, type PeerReport } from '../wire/peer-report.ts';
import {
  codesOf,
  LOST,
  NOW,
  type PeerRig,
  publishAll,
  reasonOf,
  startPeer,
  stateOf,
} from './testing/peer-rig.ts';
import { until } from './testing/until.ts';

async function startMirrored(
  t: Test,
): Promise<
  PeerRig & { report(changes: Partial<PeerReport>): Promise<void>; live(ms: number): Promise<void> }
> {
  const rig = startPeer(t);
  const { store } = rig.cluster;
  await publishAll(rig.cluster);
  for (const { key, value } of (await store.list('cilium/state/')).pairs) {
    const mirrored = key
      .replace('cilium/state', 'cilium/cache')
      .replace('/ip/v1/default/', '/ip/v1/beta/')
      .replace('/identities/v1/id/', '/identities/v1/beta/id/');
    await store.put(mirrored, value);
  }
  for (const kind of ['nodes', 'services', 'ip', 'identities']) {
    await store.put(`cilium/synced/beta/cilium/cache/${kind}/v1`, '2026-01-01T00:00:00Z');
  }
  const report = (changes: Partial<PeerReport>): Promise<void> =>
    store.put(
      meshPeerKey(rig.cluster.name),
      encodePeerReport({
        state: 'ready',
        since: NOW,
        reason: '',
        heartbeatAt: NOW,
        clockDifferenceMs: null,
        ...changes,
      }),
    );
  await report({});
  await rig.cluster.config({ capabilities: { cached: true } });
  // It was seen in the other layout first, perhaps: then it connects again, after a moment.
  await until('ready', async () => {
    await rig.pass(1000, { alive: true });
    return stateOf(rig) === 'ready';
  });
  await report({});
  await rig.pass(2000, { alive: true });
  const live = async (milliseconds: number): Promise<void> => {
    for (let passed = 0; passed < milliseconds; passed += 10_000) {
      await report({});
      await rig.pass(10_000, { alive: true });
    }
  };
  return { ...rig, report, live };
}

test('behind a mirror the state of the peer is what the mirror says, at once', async (t) => {
  const rig = await startMirrored(t);
  await rig.live(60_000);
  t.equal(stateOf(rig), 'ready');
  await rig.report({ state: 'stale', reason: 'connect ECONNREFUSED' });
  await until('it is stale', () => stateOf(rig) === 'stale');
  t.match(reasonOf(rig), /its mirror says stale: connect ECONNREFUSED/);
  t.match(rig.peer.life(), { isStale: true, cause: 'peer' });
  await rig.pass(20_000, { alive: true });
  t.ok(
    rig.peer.life().silentMs >= 20_000,
    'answers of the mirror are no signs of life of the peer',
  );
  await rig.report({});
  await rig.pass(7000, { alive: true });
  t.equal(stateOf(rig), 'ready');
});

test('a mirror that fails at first after its restart makes no healthy peer stale (promise 19)', async (t) => {
  const rig = await startMirrored(t);
  await rig.report({ state: 'connecting' });
  await rig.report({ state: 'failed', reason: 'connect ECONNREFUSED' });
  await until('it is noted', () => codesOf(rig).includes('mirror-says'));
  await rig.pass(20_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  await rig.live(20_000);
  t.equal(stateOf(rig), 'ready');
  await rig.report({ state: 'failed', reason: 'connect ECONNREFUSED' });
  for (let report = 0; report < 4; report += 1) {
    await rig.pass(10_000, { alive: true });
    await rig.report({ state: 'failed', reason: 'connect ECONNREFUSED' });
  }
  t.equal(stateOf(rig), 'stale', 'but one that fails for long does');
  t.match(reasonOf(rig), /its mirror says failed: connect ECONNREFUSED/);
});

test('a mirror that does not report is what failed, and the peer is not blamed', async (t) => {
  const rig = await startMirrored(t);
  await rig.pass(40_000, { alive: true });
  t.equal(stateOf(rig), 'stale');
  t.match(reasonOf(rig), /our own etcd is not written any more: look at our clustermesh-apiserver/);
  t.same(codesOf(rig), ['mirror-silent']);
  t.match(rig.peer.life(), { isStale: true, cause: 'mirror' });
});

test('our own etcd away: what is silent is the mirror, not the peer', async (t) => {
  const rig = await startMirrored(t);
  rig.cluster.store.faults.disconnect(LOST);
  await rig.pass(200_000);
  t.equal(stateOf(rig), 'stale');
  t.equal(rig.peer.life().cause, 'mirror');
});

test('a report of a newer mirror is said to be unreadable, and the peer is read all the same', async (t) => {
  const rig = await startMirrored(t);
  await rig.cluster.store.put(meshPeerKey(rig.cluster.name), '{"schema":9}');
  await until('it is said', () => codesOf(rig).includes('mirror-unreadable'));
  await rig.pass(120_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.match(rig.peer.status().notes[0]?.message, /cannot be read, upgrade this agent: .*schema/);
  await rig.report({});
  await until('the note goes', () => codesOf(rig).length === 0);
});

test('a mirror of Cilium, which makes no reports, is read all the same', async (t) => {
  const rig = await startMirrored(t);
  await rig.cluster.store.delete(meshPeerKey(rig.cluster.name));
  await rig.pass(120_000, { alive: true });
  t.equal(stateOf(rig), 'ready');
  t.same(codesOf(rig), []);
});
