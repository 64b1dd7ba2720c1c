import { type Test, test } from 'tap';
import { KvError } from '../mesh/kvstore/kvstore.ts';
import type { PublishedCluster } from '../mesh/remote/testing/published-cluster.ts';
import { until } from '../mesh/remote/testing/until.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { parseIpAddress } from '../mesh/wire/ip.ts';
import { askDrain } from './api/client.ts';
import { renderStatus } from './api/render.ts';
import { type NodeRig, openNodeRig } from './testing/node-rig.ts';
import { publishAlpha, publishBeta } from './testing/two-clusters.ts';
import type { WithdrawMode } from './withdrawal/decision.ts';

const LOST = new KvError('unavailable', 'connect ECONNREFUSED', { retryable: true });
/** Times are a hundredth of the defaults: silence, and what comes after it, take the same course. */
const TIMES = { staleAfterMs: 400, ttlMs: 1500, settleMs: 300 };
const ALPHA = '10.1.0.5:8080@1';
const BETA = '10.2.0.5:9090@2';

interface TwoClusters {
  readonly rig: NodeRig;
  readonly beta: PublishedCluster;
  /** Whether beta's nodes answer probes. */
  nodes: 'alive' | 'dead';
  stopApiserver(): void;
  startApiserver(): void;
  /** Backends of a service's one frontend. */
  backends(address: string): string[];
  /** Each different set of backends that the frontend has had since the last call. */
  history(address: string): string[];
}

const WEB = '10.96.0.10';
/** A service that has backends in beta alone. */
const REMOTE_ONLY = '10.96.0.11';

async function openTwoClusters(t: Test, mode: WithdrawMode = 'auto'): Promise<TwoClusters> {
  const all: { nodes: 'alive' | 'dead' } = { nodes: 'alive' };
  const rig = await openNodeRig(t, {
    withdrawal: {
      ...TIMES,
      mode,
      probe: async () => (all.nodes === 'alive' ? 'answered' : 'silent'),
    },
  });
  await publishAlpha(rig.alpha);
  await rig.alpha.localService('far', { clusterIps: [parseIpAddress(REMOTE_ONLY)] });
  await rig.alpha.marked();
  const beta = await publishBeta();
  await beta.service('far', { '10.2.0.5': 9090 });
  await rig.addPeer(beta);
  const histories = new Map<string, string[]>();
  const backends = (address: string): string[] =>
    rig.datapath.services
      .rows()
      .filter((row) => row.address === address)
      .flatMap((row) => row.backends.map((b) => `${b.address}:${b.port}@${b.clusterId}`))
      .sort();
  // The stores give signs of life as etcd does when asked, and each change of the frontends is noticed.
  const ending = new AbortController();
  const look = (address: string): string[] => {
    const past = histories.get(address) ?? [];
    const now = backends(address).join(' ');
    if (past.at(-1) !== now) histories.set(address, [...past, now]);
    return histories.get(address) ?? [];
  };
  const living = (async () => {
    while (!ending.signal.aborted) {
      rig.alpha.store.faults.progress();
      beta.store.faults.progress();
      for (const address of [WEB, REMOTE_ONLY]) look(address);
      await systemClock.sleep(5, ending.signal).catch(() => undefined);
    }
  })();
  t.teardown(async () => {
    ending.abort();
    await living;
  });
  await rig.start();
  await rig.ready('alpha');
  await rig.ready('beta');
  await until('both clusters serve', () => backends(WEB).length === 2);
  return Object.assign(all, {
    rig,
    beta,
    backends,
    stopApiserver: () => beta.store.faults.disconnect(LOST),
    startApiserver: () => beta.store.faults.reconnect(),
    history: (address: string) => {
      const past = look(address);
      histories.set(address, past.slice(-1));
      return past;
    },
  });
}

const use = async (rig: NodeRig): Promise<string | undefined> =>
  (await rig.status()).clusters.find(({ name }) => name === 'beta')?.use.level;

test("a peer's control plane is away for long: its backends are used last, and stay (promise 1)", async (t) => {
  const mesh = await openTwoClusters(t);
  mesh.history(WEB);
  mesh.history(REMOTE_ONLY);
  mesh.stopApiserver();
  await until('beta is stale', async () => (await mesh.rig.stateOf('beta')) === 'stale');
  await until('it is used last', () => mesh.backends(WEB).length === 1);
  await systemClock.sleep(2 * TIMES.ttlMs);
  t.equal(await mesh.rig.stateOf('beta'), 'stale');
  t.equal(await use(mesh.rig), 'last');
  const text = renderStatus(await mesh.rig.status());
  t.match(text, /beta +2 +stale +\S+ +used last/);
  t.match(text, /cluster beta: stale: .*ECONNREFUSED.*check endpoints/);
  t.match(text, /cluster beta: its backends are used last: its control plane is silent/);
  mesh.startApiserver();
  await mesh.rig.ready('beta');
  await until('it is used again', () => mesh.backends(WEB).length === 2);
  t.same(mesh.history(WEB), [`${ALPHA} ${BETA}`, ALPHA, `${ALPHA} ${BETA}`]);
  t.same(mesh.history(REMOTE_ONLY), [BETA], 'where there are no others nothing changes');
  t.equal((await mesh.rig.status()).clusters[1]?.use.level, 'none');
});

