/** Promise 4: while things change, write by write, what is allowed throughout passes, and what is denied throughout does not. */
import fc from 'fast-check';
import { test } from 'tap';
import { type IpAddress, parseIpAddress, prefixContains, splitPrefix } from '../../mesh/wire/ip.ts';
import type { Datapath, DatapathTable } from '../datapath/desired.ts';
import { lookupVerdict } from '../policy/map-entries.ts';
import { openPolicyEngine } from '../testing/policy-engine.ts';
import { CHANGEABLES, ENDPOINTS } from '../testing/policy-world.ts';
import { isKnownRow } from './known-identities.ts';
import { createMemoryDatapath, type MemoryDatapath } from './memory-datapath.ts';

const NAMES = Object.keys(CHANGEABLES);
const WORLD = 2;
const IS_LONG = process.env.ISTHMUS_LONG === 'true';

const OTHERS: readonly IpAddress[] = [
  '10.2.0.1',
  '192.0.2.2',
  '192.0.2.9',
  '198.51.100.9',
  '198.51.7.7',
  '203.0.113.7',
  '203.0.113.8',
  '2001:db8::5',
].map(parseIpAddress);
/** Those of pods. Of networks, a process does not know the rules by which the one before told them apart. */
const OF_MESH: readonly IpAddress[] = ['10.2.0.1', '198.51.100.9'].map(parseIpAddress);
const TCP_PORTS = [22, 25, 443, 8004, 8080, 8443];

/** A flow that somebody may try. */
interface Probe {
  readonly endpointId: number;
  readonly direction: 'ingress' | 'egress';
  readonly other: IpAddress;
  readonly port: number;
}

const PROBES: readonly Probe[] = ENDPOINTS.flatMap(({ endpointId }) =>
  (['ingress', 'egress'] as const).flatMap((direction) =>
    OTHERS.flatMap((other) => TCP_PORTS.map((port) => ({ endpointId, direction, other, port }))),
  ),
);

/** What the datapath does with each flow now; undefined: its endpoint is not there. */
function verdicts(datapath: MemoryDatapath): (boolean | undefined)[] {
  const identities = new Map(OTHERS.map((other) => [other, identityOf(datapath, other)]));
  const rows = datapath.policy.rows();
  const known = new Set(rows.filter(isKnownRow).map(({ identity }) => identity));
  const ofEndpoint = new Map(
    ENDPOINTS.map(({ endpointId }) => [
      endpointId,
      rows.filter((row) => row.endpointId === endpointId),
    ]),
  );
  return PROBES.map(({ endpointId, direction, other, port }) => {
    const endpoint = datapath.endpoints.get(String(endpointId));
    if (endpoint === undefined) return undefined;
    const isEnforced = direction === 'ingress' ? endpoint.ingressEnforced : endpoint.egressEnforced;
    if (!isEnforced) return true;
    const identity = identities.get(other) ?? WORLD;
    const isStranger = identity >= 256 && identity < 2 ** 24 && !known.has(identity);
    const question = { direction, identity, protocol: 6, port, isStranger };
    return lookupVerdict(ofEndpoint.get(endpointId) ?? [], question).kind === 'allow';
  });
}

function identityOf(datapath: MemoryDatapath, address: IpAddress): number {
  let longest = -1;
  let found = WORLD;
  for (const { prefix, identity } of datapath.ipcache.rows()) {
    const { length } = splitPrefix(prefix);
    if (length <= longest || !prefixContains(prefix, address)) continue;
    longest = length;
    found = identity;
  }
  return found;
}

/** A datapath that tells of each row by itself. */
function oneByOne(datapath: MemoryDatapath, tell: () => void): Datapath {
  const split = <Row extends Key, Key>(
    table: DatapathTable<Row, Key>,
  ): DatapathTable<Row, Key> => ({
    ...table,
    keyOf: (row) => table.keyOf(row),
    rows: () => table.rows(),
    apply({ upserts, deletes }) {
      for (const row of upserts) {
        table.apply({ upserts: [row], deletes: [] });
        tell();
      }
      for (const key of deletes) {
        table.apply({ upserts: [], deletes: [key] });
        tell();
      }
    },
  });
  return {
    ...datapath,
    policy: split(datapath.policy),
    endpoints: split(datapath.endpoints),
    ipcache: split(datapath.ipcache),
  };
}

/**
 * One change, or several policies at once. Changes of several sorts are one after the other also where they are written
 * together, and in between is then something that was true for a moment.
 */
const change = (names: readonly string[]) =>
  fc.record({ name: fc.constantFrom(...names), state: fc.nat(1000) });
const batch = fc.oneof(
  { weight: 3, arbitrary: fc.array(change(NAMES), { minLength: 1, maxLength: 1 }) },
  {
    weight: 1,
    arbitrary: fc.array(change(NAMES.filter((name) => name.startsWith('policy'))), {
      minLength: 2,
      maxLength: 3,
    }),
  },
);

