import fc from 'fast-check';
import { test } from 'tap';
import { parseIpAddress } from '../../../mesh/wire/ip.ts';
import { deleteElement } from '../bpf.ts';
import { DatapathError } from '../datapath-error.ts';
import type { FrontendEntry } from '../desired.ts';
import { kernelSkipReason } from '../testing/bpffs.ts';
import {
  findServiceFaults,
  frontendText,
  openTestServiceMaps,
  testBackend,
  testFrontend,
} from '../testing/service-maps.ts';
import { backendSlot } from './service-map.ts';
import { createServicesTable, openServicesTable, type ServicesTable } from './services.ts';

const skip = kernelSkipReason();

const addressesOf = (row: FrontendEntry | undefined): string[] =>
  (row?.backends ?? []).map(({ address }) => address).sort();

const texts = (table: ServicesTable): string[] => table.rows().map(frontendText).sort();

test('services: rows come back, adopted by the next process', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const table = openServicesTable(open.maps);
  const upserts = [
    testFrontend([
      testBackend(1),
      testBackend(2),
      testBackend(2),
      testBackend(3, { clusterId: 2 }),
    ]),
    testFrontend([testBackend(1)], { scope: 'external', isExternal: true }),
    testFrontend([], { address: parseIpAddress('172.20.0.2') }),
    testFrontend([testBackend(1, { protocol: 'UDP' })], {
      protocol: 'UDP',
      draining: [testBackend(9, { protocol: 'UDP' })],
    }),
    testFrontend([testBackend(1, { protocol: 'SCTP' })], { protocol: 'SCTP' }),
    testFrontend([testBackend(4), testBackend(5)], {
      port: 81,
      algorithm: 'maglev',
      affinitySeconds: 10_800,
      draining: [testBackend(6)],
    }),
    testFrontend([testBackend(4)], { port: 82, algorithm: 'maglev' }),
    testFrontend([{ address: parseIpAddress('fd02::7'), port: 1, protocol: 'TCP', clusterId: 3 }], {
      address: parseIpAddress('fd00::1'),
    }),
  ];
  table.apply({ upserts, deletes: [] });
  t.strictSame(texts(table), upserts.map(frontendText).sort());
  t.strictSame(
    table.rows().find((row) => table.keyOf(row) === table.keyOf(testFrontend([]))),
    {
      ...testFrontend([testBackend(1), testBackend(2), testBackend(3, { clusterId: 2 })]),
      service: '',
    },
    'in the order given',
  );
  t.equal(open.kernel.backends.rows().length, 10, 'each backend once');
  t.strictSame(findServiceFaults(open.kernel, { maglevSize: 16_381, garbage: false }), []);
  const numbers = (): string[] =>
    open.kernel.slots
      .rows()
      .filter(({ slot }) => slot === 0)
      .map(({ frontend, serviceId }) => `${table.keyOf(frontend)} ${serviceId}`)
      .sort();
  const before = numbers();

  const next = openServicesTable(open.maps);
  next.apply({ upserts: [testFrontend([], { port: 7 })], deletes: [] });
  t.strictSame(
    numbers().filter((line) => before.includes(line)),
    before,
    'every frontend keeps its number, and with it its affinity',
  );
  next.apply({ upserts: [], deletes: next.rows() });
  t.strictSame(open.kernel.slots.rows(), []);
  t.strictSame(open.kernel.backends.rows(), []);
  t.strictSame(open.kernel.members.rows(), []);
  t.strictSame(open.kernel.blocks.rows(), []);
});

test('services: one backend of 10,000 costs one', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const { kernel } = open;
  const table = openServicesTable(open.maps);
  const backends = Array.from({ length: 10_000 }, (_, index) => testBackend(index + 1));
  table.apply({ upserts: [testFrontend(backends)], deletes: [] });
  const before = snapshot(kernel.slots.rows());
  const changed = [...backends];
  changed[5000] = testBackend(20_000);

  const started = performance.now();
  table.apply({ upserts: [testFrontend(changed)], deletes: [] });
  t.comment(`replacing one of 10,000 took ${(performance.now() - started).toFixed(2)} ms`);
  const after = snapshot(kernel.slots.rows());
  t.equal(differences(before, after), 1, 'one slot is another');
  t.equal(kernel.backends.rows().length, 10_000);

  table.apply({ upserts: [testFrontend(changed.slice(1))], deletes: [] });
  t.equal(
    differences(after, snapshot(kernel.slots.rows())),
    3,
    'removing one: the count, its slot (now with the last one), and the last slot',
  );
});

