/**
 * `connect`, `disconnect`, `peer apply`, `delete` and `rollback` are ended by SIGKILL in each of their steps, on either side of the
 * wire, and are run again: what comes of it is what comes of an undisturbed run (promise 9).
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import { type Test, test } from 'tap';
import { PEER_HISTORY_PREFIX } from '../../clustermesh-apiserver/peering/peer-history.ts';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import { startChild } from '../../mesh/runtime/child-process.ts';
import { etcdSkipReason, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { issueCertificate } from '../../pki/ca.ts';
import { adminLeaf, SECRET_NAMES } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';
import { type AdminProxy, type CallMoment, openAdminProxy } from './peering-admin-proxy.ts';
import {
  type PeeringCluster,
  preparePeeringCluster,
  runPeering,
  untilPeer,
} from './peering-site.ts';
import { openWriteFaults, type WriteFaults } from './peering-write-control.ts';

const skip = etcdSkipReason(process.env);
const isLong = process.env.ISTHMUS_LONG === 'true';
const CLI = fileURLToPath(new URL('../../cli/main.js', import.meta.url));

/** A call in which the command line ends: of which cluster, the how many-th of that method, and where in it. */
interface KilledCall {
  readonly at: 'alpha' | 'beta';
  readonly method: 'ApplyPeer' | 'DeletePeer' | 'RollbackPeer';
  readonly nth: number;
  readonly moment: CallMoment;
}

interface Lab {
  readonly alpha: PeeringCluster;
  readonly beta: PeeringCluster;
  readonly proxies: Readonly<Record<'alpha' | 'beta', AdminProxy>>;
  readonly exportB: string;
  /** What was noted of peer beta in alpha: what was done, and what was there before. */
  history(): Promise<readonly string[]>;
}

/** The files of peers and what came of them, on both sides. */
async function stateOf({ alpha, beta }: Lab): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for (const cluster of [alpha, beta]) {
    found[cluster.name] = await cluster.managed();
    for (const file of await readdir(cluster.file('peers'))) {
      found[`${cluster.name} ${file}`] = await readFile(cluster.file('peers', file), 'utf8');
    }
  }
  return found;
}

test('peering that is killed at any step', { skip, timeout: 900_000 }, async (t) => {
  const etcd = await openEtcdServer();
  t.teardown(() => etcd[Symbol.asyncDispose]());
  const faults = await openWriteFaults(t);
  const [alpha, beta] = await Promise.all([
    preparePeeringCluster(t, {
      name: 'alpha',
      id: 1,
      podCidr: '10.1.0.0/24',
      more: [`--etcd-endpoints=${etcd.endpoint}`],
      node: faults.nodeFlags,
    }),
    preparePeeringCluster(t, { name: 'beta', id: 2, podCidr: '10.2.0.0/24' }),
  ]);
  await Promise.all([alpha.start(), beta.start()]);
  const store = await openEtcd({ endpoints: [etcd.endpoint] });
  t.teardown(() => store[Symbol.asyncDispose]());
  const proxies = { alpha: await proxyOf(t, alpha), beta: await proxyOf(t, beta) };
  const lab: Lab = {
    alpha,
    beta,
    proxies,
    exportB: (await runPeering(['peer', 'export', ...beta.flags()])).output,
    async history() {
      const found = await store.get(`${PEER_HISTORY_PREFIX}beta`);
      const { revisions } = JSON.parse(found?.value.toString() ?? '{"revisions":[]}') as {
        revisions: { outcome: string; before: string }[];
      };
      return revisions.map(({ outcome, before }) => `${outcome} from ${before.length} characters`);
    },
  };
  await t.test('the command line, in a call', (t) => testKilledCalls(t, lab));
  await t.test('two operators, a late refusal, a restart', (t) => testCrossings(t, lab));
  await t.test('the apiserver, at a write', (t) => testKilledWrites(t, lab, faults));
});