test('every node of a peer dies: its backends go in the time that was set, its addresses stay, and it comes back once (promise 1)', async (t) => {
  const mesh = await openTwoClusters(t, 'always');
  mesh.history(WEB);
  mesh.history(REMOTE_ONLY);
  const began = systemClock.monotonic();
  mesh.nodes = 'dead';
  mesh.stopApiserver();
  await until('it is withdrawn', async () => (await mesh.rig.stateOf('beta')) === 'withdrawn');
  const took = systemClock.monotonic() - began;
  t.ok(took >= TIMES.ttlMs, `not before its time: ${Math.round(took)} ms`);
  // Three rounds of probes and a look each second follow the time that was set.
  t.ok(took < TIMES.ttlMs + 3000, `within the bound: ${Math.round(took)} ms`);
  await until('its backends are gone', () => mesh.backends(REMOTE_ONLY).length === 0);
  const { ipcache } = mesh.rig.datapath;
  t.equal(ipcache.get('10.2.0.5/32')?.clusterId, 2, 'policy must not open by forgetting');
  t.match(
    renderStatus(await mesh.rig.status()),
    /cluster beta: withdrawn: silent for more than 2 s, and none of its nodes answers; .*ECONNREFUSED/,
  );
  mesh.nodes = 'alive';
  mesh.startApiserver();
  await mesh.rig.ready('beta');
  await until('it is used again', () => mesh.backends(WEB).length === 2);
  await systemClock.sleep(500);
  t.same(mesh.history(WEB), [`${ALPHA} ${BETA}`, ALPHA, `${ALPHA} ${BETA}`], 'without a flap');
  t.same(mesh.history(REMOTE_ONLY), [BETA, '', BETA], 'without a flap');
});

test('the last backends of a service are not taken away (promise 1)', async (t) => {
  const mesh = await openTwoClusters(t);
  mesh.history(REMOTE_ONLY);
  mesh.nodes = 'dead';
  mesh.stopApiserver();
  await until('it is withdrawn', async () => (await mesh.rig.stateOf('beta')) === 'withdrawn');
  t.same(mesh.backends(WEB), [ALPHA]);
  t.same(mesh.history(REMOTE_ONLY), [BETA]);
});

test('an agent that starts while a peer is dead keeps what it finds for the time that was set, and no longer', async (t) => {
  const mesh = await openTwoClusters(t, 'always');
  await mesh.rig.stop();
  mesh.nodes = 'dead';
  mesh.stopApiserver();
  mesh.history(REMOTE_ONLY);
  const began = systemClock.monotonic();
  await mesh.rig.start();
  await mesh.rig.ready('alpha');
  t.same(mesh.backends(REMOTE_ONLY), [BETA], 'a restart takes nothing away');
  await until('it is withdrawn', async () => (await use(mesh.rig)) === 'gone');
  t.ok(systemClock.monotonic() - began >= TIMES.ttlMs);
  await until('its backends are gone', () => mesh.backends(REMOTE_ONLY).length === 0);
  mesh.nodes = 'alive';
  mesh.startApiserver();
  await mesh.rig.ready('beta');
  await until('they are back', () => mesh.backends(WEB).length === 2);
  t.same(mesh.history(REMOTE_ONLY), [BETA, '', BETA]);
});

test('drain and undrain: planned failover, kept over a restart, shown in status', async (t) => {
  const mesh = await openTwoClusters(t);
  const { socketPath } = mesh.rig;
  mesh.history(REMOTE_ONLY);
  mesh.history(WEB);
  t.match(await askDrain(socketPath, { action: 'drain', cluster: 'beta' }), { ok: true });
  await until('beta is used last', () => mesh.backends(WEB).join() === ALPHA);
  t.equal(await mesh.rig.stateOf('beta'), 'ready', 'it is as well as before');
  t.match(
    renderStatus(await mesh.rig.status()),
    /cluster beta: its backends are used last: drained/,
  );
  await mesh.rig.start();
  await mesh.rig.ready('beta');
  await until('it is still drained', async () => (await use(mesh.rig)) === 'last');
  t.same(mesh.history(WEB).slice(1), [ALPHA], 'at no time since');
  t.match(await askDrain(socketPath, { action: 'undrain', cluster: 'beta' }), { ok: true });
  await until('it is used again', () => mesh.backends(WEB).length === 2);
  t.same(mesh.history(REMOTE_ONLY), [BETA]);
  t.match(await askDrain(socketPath, { action: 'drain', cluster: 'nobody' }), {
    ok: false,
    message: /no such peer, its peers are beta/,
  });
});
