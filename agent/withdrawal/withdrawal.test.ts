import { type Test, test } from 'tap';
import type { PeerLife } from '../../mesh/remote/peer.ts';
import type { BackendUse } from '../../mesh/remote/peer-state.ts';
import { until } from '../../mesh/remote/testing/until.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { createManualClock, type ManualClock } from '../../mesh/testing/manual-clock.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { createWithdrawal, type WithdrawalOptions } from './withdrawal.ts';

const beta = parseClusterName('beta');
const NODES = Array.from({ length: 100 }, (_, index) => parseIpAddress(`198.51.100.${index + 1}`));

interface Rig {
  readonly clock: ManualClock;
  readonly withdrawal: ReturnType<typeof createWithdrawal>;
  lives: readonly PeerLife[];
  /** Addresses that answer. */
  readonly alive: Set<string>;
  readonly probed: string[];
  readonly drained: Set<string>;
  /** `id level` of each call, with `always` where that was said. */
  readonly calls: string[];
  readonly uses: Map<string, BackendUse>;
}

function life(changes: Partial<PeerLife> = {}): PeerLife {
  return {
    name: beta,
    clusterId: parseClusterId(2),
    isStale: false,
    silentMs: 0,
    cause: 'peer',
    ...changes,
  };
}

function start(t: Test, options: Partial<WithdrawalOptions> = {}): Rig {
  const clock = createManualClock();
  const stopping = new AbortController();
  const rig: Omit<Rig, 'withdrawal'> = {
    clock,
    lives: [life()],
    alive: new Set(),
    probed: [],
    drained: new Set(),
    calls: [],
    uses: new Map(),
  };
  const withdrawal = createWithdrawal({
    mesh: { lives: () => full.lives, setUse: (name, use) => void rig.uses.set(name, use) },
    setWithdrawn: (id, level, { always }) =>
      void rig.calls.push(`${id} ${level}${always ? ' always' : ''}`),
    nodes: { of: () => NODES },
    probe: async (address) => {
      rig.probed.push(address);
      return rig.alive.has(address) ? 'answered' : 'silent';
    },
    drains: {
      has: (name) => rig.drained.has(name),
      list: () => [...rig.drained].map((name) => ({ cluster: parseClusterName(name), since: 0 })),
    },
    mode: 'auto',
    ttlMs: 120_000,
    staleAfterMs: 30_000,
    clock,
    logger: createLogger('test', { level: 'silent' }),
    ...options,
  });
  const full: Rig = Object.assign(rig, { withdrawal });
  const running = withdrawal.run(stopping.signal);
  t.teardown(async () => {
    stopping.abort();
    await running;
  });
  return full;
}

/** Silence of beta's control plane that begins now, second by second. */
async function keepSilent(rig: Rig, milliseconds: number, from = 30_000): Promise<void> {
  for (let passed = 0; passed < milliseconds; passed += 1000) {
    rig.lives = [life({ isStale: true, silentMs: from + passed })];
    await rig.clock.advance(1000);
  }
}

test('a healthy peer is left alone and not probed (promise 15)', async (t) => {
  const rig = start(t);
  await rig.clock.advance(600_000);
  t.same(rig.calls, []);
  t.same(rig.probed, []);
});

test('a dead cluster is used last, then gone at the time that was set, and comes back in order (promise 1)', async (t) => {
  const rig = start(t);
  await keepSilent(rig, 90_000);
  t.same(rig.calls, ['2 last']);
  await keepSilent(rig, 3000, 120_000);
  t.same(rig.calls, ['2 last', '2 gone']);
  t.match(rig.uses.get('beta'), { level: 'gone', reason: /none of its nodes answers/ });
  for (const node of NODES) rig.alive.add(node);
  await keepSilent(rig, 40_000, 123_000);
  t.same(rig.calls, ['2 last', '2 gone', '2 last'], 'its nodes answer, its control plane does not');
  rig.lives = [life()];
  await rig.clock.advance(2000);
  t.same(rig.calls, ['2 last', '2 gone', '2 last', '2 none'], 'without a flap');
  const probes = rig.probed.length;
  await rig.clock.advance(60_000);
  t.equal(rig.probed.length, probes);
});

