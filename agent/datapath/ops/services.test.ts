import { join } from 'node:path';
import fc from 'fast-check';
import { test } from 'tap';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import { deleteElement } from '../bpf.ts';
import { DatapathError } from '../datapath-error.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import { createRowMap } from '../map.ts';
import { loadObjects } from '../object.ts';
import { kernelSkipReason, OBJECT_DIR, openTestBpffs } from '../testing/bpffs.ts';
import { backendCodec, slotCodec } from './service-map.ts';
import { openServicesTable } from './services.ts';

const skip = kernelSkipReason();
const FRONTEND = parseIpAddress('172.20.0.1');

async function openServiceMaps() {
  const bpffs = await openTestBpffs('services');
  const objects = loadObjects([join(OBJECT_DIR, 'mesh_socket.bpf.o')], {
    pinFolder: join(bpffs.path, 'maps'),
    mapSizes: { mesh_translations: 64, mesh_choices: 64 },
  });
  const { maps } = objects;
  return {
    maps,
    slots: createRowMap(maps.get('mesh_services'), slotCodec),
    backends: createRowMap(maps.get('mesh_backends'), backendCodec),
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
    },
  };
}

function backend(index: number, fields: Partial<Backend> = {}): Backend {
  const address = parseIpAddress(`10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`);
  return { address, port: 8080, protocol: 'TCP', clusterId: 1, ...fields };
}

function frontend(
  backends: readonly Backend[],
  address: IpAddress = FRONTEND,
  port = 80,
): FrontendEntry {
  return { address, port, protocol: 'TCP', backends, service: 'ns/name' };
}

const addressesOf = (row: FrontendEntry | undefined): string[] =>
  (row?.backends ?? []).map(({ address }) => address).sort();

test('services: rows come back, adopted by the next process', { skip }, async (t) => {
  await using open = await openServiceMaps();
  const table = openServicesTable(open.maps);
  const six = parseIpAddress('fd00::1');
  table.apply({
    upserts: [
      frontend([backend(1), backend(2), backend(2), backend(3, { clusterId: 2 })]),
      frontend([], parseIpAddress('172.20.0.2')),
      { ...frontend([backend(1, { protocol: 'UDP' })]), protocol: 'UDP' },
      frontend(
        [{ address: parseIpAddress('fd02::7'), port: 1, protocol: 'TCP', clusterId: 3 }],
        six,
      ),
    ],
    deletes: [],
  });
  const rows = table.rows();
  t.equal(rows.length, 4);
  t.strictSame(
    rows.find((row) => table.keyOf(row) === table.keyOf(frontend([]))),
    { ...frontend([backend(1), backend(2), backend(3, { clusterId: 2 })]), service: '' },
  );
  t.equal(open.backends.rows().length, 5, 'each backend once');

  const next = openServicesTable(open.maps);
  next.apply({ upserts: [], deletes: rows });
  t.strictSame(open.slots.rows(), []);
  t.strictSame(open.backends.rows(), []);
});

test('services: one backend of 10,000 costs one', { skip }, async (t) => {
  await using open = await openServiceMaps();
  const table = openServicesTable(open.maps);
  const backends = Array.from({ length: 10_000 }, (_, index) => backend(index + 1));
  table.apply({ upserts: [frontend(backends)], deletes: [] });
  const before = snapshot(open.slots.rows());
  const changed = [...backends];
  changed[5000] = backend(20_000);

  const started = performance.now();
  table.apply({ upserts: [frontend(changed)], deletes: [] });
  t.comment(`replacing one of 10,000 took ${(performance.now() - started).toFixed(2)} ms`);
  const after = snapshot(open.slots.rows());
  t.equal(differences(before, after), 1, 'one slot is another');
  t.equal(open.backends.rows().length, 10_000);

  table.apply({ upserts: [frontend(changed.slice(1))], deletes: [] });
  t.equal(
    differences(after, snapshot(open.slots.rows())),
    3,
    'removing one: the count, its slot (now with the last one), and the last slot',
  );
});

test('services: any history leaves exactly what was asked for', { skip }, async (t) => {
  await using open = await openServiceMaps();
  const step = fc.record({
    port: fc.integer({ min: 1, max: 3 }),
    members: fc.option(fc.uniqueArray(fc.integer({ min: 1, max: 8 }), { maxLength: 8 })),
    restart: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), (steps) => {
      let current = openServicesTable(open.maps);
      const expected = new Map<number, string[]>();
      for (const { port, members, restart } of steps) {
        if (restart) current = openServicesTable(open.maps);
        const entry = frontend(
          (members ?? []).map((index) => backend(index)),
          FRONTEND,
          port,
        );
        if (members === null) {
          current.apply({ upserts: [], deletes: [entry] });
          expected.delete(port);
        } else {
          current.apply({ upserts: [entry], deletes: [] });
          expected.set(port, addressesOf(entry));
        }
        const rows = current.rows();
        t.equal(rows.length, expected.size);
        for (const row of rows) t.strictSame(addressesOf(row), expected.get(row.port));
        const used = new Set([...expected.values()].flat());
        t.equal(open.backends.rows().length, used.size, 'no backend is left over');
        const slots = [...expected.values()].reduce((sum, list) => sum + list.length + 1, 0);
        t.equal(open.slots.rows().length, slots, 'no slot is left over');
      }
      current.apply({ upserts: [], deletes: current.rows() });
    }),
    { numRuns: 60 },
  );
});

test('services: what a process left half written is mended', { skip }, async (t) => {
  await using open = await openServiceMaps();
  const members = [1, 2, 3, 4].map((index) => backend(index));
  openServicesTable(open.maps).apply({ upserts: [frontend(members)], deletes: [] });
  const slots = open.slots.rows();
  const second = slots.find(({ slot }) => slot === 2);
  open.slots.remove(slots.filter(({ slot }) => slot === 3));
  const id = Buffer.alloc(4);
  id.writeUInt32LE(second?.backendId ?? 0);
  deleteElement(open.maps.get('mesh_backends').fd, id);
  open.slots.upsert([{ frontend: frontend([]), slot: 9, count: 0, backendId: 77 }]);
  open.backends.upsert([{ id: 77, backend: backend(77) }]);

  const table = openServicesTable(open.maps);
  t.equal(table.rows()[0]?.backends.length, 2, 'before: what a connect can find');
  table.apply({ upserts: [frontend(members)], deletes: [] });
  t.strictSame(addressesOf(table.rows()[0]), addressesOf(frontend(members)));
  t.equal(open.slots.rows().length, 5, 'the slot beyond the end is gone');
  t.equal(open.backends.rows().length, 4, 'the backend that nobody names is gone');
});

test('services: a backend of the other family is named, the others written', {
  skip,
}, async (t) => {
  await using open = await openServiceMaps();
  const table = openServicesTable(open.maps);
  const six = { ...backend(1), address: parseIpAddress('fd00::9') };
  t.throws(
    () => table.apply({ upserts: [frontend([backend(1), six, backend(2)])], deletes: [] }),
    new DatapathError(
      'bad-row',
      'cannot give frontend TCP 172.20.0.1 80 of ns/name backend fd00::9: expected IPv4',
    ),
  );
  t.strictSame(addressesOf(table.rows()[0]), ['10.0.0.1', '10.0.0.2']);
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