test('services: one of 500 backends rewrites only the Maglev blocks that change', {
  skip,
}, async (t) => {
  await using open = await openTestServiceMaps();
  const { kernel } = open;
  const table = openServicesTable(open.maps);
  const backends = Array.from({ length: 500 }, (_, index) => testBackend(index + 1));
  const row = testFrontend(backends, { algorithm: 'maglev' });
  table.apply({ upserts: [row], deletes: [] });
  const blocks = (): Map<number, string> =>
    new Map(kernel.blocks.rows().map((block) => [block.block, block.backendIds.join()]));
  const before = blocks();
  t.equal(before.size, 256);

  // Marks show which blocks are written: those that are not written keep theirs.
  const marks = new Uint32Array(64).fill(7);
  kernel.blocks.upsert(kernel.blocks.rows().map((block) => ({ ...block, backendIds: marks })));
  table.apply({ upserts: [{ ...row, affinitySeconds: 5 }], deletes: [] });
  t.ok(
    [...blocks().values()].every((text) => text === marks.join()),
    'its settings are no block',
  );
  table.apply({ upserts: [{ ...row, backends: backends.slice(1) }], deletes: [] });
  const written = [...blocks()].filter(([, text]) => text !== marks.join());
  t.comment(`${written.length} of 256 blocks were written`);
  t.ok(written.length > 0 && written.length < 160);
  t.ok(
    written.every(([block, text]) => text !== before.get(block)),
    'each for a reason',
  );

  table.apply({ upserts: [{ ...row, algorithm: 'random' }], deletes: [] });
  t.equal(blocks().size, 0, 'a table that nobody uses goes');
  table.apply({ upserts: [row], deletes: [] });
  t.strictSame(findServiceFaults(kernel, { maglevSize: 16_381, garbage: false }), []);
});

test('services: another table size is adopted by the next process', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const row = testFrontend(
    [1, 2, 3].map((index) => testBackend(index)),
    { algorithm: 'maglev' },
  );
  createServicesTable(open.kernel, { maglevTableSize: 1021 }).apply({
    upserts: [row],
    deletes: [],
  });
  const next = createServicesTable(open.kernel, { maglevTableSize: 251 });
  t.equal(next.rows()[0]?.affinitySeconds, -1, 'the row is not the one that is wanted');
  next.apply({ upserts: [row], deletes: [] });
  t.strictSame(texts(next), [frontendText(row)]);
  t.strictSame(findServiceFaults(open.kernel, { maglevSize: 251, garbage: false }), []);
});

test('services: any history leaves exactly what was asked for', { skip }, async (t) => {
  await using open = await openTestServiceMaps({
    mesh_services: 128,
    mesh_backends: 128,
    mesh_affinity_members: 128,
    mesh_maglev: 128,
  });
  const { kernel } = open;
  const numbers = fc.uniqueArray(fc.integer({ min: 1, max: 8 }), { maxLength: 8 });
  const step = fc.record({
    port: fc.integer({ min: 1, max: 3 }),
    members: fc.option(numbers),
    draining: fc.uniqueArray(fc.integer({ min: 1, max: 8 }), { maxLength: 2 }),
    affinitySeconds: fc.constantFrom(0, 30),
    algorithm: fc.constantFrom('random' as const, 'maglev' as const),
    restart: fc.boolean(),
  });
  const maglevSize = 251;
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      let current = createServicesTable(kernel, { maglevTableSize: maglevSize });
      const expected = new Map<number, string>();
      for (const { port, members, draining, restart, ...settings } of steps) {
        if (restart) current = createServicesTable(kernel, { maglevTableSize: maglevSize });
        const entry = testFrontend(
          (members ?? []).map((index) => testBackend(index)),
          {
            ...settings,
            port,
            draining: draining
              .filter((index) => !members?.includes(index))
              .map((index) => testBackend(index)),
          },
        );
        if (members === null) {
          current.apply({ upserts: [], deletes: [entry] });
          expected.delete(port);
        } else {
          current.apply({ upserts: [entry], deletes: [] });
          expected.set(port, frontendText(entry));
        }
        t.strictSame(texts(current), [...expected.values()].sort());
        t.strictSame(findServiceFaults(kernel, { maglevSize, garbage: false }), []);
      }
      current.apply({ upserts: [], deletes: current.rows() });
    }),
    { numRuns: 40 },
  );
});

