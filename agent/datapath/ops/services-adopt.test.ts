/** Taking over what an earlier process left, in steps. */
import { test } from 'tap';
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import { kernelSkipReason } from '../testing/bpffs.ts';
import {
  findServiceFaults,
  frontendText,
  openTestServiceMaps,
  testBackend,
  testFrontend,
} from '../testing/service-maps.ts';
import { backendSlot } from './service-map.ts';
import { openServicesTable, type ServicesTable } from './services.ts';

const skip = kernelSkipReason();
const SIZE = 251;

const rowsOf = (table: ServicesTable): string[] =>
  [...(table.scan?.() ?? [])].flat().map(frontendText).sort();

/** Many frontends: every tenth remembers clients, every hundredth picks by Maglev, every seventh has a draining backend. */
function frontends(count: number) {
  return Array.from({ length: count }, (_, index) =>
    testFrontend(
      Array.from({ length: 1 + (index % 4) }, (_, at) => testBackend(4 * index + at)),
      {
        address: parseIpAddress(`172.20.${index >> 8}.${index & 255}`),
        affinitySeconds: index % 10 === 0 ? 60 : 0,
        algorithm: index % 100 === 0 ? 'maglev' : 'random',
        draining: index % 7 === 0 ? [testBackend(40_000 + index)] : [],
      },
    ),
  );
}

test('services are taken over step by step, and read but once', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const wanted = frontends(2000);
  openServicesTable(open.maps, { maglevTableSize: SIZE }).apply({ upserts: wanted, deletes: [] });
  const table = openServicesTable(open.maps, { maglevTableSize: SIZE });
  const steps = [...table.takeOver()].length;
  t.ok(steps >= 20, `${steps} steps for 2,000 frontends with 5,000 backends`);
  // Who else writes them now is not seen: the rows are those that were read.
  open.kernel.slots.remove([{ frontend: wanted[0] ?? testFrontend([]), slot: 0 }]);
  t.strictSame(rowsOf(table), wanted.map(frontendText).sort());
  t.equal(rowsOf(table).length, wanted.length - 1, 'the next look is one at the kernel');
  table.apply({ upserts: wanted.slice(0, 1), deletes: [] });
  t.strictSame(rowsOf(table), wanted.map(frontendText).sort());
  t.strictSame(findServiceFaults(open.kernel, { maglevSize: SIZE, garbage: false }), []);
});

test('services: rows that were taken over are not handed out after a change', {
  skip,
}, async (t) => {
  await using open = await openTestServiceMaps();
  const wanted = frontends(3);
  openServicesTable(open.maps).apply({ upserts: wanted, deletes: [] });
  const table = openServicesTable(open.maps);
  for (const _ of table.takeOver());
  table.apply({ upserts: [], deletes: wanted.slice(0, 1) });
  t.strictSame(rowsOf(table), wanted.slice(1).map(frontendText).sort());
});

test('services: what was found half written is mended with the first change', {
  skip,
}, async (t) => {
  await using open = await openTestServiceMaps();
  const wanted = frontends(30);
  const [, second, third] = wanted;
  if (second === undefined || third === undefined) throw new Error('there are thirty');
  openServicesTable(open.maps, { maglevTableSize: SIZE }).apply({ upserts: wanted, deletes: [] });
  open.kernel.members.upsert([{ serviceId: 4711, backendId: 1, state: 'draining' }]);
  open.kernel.slots.upsert([backendSlot(second, 9, 1)]);
  open.kernel.slots.remove([{ frontend: third, slot: 1 }]);
  const table = openServicesTable(open.maps, { maglevTableSize: SIZE });
  for (const _ of table.takeOver());
  t.not(findServiceFaults(open.kernel, { maglevSize: SIZE, garbage: false }).length, 0);
  table.apply({ upserts: [third], deletes: [] });
  t.strictSame(findServiceFaults(open.kernel, { maglevSize: SIZE, garbage: false }), []);
  t.strictSame(rowsOf(table), wanted.map(frontendText).sort());
});