async function proxyOf(t: Test, cluster: PeeringCluster): Promise<AdminProxy> {
  const admin = await issueCertificate(cluster.ca, adminLeaf(cluster.name));
  const proxy = await openAdminProxy(cluster, admin);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  return proxy;
}

/** Runs a command as a process of its own, which ends by SIGKILL in one of its calls. */
async function runKilled(
  lab: Lab,
  words: readonly string[],
  where: KilledCall,
): Promise<{ readonly signal: string | null }> {
  const { proxies } = lab;
  const child = startChild(process.execPath, [CLI, ...words], {
    signal: AbortSignal.timeout(120_000),
    name: 'clustermesh',
  });
  for (const [name, proxy] of Object.entries(proxies)) {
    let count = 0;
    proxy.onCall = ({ method, moment }) => {
      if (method === where.method && moment === 'before') count += 1;
      const isHere =
        name === where.at &&
        method === where.method &&
        count === where.nth &&
        moment === where.moment;
      if (isHere) child.kill('SIGKILL');
      // Whoever is dead sends nothing on and takes nothing in.
      return isHere && moment !== 'within';
    };
  }
  const { signal } = await child.exited;
  for (const proxy of Object.values(proxies)) proxy.onCall = () => false;
  return { signal };
}

function proxyFlags(lab: Lab, name: 'alpha' | 'beta', role?: 'destination'): string[] {
  const prefix = role === undefined ? '' : `${role}-`;
  return [
    `--${prefix}registry=127.0.0.1:${lab.proxies[name].port}`,
    `--${prefix}certificates=${lab[name].file(SECRET_NAMES.admin)}`,
  ];
}

async function testKilledCalls(t: Test, lab: Lab): Promise<void> {
  const { alpha, beta } = lab;
  const pair = [...alpha.flags(), ...beta.flags('destination')];
  const killedPair = [...proxyFlags(lab, 'alpha'), ...proxyFlags(lab, 'beta', 'destination')];
  const connect = async (): Promise<void> => {
    const connected = await runPeering(['connect', ...pair]);
    t.equal(connected.code, 0, connected.said + connected.output);
  };
  const disconnect = async (): Promise<void> => {
    const parted = await runPeering(['disconnect', ...pair]);
    t.equal(parted.code, 0, parted.said + parted.output);
  };
  await connect();
  const whole = await stateOf(lab);
  await disconnect();
  t.same(await stateOf(lab), { alpha: {}, beta: {} });
  const history = await lab.history();

  // The first ApplyPeer of a side is the plan.
  const places = [
    { at: 'alpha', nth: 2, moment: 'after' },
    { at: 'beta', nth: 2, moment: 'within' },
    { at: 'alpha', nth: 2, moment: 'within' },
    { at: 'beta', nth: 2, moment: 'after' },
    { at: 'alpha', nth: 2, moment: 'before' },
  ] as const;
  for (const [index, where] of places.slice(0, isLong ? places.length : 2).entries()) {
    const place = `${where.moment} the call to ${where.at}`;
    const killed = await runKilled(lab, ['connect', ...killedPair], {
      ...where,
      method: 'ApplyPeer',
    });
    t.equal(killed.signal, 'SIGKILL', `connect ${place}`);
    if (index === 0) await testHalfConnected(t, lab);
    await connect();
    t.same(await stateOf(lab), whole, `connect ${place}`);
    const parting = await runKilled(lab, ['disconnect', ...killedPair], {
      ...where,
      nth: 1,
      method: 'DeletePeer',
    });
    t.equal(parting.signal, 'SIGKILL', `disconnect ${place}`);
    if (index === 0) await testHalfParted(t, lab);
    await disconnect();
    t.same(await stateOf(lab), { alpha: {}, beta: {} }, `disconnect ${place}`);
    // What was killed and run again is one change.
    if (index > 0) t.same((await lab.history()).slice(0, 4), [...history, ...history], place);
  }
}