test('services: what a process left half written is mended', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const { kernel } = open;
  const members = [1, 2, 3, 4].map((index) => testBackend(index));
  openServicesTable(open.maps).apply({ upserts: [testFrontend(members)], deletes: [] });
  const slots = kernel.slots.rows();
  const second = slots.find(({ slot }) => slot === 2);
  kernel.slots.remove(slots.filter(({ slot }) => slot === 3));
  const id = Buffer.alloc(4);
  id.writeUInt32LE(second?.backendId ?? 0);
  deleteElement(open.maps.get('mesh_backends').fd, id);
  kernel.slots.upsert([backendSlot(testFrontend([]), 5, 77)]);
  kernel.backends.upsert([{ id: 77, backend: testBackend(77) }]);

  const table = openServicesTable(open.maps);
  t.equal(table.rows()[0]?.backends.length, 2, 'before: what a connect can find');
  // Takes the slot that is to be cleared away.
  const wanted = testFrontend([...members, testBackend(5)]);
  table.apply({ upserts: [wanted], deletes: [] });
  t.strictSame(texts(table), [frontendText(wanted)]);
  t.strictSame(findServiceFaults(kernel, { maglevSize: 16_381, garbage: false }), []);
});

test('services: a backend of the other family or without a port is named, the others written', {
  skip,
}, async (t) => {
  await using open = await openTestServiceMaps();
  const table = openServicesTable(open.maps);
  const six = { ...testBackend(1), address: parseIpAddress('fd00::9') };
  t.throws(
    () =>
      table.apply({
        upserts: [testFrontend([testBackend(1), six, testBackend(2)])],
        deletes: [],
      }),
    new DatapathError(
      'bad-row',
      'cannot give frontend TCP 172.20.0.1 80 internal of ns/name backend fd00::9 port 8080: expected IPv4 and a port from 1 to 65535',
    ),
  );
  t.strictSame(addressesOf(table.rows()[0]), ['10.0.0.1', '10.0.0.2']);
  t.throws(
    () =>
      table.apply({
        upserts: [
          testFrontend([testBackend(1)], { port: 0 }),
          testFrontend([testBackend(1), testBackend(2, { port: 65_536 })]),
        ],
        deletes: [],
      }),
    { code: 'bad-row', message: /172\.20\.0\.1 of ns\/name with port 0: .*and 1 more/ },
  );
  t.strictSame(texts(table), [frontendText(testFrontend([testBackend(1)]))]);
});

test('services: what does not fit is said, and written once there is room', { skip }, async (t) => {
  const entries = { mesh_services: 12, mesh_backends: 12 };
  await using open = await openTestServiceMaps({ ...entries, mesh_maglev: 9 });
  const maglevSize = 251;
  const table = createServicesTable(open.kernel, { maglevTableSize: maglevSize });
  const two = [testBackend(1), testBackend(2)];
  const rows = [1, 2, 3].map((port) => testFrontend(two, { port, algorithm: 'maglev' }));
  table.apply({ upserts: rows.slice(0, 2), deletes: [] });
  const [, second, third] = rows;
  if (second === undefined || third === undefined) throw new Error('three rows');
  t.throws(() => table.apply({ upserts: [third], deletes: [] }), {
    code: 'map-full',
    message: /block \d of the Maglev table of service 3 in map mesh_maglev/,
  });
  const found = table.rows().find(({ port }) => port === 3);
  t.strictSame(addressesOf(found), ['10.0.0.1', '10.0.0.2'], 'it is served, at random');
  t.equal(found?.affinitySeconds, -1, 'and is not taken for what was asked');
  t.equal(open.kernel.blocks.rows().length, 8, 'the parts of its table are gone');
  table.apply({ upserts: [], deletes: [second] });
  table.apply({ upserts: [third], deletes: [] });
  t.throws(
    () => table.apply({ upserts: [second], deletes: [] }),
    { code: 'map-full' },
    'now that one does not fit',
  );
  table.apply({ upserts: [], deletes: [second] });
  t.strictSame(
    texts(table),
    rows
      .filter(({ port }) => port !== 2)
      .map(frontendText)
      .sort(),
  );
  t.strictSame(findServiceFaults(open.kernel, { maglevSize, garbage: false }), []);

  const many = testFrontend([3, 4, 5, 6, 7, 8, 9, 10].map((index) => testBackend(index)));
  t.throws(() => table.apply({ upserts: [many], deletes: [] }), { code: 'map-full' });
  table.apply({ upserts: [], deletes: rows });
  table.apply({ upserts: [many], deletes: [] });
  t.strictSame(texts(table), [frontendText(many)], 'written whole, not only what differs');
  t.strictSame(findServiceFaults(open.kernel, { maglevSize, garbage: false }), []);
});

