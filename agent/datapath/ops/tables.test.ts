import { join } from 'node:path';
import { test } from 'tap';
import { parseNumericIdentity } from '../../../mesh/wire/ids.ts';
import { parseIpAddress, parseIpPrefix } from '../../../mesh/wire/ip.ts';
import { DatapathError } from '../datapath-error.ts';
import { type IpcacheEntry, KNOWN_TO, type PolicyEntry } from '../desired.ts';
import { loadObjects, type MapSizes } from '../object.ts';
import { kernelSkipReason, openTestBpffs, TEST_OBJECTS } from '../testing/bpffs.ts';
import { testEndpoint, testPolicy, testPrefix } from '../testing/program-run.ts';
import { openEndpointsTable } from './endpoints.ts';
import { openIpcacheTable } from './ipcache.ts';
import { openPolicyTable } from './policy.ts';

const skip = kernelSkipReason();

async function openMaps(mapSizes: MapSizes = {}) {
  const bpffs = await openTestBpffs('tables');
  const objects = loadObjects(TEST_OBJECTS, {
    pinFolder: join(bpffs.path, 'maps'),
    mapSizes: { mesh_ct: 1024, ...mapSizes },
  });
  return {
    maps: objects.maps,
    async [Symbol.asyncDispose]() {
      objects[Symbol.dispose]();
      await bpffs[Symbol.asyncDispose]();
    },
  };
}

const byPrefix = (a: IpcacheEntry, b: IpcacheEntry): number => a.prefix.localeCompare(b.prefix);

test('ipcache: rows come back as they were written', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openIpcacheTable(open.maps);
  const rows = [
    testPrefix('0.0.0.0/0', 2),
    testPrefix('10.2.0.7/32', 0x20001, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
    testPrefix('10.2.0.8/32', 0xffffff, { tunnelEndpoint: 'fd00::2', clusterId: 511 }),
    testPrefix('::/0', 2),
    testPrefix('fd02::/64', 0x20002, { tunnelEndpoint: '192.0.2.2', clusterId: 2 }),
    testPrefix('fd02::7/128', 6),
  ].sort(byPrefix);
  table.apply({ upserts: rows, deletes: [] });
  t.strictSame(table.rows().sort(byPrefix), rows);
  table.apply({ upserts: rows, deletes: [] });
  t.strictSame(table.rows().length, rows.length, 'applying again changes nothing');

  const moved = testPrefix('10.2.0.7/32', 0x20009, { clusterId: 2 });
  table.apply({ upserts: [moved], deletes: [] });
  t.strictSame(
    table.rows().find(({ prefix }) => prefix === moved.prefix),
    moved,
    'an upsert replaces the whole row',
  );
  const missing = testPrefix('10.99.0.0/16', 2);
  table.apply({ upserts: [], deletes: [missing, ...rows.slice(0, 2), missing, ...rows.slice(2)] });
  t.strictSame(table.rows(), [], 'deletes go on behind keys that are not there');
});

test('ipcache: 100,000 rows in batches', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openIpcacheTable(open.maps);
  const rows: IpcacheEntry[] = [];
  const tunnelEndpoint = parseIpAddress('192.0.2.2');
  for (let index = 0; index < 100_000; index += 1) {
    rows.push({
      prefix: parseIpPrefix(`10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`),
      identity: parseNumericIdentity(0x20000 + (index % 1000)),
      tunnelEndpoint,
      clusterId: 2,
    });
  }
  const started = performance.now();
  table.apply({ upserts: rows, deletes: [] });
  const written = performance.now();
  const read = table.rows();
  t.comment(
    `write ${(written - started).toFixed()} ms, read ${(performance.now() - written).toFixed()} ms`,
  );
  t.equal(read.length, rows.length);
  table.apply({ upserts: [], deletes: rows.slice(1) });
  t.strictSame(table.rows(), rows.slice(0, 1));
});

test('ipcache: a full map is said, and the other rows are tried', { skip }, async (t) => {
  await using open = await openMaps({ mesh_ipcache4: 2 });
  const table = openIpcacheTable(open.maps);
  const rows = ['10.0.0.1/32', '10.0.0.2/32', '10.0.0.3/32', '10.0.0.4/32', 'fd00::1/128'];
  const error = catchDatapathError(() =>
    table.apply({ upserts: rows.map((prefix) => testPrefix(prefix, 2)), deletes: [] }),
  );
  t.equal(error.code, 'map-full');
  t.equal(error.retryable, true);
  t.match(
    error.message,
    /10\.0\.0\.3\/32 in map mesh_ipcache4: the map is full with its 2 entries/,
  );
  t.match(error.message, /1 more rows failed/);
  t.equal(table.rows().length, 3, 'two of IPv4, and the one of IPv6 behind the failures');
});