/** Alpha has beta for a peer, and beta has not been told. */
async function testHalfConnected(t: Test, { alpha }: Lab): Promise<void> {
  await untilPeer(alpha, 'beta', ({ ready, reason }) => !ready && reason === 'HalfConnected');
  const status = await runPeering(['status', ...alpha.flags()]);
  t.equal(status.code, 1);
  t.match(status.output, /peer-half-connected/);
  t.match(status.output, /cluster beta has no peer "alpha" with this key: apply there/);
  t.match(status.output, /clustermesh peer export/);
}

/** Alpha has parted, and beta has not been told. */
async function testHalfParted(t: Test, { beta }: Lab): Promise<void> {
  await untilPeer(beta, 'alpha', ({ ready, reason }) => !ready && reason === 'HalfConnected');
  const status = await runPeering(['status', ...beta.flags()]);
  t.equal(status.code, 1);
  t.match(status.output, /peer-half-connected.*\n?.*cluster alpha has no peer "beta"/);
}

/** What happens between the two changes of one `connect`. */
async function testCrossings(t: Test, lab: Lab): Promise<void> {
  const { alpha, beta, proxies } = lab;
  const connect = ['connect', ...proxyFlags(lab, 'alpha'), ...beta.flags('destination')];
  /** Acts when alpha has been changed, and beta has not. */
  const between = (act: () => Promise<unknown>): void => {
    let applied = 0;
    proxies.alpha.onCall = async ({ method, moment }) => {
      if (method === 'ApplyPeer' && moment === 'after') applied += 1;
      if (method === 'ApplyPeer' && moment === 'after' && applied === 2) await act();
      return false;
    };
  };
  const empty = await stateOf(lab);

  const exportA = (await runPeering(['peer', 'export', ...alpha.flags()])).output;
  between(() => beta.writePeer('gamma', exportA.replace('name: alpha', 'name: gamma')));
  const late = await runPeering(connect);
  t.equal(late.code, 1, late.said);
  t.notMatch(late.said, /\r/, 'where nobody watches nothing moves');
  t.match(
    late.output,
    /beta is a peer now.*\n[\s\S]*alpha was refused[\s\S]*peer-same-id[\s\S]*alpha: beta is a peer no more/,
  );
  await rm(beta.file('peers', 'gamma.yaml'));
  await waitFor('the stranger to go', async () => isDeepStrictEqual(await stateOf(lab), empty));

  let restarted: Promise<void> | undefined;
  between(async () => {
    await beta.kill();
    restarted = beta.start();
  });
  const patient = await runPeering(connect, '', { isWatched: true });
  await restarted;
  t.equal(patient.code, 0, patient.said + patient.output);
  t.match(patient.said, /changing 127\.0\.0\.1 port \d+ \(\d+ s\)/, 'who waits is told for what');
  t.match(patient.output, /alpha: beta is a peer now.*\n[\s\S]*beta: alpha is a peer now/);
  proxies.alpha.onCall = () => false;
  const whole = await stateOf(lab);

  const pair = [...alpha.flags(), ...beta.flags('destination')];
  t.equal((await runPeering(['disconnect', ...pair])).code, 0);
  const before = await lab.history();
  const both = await Promise.all([
    runPeering(['connect', ...pair]),
    runPeering(['connect', ...pair]),
  ]);
  for (const { code, said } of both) t.equal(code, 0, said);
  t.same(await stateOf(lab), whole);
  t.same((await lab.history()).slice(1), before.slice(0, 9), 'two operators have made one change');
  t.equal((await runPeering(['disconnect', ...pair])).code, 0);
}

