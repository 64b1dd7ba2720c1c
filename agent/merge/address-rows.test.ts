import fc from 'fast-check';
import { test } from 'tap';
import { localIdentity, localIdentityScope, parseNumericIdentity } from '../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { createAddressRows } from './address-rows.ts';
import { sameIpcacheEntry } from './addresses.ts';
import { createSharedTexts } from './shared-texts.ts';

const PREFIXES = [
  ...Array.from({ length: 12 }, (_, last) => `10.0.0.${last}/32`),
  '10.0.0.0/24',
  '255.255.255.255/32',
  'fd00::1/128',
  'fd00::/64',
  '64:ff9b::/96',
].map(parseIpPrefix);
const HOSTS = ['172.16.0.1', '172.16.0.2', 'fd00:1::1'].map(parseIpAddress);

const row = fc.record({
  prefix: fc.constantFrom(...PREFIXES),
  identity: fc.oneof(
    fc.constantFrom(0, 6, 16_777_215, 131_072).map(parseNumericIdentity),
    fc.constantFrom(localIdentity('cidr', 1), localIdentity('node', 2)),
  ),
  tunnelEndpoint: fc.constantFrom(undefined, ...HOSTS),
  clusterId: fc.constantFrom(0, 1, 2, 511),
});

test('address rows are what a map of rows would be, and keep the hosts of those that are there', async () => {
  const step = fc.record({
    kind: fc.constantFrom('set', 'set', 'set', 'delete', 'like'),
    row,
    mark: fc.nat(3),
  });
  const sorted = (rows: Iterable<IpcacheEntry>): string =>
    [...rows]
      .map((one) => JSON.stringify(one))
      .sort()
      .join();
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
      const hosts = createSharedTexts();
      const rows = createAddressRows(hosts);
      const model = new Map<string, IpcacheEntry>();
      const marks = new Map<string, number>();
      for (const { kind, row, mark } of steps) {
        const { prefix } = row;
        const known = model.get(prefix);
        if (kind === 'set') {
          rows.set(prefix, row, mark);
          model.set(prefix, row);
          marks.set(prefix, mark);
        } else if (kind === 'delete') {
          if (rows.delete(prefix) !== model.delete(prefix)) return false;
          marks.delete(prefix);
        } else if (
          rows.isLike(prefix, row) !== (known !== undefined && sameIpcacheEntry(known, row))
        ) {
          return false;
        }
      }
      const wantedHosts = new Set([...model.values()].map(({ tunnelEndpoint }) => tunnelEndpoint));
      wantedHosts.delete(undefined);
      const clusters = [...new Set([...model.values()].map(({ clusterId }) => clusterId))];
      return (
        rows.size === model.size &&
        sorted(rows.values()) === sorted(model.values()) &&
        [...rows].every(([prefix, { prefix: same }]) => prefix === same) &&
        PREFIXES.every(
          (prefix) =>
            rows.has(prefix) === model.has(prefix) &&
            rows.markOf(prefix) === (marks.get(prefix) ?? -1) &&
            JSON.stringify(rows.get(prefix)) === JSON.stringify(model.get(prefix)),
        ) &&
        rows.clusters().sort().join() === clusters.sort().join() &&
        [0, 1, 2, 511].every(
          (id) =>
            sorted(rows.ofCluster(id)) ===
            sorted([...model.values()].filter(({ clusterId }) => clusterId === id)),
        ) &&
        sorted(rows.withLocalIdentity()) ===
          sorted(
            [...model.values()].filter(
              ({ identity }) => localIdentityScope(identity) !== undefined,
            ),
          ) &&
        hosts.size === wantedHosts.size
      );
    }),
    { numRuns: 500 },
  );
});

test('rows of a cluster may be deleted while they are listed', async (t) => {
  const rows = createAddressRows(createSharedTexts());
  for (let last = 0; last < 100; last += 1) {
    const prefix = parseIpPrefix(`10.0.0.${last}`);
    const clusterId = last % 2;
    rows.set(prefix, {
      prefix,
      identity: parseNumericIdentity(300),
      tunnelEndpoint: undefined,
      clusterId,
    });
  }
  for (const { prefix } of rows.ofCluster(1)) rows.delete(prefix);
  t.equal(rows.size, 50);
  t.same(rows.clusters(), [0]);
});

test('a shared text is kept as long as somebody has it, whatever it is cut out of', async (t) => {
  const texts = createSharedTexts();
  const first = texts.take('node-\u00e9\ud800');
  t.equal(texts.take(['node-', '\u00e9\ud800'].join('')), first);
  t.equal(texts.textOf(first), 'node-\u00e9\ud800', 'also what is no proper Unicode');
  texts.drop(first);
  t.equal(texts.find('node-\u00e9\ud800'), first);
  texts.drop(first);
  t.equal(texts.find('node-\u00e9\ud800'), 0);
  t.equal(texts.textOf(first), undefined);
  texts.drop(0);
  t.equal(texts.take('other'), first, 'its number is given again');
  t.equal(texts.size, 1);
});