test('services: what others did to the maps is found and mended', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const { kernel } = open;
  const maglevSize = 251;
  const table = createServicesTable(kernel, { maglevTableSize: maglevSize });
  const udp = { protocol: 'UDP' } as const;
  const rows = [
    testFrontend([testBackend(1, udp), testBackend(2, udp)], {
      ...udp,
      draining: [testBackend(3, udp), testBackend(4, udp)],
      algorithm: 'maglev',
    }),
    testFrontend([testBackend(1)], { port: 81 }),
  ];
  table.apply({ upserts: rows, deletes: [] });
  const scanned = (): string[] => [...(table.scan?.() ?? [])].flat().map(frontendText).sort();
  t.strictSame(scanned(), rows.map(frontendText).sort());
  const [first, second] = rows;
  if (first === undefined || second === undefined) throw new Error('two rows');

  const backends = kernel.backends.rows();
  kernel.backends.remove(backends);
  kernel.members.remove(kernel.members.rows());
  kernel.slots.remove([{ frontend: first, slot: 2 }]);
  t.strictSame(
    scanned(),
    rows.map((row) => frontendText({ ...row, backends: [], draining: [] })).sort(),
  );
  kernel.slots.remove([{ frontend: second, slot: 0 }]);
  const intruder = testFrontend([], { port: 90 });
  const [head] = kernel.slots.rows().filter(({ slot }) => slot === 0);
  if (head === undefined) throw new Error('a row');
  kernel.slots.upsert([{ ...head, frontend: intruder, count: 0, serviceId: 99 }]);
  t.equal(scanned().length, 2, 'one is missing, one is too many');
  table.apply({ upserts: rows, deletes: [intruder] });
  t.strictSame(scanned(), rows.map(frontendText).sort());
  t.strictSame(texts(table), rows.map(frontendText).sort());
  t.strictSame(findServiceFaults(kernel, { maglevSize, garbage: false }), []);
});

test('services: backends that a frontend has lost are told once', { skip }, async (t) => {
  await using open = await openTestServiceMaps();
  const table = openServicesTable(open.maps);
  const [one, two, three] = [1, 2, 3].map((index) => testBackend(index));
  if (one === undefined || two === undefined || three === undefined) throw new Error('three');
  const frontend = table.keyOf(testFrontend([]));
  const lost = (): string[] =>
    table
      .takeLost()
      .map((loss) => `${loss.frontend}: ${loss.backend}`)
      .sort();
  table.apply({ upserts: [testFrontend([one, two])], deletes: [] });
  t.strictSame(lost(), []);
  table.apply({ upserts: [testFrontend([one], { draining: [two] })], deletes: [] });
  t.strictSame(lost(), [], 'one that is on its way out is there');
  t.strictSame(
    [...table.socketNames(frontend)].sort(),
    ['TCP 10.0.0.1 8080', 'TCP 10.0.0.2 8080'],
    'both',
  );
  table.apply({ upserts: [testFrontend([three])], deletes: [] });
  t.strictSame(lost(), [`${frontend}: TCP 10.0.0.1 8080`, `${frontend}: TCP 10.0.0.2 8080`]);
  t.strictSame(lost(), []);
  const next = openServicesTable(open.maps);
  next.apply({ upserts: [], deletes: [testFrontend([])] });
  t.strictSame(next.takeLost(), [{ frontend, backend: 'TCP 10.0.0.3 8080' }], 'after a restart');
  t.equal(next.socketNames(frontend).size, 0);
});

function snapshot(
  rows: readonly { slot: number; count: number; backendId: number }[],
): Map<number, string> {
  return new Map(rows.map(({ slot, count, backendId }) => [slot, `${count} ${backendId}`]));
}

function differences(before: Map<number, string>, after: Map<number, string>): number {
  const keys = new Set([...before.keys(), ...after.keys()]);
  return [...keys].filter((key) => before.get(key) !== after.get(key)).length;
}
