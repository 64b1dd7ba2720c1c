import { test } from 'tap';
import { createLogger } from '../runtime/log.ts';
import { parseClusterId } from '../wire/ids.ts';
import { parseIpAddress } from '../wire/ip.ts';
import { localIdentityKey, localIpKey } from '../wire/keys.ts';
import { createAnnounced } from './announced.ts';
import { MESH_KINDS, type MeshKind } from './cluster-sink.ts';
import { type HalfState, wholeOf } from './halves.ts';
import { createPeerIntake } from './peer-intake.ts';
import { publishCluster } from './testing/published-cluster.ts';
import { createRecordingSink } from './testing/recording-sink.ts';

const PUBLIC = 'cilium/state/ip/v1/default/10.1.0.5';
const LOCAL = localIpKey(parseIpAddress('10.1.0.5'));
const NAME = 'ip 10.1.0.5/32';

/** The intake of the own cluster alpha (1), with an address of two values: 257 where peers read, 258 where they do not. */
async function open() {
  const cluster = publishCluster('alpha', 1);
  const { name } = cluster;
  const sink = createRecordingSink();
  const intake = createPeerIntake({
    cluster: name,
    isOwn: true,
    sink,
    announced: createAnnounced({ own: name, mode: 'learn' }),
    logger: createLogger('test', { level: 'silent' }),
  });
  const ref = { name, id: parseClusterId(1), own: true };
  intake.begin(ref, { ...ref, max: 255, nodeIps: [] }, () => '');
  await cluster.ip('10.1.0.5', { host: '192.0.2.1', local: 257 });
  const shown = (await cluster.store.get(PUBLIC))!;
  await cluster.ip('10.1.0.5', { host: '192.0.2.1', local: 258 });
  const hidden = { ...(await cluster.store.get(PUBLIC))!, key: LOCAL };
  let now = 0;
  return {
    sink,
    intake,
    show: () => intake.put('ips', shown),
    hide: () => intake.put('local-ips', hidden),
    forget: (kind: 'ips' | 'local-ips') => intake.remove(kind, kind === 'ips' ? PUBLIC : LOCAL),
    identity(): number | undefined {
      const value = sink.held.get(NAME);
      return value !== undefined && 'identity' in value ? value.identity & 0xffff : undefined;
    },
    /** Lets time pass; `states` say how far the readers of the halves are, which is `current` by default. */
    pass(milliseconds: number, states: Partial<Record<MeshKind, HalfState>> = {}): number {
      intake.settle(now);
      now += milliseconds;
      const next = intake.expire(now, (kind) => states[kind] ?? 'current');
      return next - now;
    },
  };
}

test('a name in both halves is told as peers see it', async (t) => {
  const rig = await open();
  rig.hide();
  t.equal(rig.identity(), 258);
  rig.show();
  t.equal(rig.identity(), 257);
  rig.hide();
  t.equal(rig.identity(), 257, 'whatever the other half says meanwhile');
  rig.forget('ips');
  t.equal(rig.identity(), 258, 'what is below comes up at once');
  rig.show();
  rig.forget('local-ips');
  t.equal(rig.identity(), 257);
  t.notOk(rig.sink.log.includes(`-${NAME}`), 'nor was it ever gone');
});

test('a name that goes from one half to the other is never told as gone, whichever half tells first', async (t) => {
  for (const [from, to] of [
    ['ips', 'local-ips'],
    ['local-ips', 'ips'],
  ] as const) {
    for (const isGoneFirst of [true, false]) {
      const rig = await open();
      const put = (half: 'ips' | 'local-ips') => (half === 'ips' ? rig.show() : rig.hide());
      put(from);
      if (isGoneFirst) rig.forget(from);
      rig.pass(900);
      put(to);
      if (!isGoneFirst) rig.forget(from);
      rig.pass(60_000);
      t.equal(rig.identity(), to === 'ips' ? 257 : 258);
      t.notOk(rig.sink.log.includes(`-${NAME}`), `${from} to ${to}`);
    }
  }
});

test('a name that is in neither half goes soon, and while the other half is not heard it stays', async (t) => {
  const rig = await open();
  rig.show();
  rig.forget('ips');
  rig.pass(0);
  t.ok(rig.pass(999) <= 1);
  t.equal(rig.identity(), 257);
  t.equal(rig.pass(1), Number.POSITIVE_INFINITY, 'nothing more is to be done');
  t.equal(rig.identity(), undefined);
  rig.show();
  rig.forget('ips');
  rig.pass(0);
  rig.pass(3_600_000, { 'local-ips': 'away' });
  t.equal(rig.identity(), 257, 'losing sight is not deleting (promise 1)');
  rig.pass(1, { 'local-ips': 'current' });
  t.equal(rig.identity(), undefined);
  rig.hide();
  rig.forget('local-ips');
  rig.pass(0);
  rig.pass(14_999, { ips: 'catching-up' });
  t.equal(rig.identity(), 258, 'what was cut off may still be told of what was');
  rig.pass(1, { ips: 'catching-up' });
  t.equal(rig.identity(), undefined);
});

test('a list that leaves a name out lets it go as a deletion does', async (t) => {
  const rig = await open();
  rig.show();
  rig.intake.beginList('ips');
  rig.intake.endList('ips', { isMarked: true, now: 0 });
  t.equal(rig.identity(), 257);
  rig.hide();
  rig.pass(60_000);
  t.equal(rig.identity(), 258);
});

test('when the cluster goes everything is taken back, once', async (t) => {
  for (const halves of [['ips'], ['local-ips'], ['ips', 'local-ips'], []] as const) {
    const rig = await open();
    rig.show();
    rig.hide();
    for (const half of ['ips', 'local-ips'] as const) {
      if (!halves.some((held) => held === half)) rig.forget(half);
    }
    rig.intake.drain(MESH_KINDS);
    t.same([...rig.sink.held.keys()], [], halves.join());
    t.equal(rig.sink.log.filter((line) => line === `-${NAME}`).length, 1);
  }
});

test('halves of identities are joined as those of addresses are, and other kinds have none', async (t) => {
  t.same(
    MESH_KINDS.map((kind) => wholeOf(kind)).filter((kind, at) => kind !== MESH_KINDS[at]),
    ['identities', 'ips'],
  );
  const rig = await open();
  const cluster = publishCluster('alpha', 1);
  const id = await cluster.identity(257, { app: 'a' });
  const pair = (await cluster.store.get(`cilium/state/identities/v1/id/${id}`))!;
  t.ok(rig.intake.put('local-identities', { ...pair, key: localIdentityKey(id) }));
  t.ok(rig.sink.held.has(`identity ${id}`));
  rig.intake.put('identities', pair);
  rig.intake.remove('local-identities', localIdentityKey(id));
  rig.pass(60_000);
  t.ok(rig.sink.held.has(`identity ${id}`));
});

test("a peer's values have one half, and go at once", async (t) => {
  const cluster = publishCluster('beta', 2);
  const sink = createRecordingSink();
  const { name } = cluster;
  const announced = createAnnounced({ own: name, mode: 'open' });
  const logger = createLogger('test', { level: 'silent' });
  const intake = createPeerIntake({ cluster: name, isOwn: false, sink, announced, logger });
  const ref = { name, id: parseClusterId(2), own: false };
  intake.begin(ref, { ...ref, max: 255, nodeIps: [] }, () => '');
  const id = await cluster.identity(257, { app: 'a' });
  intake.put('identities', (await cluster.store.get(`cilium/state/identities/v1/id/${id}`))!);
  intake.remove('identities', `cilium/state/identities/v1/id/${id}`);
  t.same([...sink.held.keys()], []);
});