test('endpoints: one row has several addresses', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openEndpointsTable(open.maps);
  const four = parseIpAddress('10.1.0.2');
  const six = parseIpAddress('fd01::2');
  const row = testEndpoint(7, '10.1.0.2', {
    addresses: [four, six],
    hostInterface: 'veth-very-long1',
    egressEnforced: true,
    audit: true,
  });
  table.apply({ upserts: [row, testEndpoint(8, '10.1.0.3')], deletes: [] });
  t.strictSame(
    table.rows().find(({ endpointId }) => endpointId === 7),
    row,
  );
  table.apply({ upserts: [{ ...row, addresses: [six] }], deletes: [] });
  t.strictSame(
    table.rows().find(({ endpointId }) => endpointId === 7)?.addresses,
    [six],
    'an address that is not given again goes',
  );

  const successor = openEndpointsTable(open.maps);
  successor.apply({ upserts: [{ ...row, addresses: [four] }], deletes: [] });
  t.strictSame(
    successor.rows().find(({ endpointId }) => endpointId === 7)?.addresses,
    [four],
    'also one that an earlier process wrote',
  );
  successor.apply({
    upserts: [testEndpoint(9, '10.1.0.2')],
    deletes: [{ endpointId: 7, addresses: [four] }],
  });
  t.strictSame(
    successor
      .rows()
      .map(({ endpointId }) => endpointId)
      .sort(),
    [8, 9],
    'deleting an endpoint leaves an address that another one has taken over',
  );
});

test('endpoints: bad rows are named, good ones written', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openEndpointsTable(open.maps);
  const cases: [Partial<ReturnType<typeof testEndpoint>>, RegExp][] = [
    [{ mac: 'nonsense' }, /endpoint 1: mac nonsense is not of the form/],
    [{ endpointId: 65536 }, /endpoint 65536: expected an id of 1 to 65535/],
    [{ hostInterface: 'a-name-that-is-16' }, /interface name a-name-that-is-16 is longer/],
  ];
  for (const [fields, message] of cases) {
    const error = catchDatapathError(() =>
      table.apply({
        upserts: [testEndpoint(1, '10.1.0.1', fields), testEndpoint(2, '10.1.0.2')],
        deletes: [],
      }),
    );
    t.equal(error.code, 'bad-row');
    t.match(error.message, message);
    t.strictSame(
      table.rows().map(({ endpointId }) => endpointId),
      [2],
    );
  }
});

test('policy: rows come back as they were written', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openPolicyTable(open.maps);
  const rows: PolicyEntry[] = [
    testPolicy(1, 0),
    testPolicy(1, 0x20001, { verdict: 'deny' }),
    testPolicy(1, 0x20001, { protocol: 6 }),
    testPolicy(1, 0x20001, { protocol: 6, port: 80, portPrefixBits: 16 }),
    testPolicy(1, 0x20001, { protocol: 6, port: 0x8000, portPrefixBits: 1, direction: 'egress' }),
    testPolicy(65535, 0xffffffff, { protocol: 255, port: 65535, portPrefixBits: 16 }),
    testPolicy(2, 0, { knownOnly: true }),
    testPolicy(KNOWN_TO, 0x20001),
  ];
  table.apply({ upserts: rows, deletes: [] });
  const byKey = (a: PolicyEntry, b: PolicyEntry): number =>
    table.keyOf(a).localeCompare(table.keyOf(b));
  t.strictSame(table.rows().sort(byKey), [...rows].sort(byKey));
  table.apply({ upserts: [], deletes: [testPolicy(1, 99), ...rows] });
  t.strictSame(table.rows(), []);

  t.equal(
    table.keyOf(testPolicy(1, 2, { protocol: 6, port: 81, portPrefixBits: 12 })),
    table.keyOf(testPolicy(1, 2, { protocol: 6, port: 95, portPrefixBits: 12 })),
    'ports that differ beyond the prefix are one row',
  );
});

test('policy: bad rows are named', { skip }, async (t) => {
  await using open = await openMaps();
  const table = openPolicyTable(open.maps);
  const cases: [Partial<PolicyEntry>, RegExp][] = [
    [{ endpointId: -1 }, /endpointId must be/],
    [{ protocol: 256 }, /protocol must be/],
    [{ protocol: 0, port: 80, portPrefixBits: 16 }, /a port needs a protocol/],
    [{ protocol: 6, portPrefixBits: 17 }, /portPrefixBits must be/],
    [{ protocol: 6, port: 65536, portPrefixBits: 16 }, /port must be/],
    [{ identity: -1 }, /identity must/],
  ];
  for (const [fields, message] of cases) {
    const error = catchDatapathError(() =>
      table.apply({ upserts: [testPolicy(1, 2, fields), testPolicy(1, 3)], deletes: [] }),
    );
    t.equal(error.code, 'bad-row');
    t.match(error.message, message);
    t.strictSame(table.rows(), [testPolicy(1, 3)]);
  }
});

function catchDatapathError(action: () => void): DatapathError {
  try {
    action();
  } catch (error) {
    if (error instanceof DatapathError) return error;
    throw error;
  }
  throw new Error('expected a DatapathError');
}