test('no flow is judged otherwise in between than before and after', async (t) => {
  let writes = 0;
  let changed = 0;
  const result = fc.check(
    fc.property(fc.array(batch, { minLength: 3, maxLength: 20 }), (batches) => {
      const twin = createMemoryDatapath();
      const seen: (boolean | undefined)[][] = [];
      let isWatching = false;
      const { engine, set } = openPolicyEngine({
        twin,
        around: () =>
          oneByOne(twin, () => {
            if (isWatching) seen.push(verdicts(twin));
          }),
      });
      for (const name of NAMES) set(name, 1);
      for (const endpoint of ENDPOINTS) engine.addEndpoint(endpoint);
      engine.flush();
      isWatching = true;
      for (const changes of batches) {
        const before = verdicts(twin);
        seen.length = 0;
        for (const { name, state } of changes) {
          set(name, state % ((CHANGEABLES[name]?.states ?? 0) + 1));
        }
        engine.flush();
        const after = verdicts(twin);
        writes += seen.length;
        PROBES.forEach((probe, index) => {
          if (before[index] !== after[index]) {
            changed += 1;
            return;
          }
          const wrong = seen.findIndex((now) => now[index] !== before[index]);
          if (wrong === -1) return;
          const text = JSON.stringify(changes);
          throw new Error(
            `${JSON.stringify(probe)} is ${seen[wrong]?.[index]} after write ${wrong + 1} of ${seen.length}, and ${before[index]} before and after ${text}`,
          );
        });
      }
    }),
    { numRuns: IS_LONG ? 400 : 20 },
  );
  t.equal(result.failed, false, `seed ${result.seed}`, {
    counterexample: JSON.stringify(result.counterexample),
    error: String(result.errorInstance),
  });
  t.ok(writes > 200 && changed > 200, `${writes} writes, ${changed} verdicts changed`);
});

test('nor while the next process learns what has become of policies, in any order', async (t) => {
  const names = fc.shuffledSubarray(NAMES, { minLength: NAMES.length });
  const states = fc.array(fc.nat(1000), { minLength: NAMES.length, maxLength: NAMES.length });
  const policies = NAMES.filter((name) => name.startsWith('policy'));
  let writes = 0;
  const result = fc.check(
    fc.property(
      states,
      fc.array(change(policies), { maxLength: 2 }),
      names,
      (were, news, order) => {
        const twin = createMemoryDatapath();
        const stateOf = (name: string, state: number): number =>
          state % ((CHANGEABLES[name]?.states ?? 0) + 1);
        const mesh = new Map(
          NAMES.map((name, index) => {
            // Whoever is there stays there: a process that is away misses what is said once.
            const state = stateOf(name, were[index] ?? 0);
            return [name, /^(identity|address)/.test(name) ? Math.max(1, state) : state];
          }),
        );
        const first = openPolicyEngine({ twin, hasPeer: true });
        for (const [name, state] of mesh) first.set(name, state);
        for (const endpoint of ENDPOINTS) first.engine.addEndpoint(endpoint);
        first.synced('beta');
        first.engine.flush();
        const before = verdicts(twin);
        for (const { name, state } of news) mesh.set(name, stateOf(name, state));

        const seen: (boolean | undefined)[][] = [];
        const next = openPolicyEngine({
          twin,
          around: () => oneByOne(twin, () => seen.push(verdicts(twin))),
          isSynced: false,
          hasPeer: true,
          restored: ENDPOINTS.map(({ endpointId }) => endpointId),
        });
        const cut = order.length >> 1;
        order.forEach((name, index) => {
          next.set(name, mesh.get(name) ?? 0);
          next.engine.flush();
          // The own cluster may have said all before the peer has said anything, or after.
          if (index !== cut) return;
          for (const own of NAMES.filter((other) => CHANGEABLES[other]?.cluster.own === true)) {
            next.set(own, mesh.get(own) ?? 0);
          }
          next.synced('alpha');
          next.engine.flush();
        });
        next.synced('beta');
        next.engine.flush();
        const after = verdicts(twin);
        writes += seen.length;
        PROBES.forEach((probe, index) => {
          if (before[index] !== after[index] || !OF_MESH.includes(probe.other)) return;
          const wrong = seen.findIndex((now) => now[index] !== before[index]);
          if (wrong === -1) return;
          throw new Error(
            `${JSON.stringify(probe)} is ${seen[wrong]?.[index]} after write ${wrong + 1} of ${seen.length}, and ${before[index]} before and after ${JSON.stringify([...mesh])}`,
          );
        });
      },
    ),
    { numRuns: IS_LONG ? 400 : 30 },
  );
  t.equal(result.failed, false, `seed ${result.seed}`, {
    counterexample: JSON.stringify(result.counterexample),
    error: String(result.errorInstance),
  });
  t.ok(writes > 50, `${writes} writes`);
});
