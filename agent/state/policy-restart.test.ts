/** Promise 4: a restart of the agent, or a peer that is away, changes no verdict. */
import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { heldPolicy, openPolicyEngine } from '../testing/policy-engine.ts';
import { ALPHA, CHANGEABLES, ENDPOINTS } from '../testing/policy-world.ts';
import { createMemoryDatapath } from './memory-datapath.ts';

const NAMES = Object.keys(CHANGEABLES);
const [FIRST] = ENDPOINTS;
if (FIRST === undefined) throw new Error('there is no endpoint');

/** States in which every kind of other side is in use. */
const STATES: Readonly<Record<string, number>> = {
  ...Object.fromEntries(NAMES.map((name) => [name, 1])),
  'policy a': 7,
  'policy b': 8,
  'policy c': 5,
  'node near': 2,
  'node far': 2,
  'identity 4': 2,
};

test('the next process takes over identities, addresses and rows, and writes none of them again', async (t) => {
  const twin = createMemoryDatapath();
  const first = openPolicyEngine({ twin });
  for (const [name, state] of Object.entries(STATES)) first.set(name, state);
  for (const endpoint of ENDPOINTS) first.engine.addEndpoint(endpoint);
  first.engine.flush();
  const held = heldPolicy(twin);
  const rows = JSON.stringify(twin.ipcache.rows());
  t.ok(
    held.rows.some((row) => row.includes('198.51.100.0/24')),
    'a network has rows',
  );
  t.ok(
    held.addresses.some((row) => row.startsWith('198.51.100.0/24')),
    'and an identity',
  );
  t.ok(
    twin.ipcache
      .rows()
      .some(({ prefix, identity }) => prefix === '192.0.2.9/32' && identity > 2 ** 25),
    'a node has an identity of its own',
  );

  const written = twin.log.length;
  const second = openPolicyEngine({ twin, isSynced: false, hasPeer: true, restored: [1, 2] });
  second.engine.flush();
  // Backwards, so that what was given by order would get other numbers.
  for (const [name, state] of Object.entries(STATES).reverse()) {
    second.set(name, state);
    second.engine.flush();
    t.same(heldPolicy(twin), held, `as it was after ${name}`);
  }
  second.synced('alpha');
  second.synced('beta');
  second.engine.flush();
  t.same(heldPolicy(twin), held);
  t.equal(JSON.stringify(twin.ipcache.rows()), rows, 'with the same numbers');
  const carried = new Set(twin.ipcache.rows().map(({ identity }) => String(identity)));
  const left = twin.log.slice(written).filter(({ kind, key }) => {
    // Nodes had others on the way here, whose rows mean nothing by now.
    const identity = key.split('/')[2] ?? '';
    return kind !== 'delete' || carried.has(identity) || Number(identity) < 2 ** 24;
  });
  t.same(left, [], 'nothing was written');
});

test('rows of a peer that does not speak after a restart stay, but for those that no rule could want', async (t) => {
  const twin = createMemoryDatapath();
  const first = openPolicyEngine({ twin });
  for (const [name, state] of Object.entries(STATES)) first.set(name, state);
  first.set('policy a', 2);
  first.set('policy c', 7);
  for (const endpoint of ENDPOINTS) first.engine.addEndpoint(endpoint);
  first.engine.flush();
  const held = heldPolicy(twin);
  const beta = 2 * 65_536 + 300;
  t.ok(held.rows.some((row) => row.includes(` ${beta} `)));
  t.ok(
    held.rows.some((row) => row.includes(' 192.0.2.9/32 0 0/0 deny')),
    'its node is denied',
  );

  const second = openPolicyEngine({ twin, isSynced: false, hasPeer: true, restored: [1, 2] });
  for (const [name, state] of Object.entries({ ...STATES, 'policy a': 2, 'policy c': 7 })) {
    if (CHANGEABLES[name]?.cluster === ALPHA) second.set(name, state);
  }
  second.synced('alpha');
  second.engine.flush();
  t.same(heldPolicy(twin), held, 'the peer is waited for');
  second.later(15_000);
  second.engine.flush();
  t.same(heldPolicy(twin), held, 'the peer has not spoken');
  second.set('policy a', 0);
  second.engine.synced(ALPHA, 'local-policies');
  second.engine.flush();
  t.notOk(
    heldPolicy(twin).rows.some((row) => row.includes(` ${beta} 6 8000/`)),
    'its policy has gone',
  );
});

test('an identity of a network outlives its address by minutes, and its number is not given soon', async (t) => {
  const { engine, twin, set, later } = openPolicyEngine();
  set('identity 1', 1);
  set('address 10.1.0.1', 1);
  engine.addEndpoint(FIRST);
  const numberOf = (prefix: string) => twin.ipcache.get(parseIpPrefix(prefix))?.identity;
  set('policy a', 4);
  set('policy b', 3);
  engine.flush();
  const given = numberOf('203.0.113.0/24');
  t.ok(given !== undefined);
  const rowsOf = (identity: number | undefined) =>
    twin.policy.rows().filter((row) => row.identity === identity).length;
  set('policy a', 0);
  engine.flush();
  t.equal(numberOf('203.0.113.0/24'), undefined, 'the address is the world again');
  t.ok(rowsOf(given) > 0, 'a packet on its way finds what the world may');
  later(5 * 60_000);
  set('policy a', 4);
  engine.flush();
  t.equal(numberOf('203.0.113.0/24'), given, 'the same number when it comes back in time');
  set('policy a', 0);
  engine.flush();
  later(11 * 60_000);
  engine.flush();
  t.equal(rowsOf(given), 0, 'and no rows in the end');
  set('policy a', 4);
  engine.flush();
  t.not(numberOf('203.0.113.0/24'), given, 'another number');
});

test('an address of the mesh is never outside, whatever network it lies in', async (t) => {
  const { engine, twin, set } = openPolicyEngine();
  set('identity 1', 1);
  set('address 10.1.0.1', 1);
  set('address 198.51.100.9', 1);
  set('service db', 2);
  set('policy a', 6);
  engine.addEndpoint(FIRST);
  engine.flush();
  const prefix = parseIpPrefix('198.51.100.9');
  t.equal(twin.ipcache.get(prefix)?.identity, 2 * 65_536 + 300, 'a backend in the mesh');
  set('address 198.51.100.9', 0);
  engine.flush();
  t.match(twin.ipcache.get(prefix), { clusterId: 0, tunnelEndpoint: undefined }, 'and then not');
  t.ok(
    twin.policy.rows().some(({ identity }) => identity === twin.ipcache.get(prefix)?.identity),
    'with rows of its own',
  );
  set('address 198.51.100.9', 1);
  engine.flush();
  t.equal(twin.ipcache.get(prefix)?.identity, 2 * 65_536 + 300);
});