test('a control plane that is away for hours takes nothing away while nodes answer (promise 1)', async (t) => {
  const rig = start(t);
  // Every other node is away, too.
  for (const node of NODES.filter((_, index) => index % 2 === 0)) rig.alive.add(node);
  await keepSilent(rig, 600_000);
  t.same(rig.calls, ['2 last']);
});

test('the cost of probing does not grow with the size of the cluster (promise 15)', async (t) => {
  const rig = start(t);
  await keepSilent(rig, 60_000);
  t.ok(rig.probed.length <= 3 * 9, `${rig.probed.length} probes in a minute of 100 nodes`);
  t.ok(new Set(rig.probed).size > 12, 'and others each time');
});

test('a small time before withdrawal still leaves room for three rounds', async (t) => {
  const rig = start(t, { ttlMs: 2000, staleAfterMs: 1000 });
  await keepSilent(rig, 5000, 1000);
  t.same(rig.calls, ['2 last', '2 gone']);
});

test('what is not asked for does not happen', async (t) => {
  const never = start(t, { mode: 'never' });
  await keepSilent(never, 200_000);
  t.same(never.calls, []);
  const forEver = start(t, { ttlMs: 0 });
  await keepSilent(forEver, 200_000);
  t.same(forEver.calls, ['2 last']);
  t.same([...never.probed, ...forEver.probed], [], 'and nobody is asked in vain');
  const always = start(t, { mode: 'always' });
  await keepSilent(always, 130_000);
  t.same(always.calls, ['2 last always', '2 gone always']);
});

test('when our own mirror is what failed, nothing is withdrawn (promise 19)', async (t) => {
  const rig = start(t);
  rig.lives = [life({ isStale: true, silentMs: 1_000_000, cause: 'mirror' })];
  await rig.clock.advance(300_000);
  t.same(rig.calls, []);
});

test('a drained cluster is used last at once, until it is undrained', async (t) => {
  const rig = start(t);
  await rig.clock.advance(1000);
  rig.drained.add('beta');
  rig.withdrawal.touch();
  await until('it is drained', () => rig.calls.length === 1);
  t.same(rig.calls, ['2 last']);
  t.match(rig.uses.get('beta')?.reason, /drained/);
  await keepSilent(rig, 130_000);
  t.same(rig.calls, ['2 last', '2 gone'], 'a drained cluster may die');
  rig.lives = [life()];
  await rig.clock.advance(1000);
  t.same(rig.calls.at(-1), '2 last');
  rig.drained.clear();
  rig.withdrawal.touch();
  await until('it is undrained', () => rig.calls.at(-1) === '2 none');
});

test('a drained cluster that is no peer any more is not forgotten silently', async (t) => {
  const rig = start(t);
  rig.drained.add('beta').add('gamma');
  t.same(rig.withdrawal.notes(), [
    'cluster gamma is drained since 1970-01-01T00:00:00.000Z and is no peer of this agent: undrain it, or it will be drained when it comes back',
  ]);
});

test('a cluster that leaves or changes its id leaves nothing behind', async (t) => {
  const rig = start(t);
  await keepSilent(rig, 2000);
  t.same(rig.calls, ['2 last']);
  rig.lives = [life({ clusterId: parseClusterId(5), isStale: true, silentMs: 31_000 })];
  await rig.clock.advance(1000);
  t.same(rig.calls, ['2 last', '2 none', '5 last']);
  rig.lives = [];
  await rig.clock.advance(1000);
  t.same(rig.calls.at(-1), '5 none');
  rig.lives = [life({ clusterId: undefined, isStale: true, silentMs: 400_000 })];
  await rig.clock.advance(10_000);
  t.same(rig.calls.at(-1), '5 none', 'nobody knows yet whose backends they would be');
});
