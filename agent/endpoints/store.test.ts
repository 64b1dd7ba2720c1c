import { mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { decodeRecord, type EndpointRecord, encodeRecord } from './record.ts';
import { openEndpointStore } from './store.ts';

const record: EndpointRecord = {
  endpointId: 7,
  containerId: 'c1',
  ifName: 'eth0',
  network: 'lab',
  netns: '/run/netns/c1',
  addresses: [parseIpAddress('10.1.0.5'), parseIpAddress('fd00::5')],
  hostInterface: 'veth1',
  ifindex: 12,
  mac: '02:00:00:00:00:01',
  podNamespace: 'demo',
  podName: 'web-0',
  origin: 'runtime',
};

test('what is saved is loaded, what is removed is not', async (t) => {
  await using dir = await openTempDir('store');
  const store = openEndpointStore(dir.path);
  store.save(record);
  store.save({ ...record, endpointId: 8 });
  t.same(openEndpointStore(dir.path).load(), {
    records: [record, { ...record, endpointId: 8 }],
    unreadable: new Map(),
  });
  store.remove(8);
  store.remove(8);
  t.same(store.load().records, [record]);
  t.equal(statSync(dir.file('endpoints', '7.json')).mode & 0o777, 0o600);
  t.same(readdirSync(dir.file('endpoints')), ['7.json'], 'no draft is left');
});

test('a file that cannot be read is told by its number, and stops no other', async (t) => {
  await using dir = await openTempDir('store');
  const store = openEndpointStore(dir.path);
  store.save(record);
  const files: Record<string, string> = {
    '8.json': '{"schema":1',
    '9.json': encodeRecord(record),
    '10.json': encodeRecord({ ...record, endpointId: 10 }).replace('"schema": 1', '"schema": 2'),
    '11.json.tmp': 'a draft of a crash',
    'notes.txt': 'x',
  };
  for (const [name, content] of Object.entries(files))
    writeFileSync(dir.file('endpoints', name), content);
  const { records, unreadable } = store.load();
  t.same(records, [record]);
  t.same([...unreadable.keys()].sort(), [10, 8, 9]);
  t.match(unreadable.get(8), /8\.json: it is not JSON/);
  t.match(unreadable.get(9), /it holds endpoint 7/);
  t.match(unreadable.get(10), /schema 2, expected 1/);
});

test('a state directory that cannot be made is one clear error', async (t) => {
  await using dir = await openTempDir('store');
  writeFileSync(dir.file('file'), '');
  t.throws(() => openEndpointStore(dir.file('file')), {
    code: 'state-dir',
    message: /give --state-dir a folder/,
  });
  mkdirSync(dir.file('endpoints'));
});

test('every prefix of a record is refused, and each field that is wrong is named', async (t) => {
  const text = encodeRecord(record).trimEnd();
  for (let length = 0; length < text.length; length += 1) {
    t.throws(() => decodeRecord(text.slice(0, length), 'f'), { code: 'state-dir' });
  }
  const broken: readonly [field: string, value: unknown][] = [
    ['endpointId', 0],
    ['endpointId', 65_536],
    ['containerId', 1],
    ['addresses', []],
    ['addresses', ['10.1.0']],
    ['ifindex', 1.5],
    ['mac', null],
  ];
  for (const [field, value] of broken) {
    const content = JSON.stringify({ schema: 1, ...record, [field]: value });
    t.throws(() => decodeRecord(content, 'f'), {
      code: 'state-dir',
      message: new RegExp(`f: field ${field}`),
    });
  }
});

test('a record of a version that knew no origin is one of the runtime', async (t) => {
  const { origin: _, ...old } = record;
  t.same(decodeRecord(JSON.stringify({ schema: 1, ...old }), 'f'), record);
});
