import fc from 'fast-check';
import { test } from 'tap';
import { parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { type Claimant, createAddressBook } from './address-book.ts';

const PREFIX = parseIpPrefix('10.0.0.1');
const OWN = 1;

function row(clusterId: number, identity = 1000 + clusterId): IpcacheEntry {
  return {
    prefix: PREFIX,
    identity: parseNumericIdentity(identity),
    tunnelEndpoint: undefined,
    clusterId,
  };
}

const ip = (clusterId: number): Claimant => ({ clusterId, source: 'ip', owner: '' });
const node = (clusterId: number, owner: string): Claimant => ({ clusterId, source: 'node', owner });

test('a claim makes a row, its withdrawal removes it, and nothing is told twice', async (t) => {
  const book = createAddressBook(OWN);
  book.claim(ip(2), row(2));
  t.same(book.takeChanges(), { upserts: [row(2)], deletes: [] });
  t.same(book.takeChanges(), { upserts: [], deletes: [] });
  book.withdraw(ip(3), PREFIX);
  t.same(book.takeChanges(), { upserts: [], deletes: [] }, 'a stranger withdraws nothing');
  book.withdraw(ip(2), PREFIX);
  t.same(book.takeChanges(), { upserts: [], deletes: [PREFIX] });
});

test('the first peer keeps an address until it lets go, however often it speaks', async (t) => {
  const book = createAddressBook(OWN);
  book.claim(ip(3), row(3));
  book.claim(ip(2), row(2));
  book.claim(ip(3), row(3, 4000));
  t.equal(book.holderOf(PREFIX)?.identity, 4000);
  t.same([...book.conflicts()], [{ prefix: PREFIX, holder: 3, refused: [2] }]);
  book.withdraw(ip(3), PREFIX);
  t.equal(book.holderOf(PREFIX)?.clusterId, 2);
  t.same([...book.conflicts()], []);
  book.claim(ip(3), row(3));
  t.equal(book.holderOf(PREFIX)?.clusterId, 2, 'coming back is being later');
});

test('the own cluster comes before any peer, this node before all', async (t) => {
  const book = createAddressBook(OWN);
  book.claim(ip(2), row(2));
  book.claim(ip(OWN), row(OWN));
  t.equal(book.holderOf(PREFIX)?.clusterId, OWN);
  book.claim(node(0, ''), row(0));
  t.equal(book.holderOf(PREFIX)?.clusterId, 0);
  t.same(
    [...book.conflicts()],
    [{ prefix: PREFIX, holder: 0, refused: [2] }],
    'our own cluster is no rival',
  );
});

test('a node record comes before an ip entry of the same cluster, and two nodes may share an address for a while', async (t) => {
  const book = createAddressBook(OWN);
  book.claim(ip(2), row(2));
  book.claim(node(2, 'old'), row(2, 6));
  t.equal(book.holderOf(PREFIX)?.identity, 6);
  book.claim(node(2, 'new'), row(2, 7));
  book.withdraw(node(2, 'old'), PREFIX);
  t.equal(book.holderOf(PREFIX)?.identity, 7);
  t.same([...book.conflicts()], []);
});

test('whatever is claimed and withdrawn, a row stands exactly while somebody claims it', async (t) => {
  const address = (index: number) => parseIpPrefix(parseIpAddress(`10.0.0.${index}`));
  const step = fc.record({
    claim: fc.boolean(),
    cluster: fc.integer({ min: 0, max: 3 }),
    source: fc.constantFrom('node' as const, 'ip' as const),
    prefix: fc.integer({ min: 1, max: 2 }),
  });
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const book = createAddressBook(OWN);
        const kernel = new Map<string, number>();
        const claims = new Map<string, Set<string>>();
        for (const { claim, cluster, source, prefix } of steps) {
          const claimant: Claimant = { clusterId: cluster, source, owner: '' };
          const name = `${cluster}${source}`;
          const holders = claims.get(address(prefix)) ?? new Set<string>();
          claims.set(address(prefix), holders);
          if (claim) book.claim(claimant, { ...row(cluster), prefix: address(prefix) });
          else book.withdraw(claimant, address(prefix));
          if (claim) holders.add(name);
          else holders.delete(name);
          const { upserts, deletes } = book.takeChanges();
          for (const entry of upserts) kernel.set(entry.prefix, entry.clusterId);
          for (const gone of deletes) kernel.delete(gone);
        }
        return [...claims].every(([prefix, holders]) => {
          const held = kernel.get(prefix);
          if (holders.size === 0) return held === undefined;
          const clusters = new Set([...holders].map((name) => Number(name[0])));
          if (clusters.has(0)) return held === 0;
          return clusters.has(OWN) ? held === OWN : clusters.has(held ?? -1);
        });
      }),
    ),
  );
});