async function testKilledWrites(t: Test, lab: Lab, faults: WriteFaults): Promise<void> {
  const { alpha, beta, exportB } = lab;
  const exportA = (await runPeering(['peer', 'export', ...alpha.flags()])).output;
  await beta.writePeer('alpha', exportA);
  const apply = () => runPeering(['peer', 'apply', '-f', '-', ...alpha.flags()], exportB);
  const remove = () => runPeering(['peer', 'delete', 'beta', ...alpha.flags()]);
  const undo = () => runPeering(['peer', 'rollback', 'beta', ...alpha.flags()]);
  const managedOf = async (): Promise<string> => JSON.stringify(await alpha.managed());

  await faults.arm({ at: 0, when: 'before' });
  t.equal((await apply()).code, 0);
  await untilPeer(alpha, 'beta', ({ ready }) => ready);
  const toApply = await faults.writes();
  const whole = await managedOf();
  await faults.arm({ at: 0, when: 'before' });
  t.equal((await remove()).code, 0);
  const toDelete = await faults.writes();
  t.equal(await managedOf(), '{}');
  const history = await lab.history();
  t.comment([...toApply, ...toDelete].join('\n'));
  t.match(toApply, ['put history', 'write peers/.beta.yaml.tmp', 'rename peers/beta.yaml']);
  t.ok(toApply.includes('rename clients/beta') && toDelete.includes('remove trust/beta.crt'));

  /** Kills at a write, starts again and does it again. */
  const killAt = async (
    act: () => ReturnType<typeof apply>,
    options: {
      readonly at: number;
      readonly when: 'before' | 'half' | 'after';
      readonly what: string;
      readonly again?: typeof act;
      readonly outcome: string;
    },
  ): Promise<void> => {
    const { outcome, again = act } = options;
    const what = `killed ${options.when} "${options.what}"`;
    await faults.arm(options);
    // What comes of it depends on whether the answer was faster.
    const [said] = await Promise.all([act(), alpha.ended()]);
    t.match(String(said.code), /^[03]$/, `${what}: ${said.said}`);
    await faults.arm({ at: 0, when: 'before' });
    await alpha.start();
    const second = await again();
    t.equal(second.code, 0, `${what}: ${second.said}${second.output}`);
    await waitFor(`${what}: the same in the end`, async () => (await managedOf()) === outcome);
    t.same(
      await readdir(alpha.file('peers')),
      outcome === '{}' ? [] : ['beta.yaml'],
      `${what}: nothing is left over`,
    );
  };

  for (const [index, step] of steps(toApply).entries()) {
    await killAt(apply, { ...step, outcome: whole });
    await remove();
    t.same((await lab.history()).slice(0, 2), history.slice(0, 2), `${index}`);
  }
  await apply();
  await waitFor('the peer to be read', async () => (await managedOf()) === whole);
  for (const step of steps(toDelete)) {
    await killAt(remove, { ...step, outcome: '{}' });
    t.same((await lab.history()).slice(0, 2), history.slice(0, 2));
    await apply();
    await waitFor('the peer to be read', async () => (await managedOf()) === whole);
  }
  // Undoing is applying or deleting: its own is only which of the two.
  const [noted = 'put history'] = toDelete;
  await killAt(undo, { at: 1, when: 'after', what: noted, again: remove, outcome: '{}' });
}

/** Where to kill: everywhere in long runs, else where what is left behind differs. */
const USUAL: Readonly<Record<string, 'before' | 'half' | 'after'>> = {
  'write peers/.beta.yaml.tmp': 'half',
  'rename clients/beta.HASH.key': 'before',
  'remove peers/beta.yaml': 'after',
};

/** The steps of a command at which it is killed. */
function steps(
  writes: readonly string[],
): { readonly at: number; readonly when: 'before' | 'half' | 'after'; readonly what: string }[] {
  return writes.flatMap((what, index) => {
    const at = index + 1;
    // Before a write is after the one before.
    const whens = what.startsWith('write') ? (['half', 'after'] as const) : (['after'] as const);
    if (isLong) return whens.map((when) => ({ at, when, what }));
    const when = USUAL[what];
    return when === undefined ? [] : [{ at, when, what }];
  });
}
