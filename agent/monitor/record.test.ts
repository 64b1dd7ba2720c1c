import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { EVENT, SERVICE_EVENT, writeAddress } from '../../mesh/wire/maps.ts';
import { decodeRecord, splitRecords } from './record.ts';

const { fields } = EVENT;

/** A record with a different value in each field. */
function packetRecord(): Buffer {
  const bytes = Buffer.alloc(EVENT.size, 0xee);
  bytes.writeBigUInt64LE(123_456_789n, fields.timestampNs);
  bytes.writeUInt8(1, fields.kind);
  bytes.writeUInt8(133, fields.reason);
  bytes.writeUInt8(1, fields.direction);
  bytes.writeUInt8(3, fields.state);
  bytes.writeUInt32LE(11, fields.ifindex);
  bytes.writeUInt32LE(65_837, fields.sourceIdentity);
  bytes.writeUInt32LE(131_372, fields.destinationIdentity);
  bytes.writeUInt32LE(1500, fields.length);
  bytes.writeUInt16LE(7, fields.endpointId);
  bytes.writeUInt16LE(3, fields.captured);
  bytes.write('abc', fields.packet);
  return bytes;
}

function serviceRecord(): Buffer {
  const at = SERVICE_EVENT.fields;
  const bytes = Buffer.alloc(SERVICE_EVENT.size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  bytes.writeBigUInt64LE(5n, at.timestampNs);
  bytes.writeUInt8(3, at.kind);
  bytes.writeUInt8(3, at.reason);
  bytes.writeUInt8(1, at.direction);
  bytes.writeUInt8(6, at.protocol);
  bytes.writeUInt16BE(80, at.frontendPort);
  bytes.writeUInt16BE(8080, at.backendPort);
  writeAddress(view, at.frontend, parseIpAddress('10.96.0.1'));
  writeAddress(view, at.backend, parseIpAddress('fd02::5'));
  bytes.writeBigUInt64LE(1n << 40n, at.cookie);
  bytes.writeUInt16LE(2, at.clusterId);
  return bytes;
}

test('decodeRecord() reads every field of a packet event', (t) => {
  t.same(decodeRecord(packetRecord()), {
    kind: 'drop',
    timestampNs: 123_456_789n,
    reason: 133,
    direction: 'egress',
    state: 'reply',
    ifindex: 11,
    sourceIdentity: 65_837,
    destinationIdentity: 131_372,
    length: 1500,
    endpointId: 7,
    packet: Buffer.from('abc'),
  });
  const more = packetRecord();
  more.writeUInt16LE(60_000, fields.captured);
  more.writeUInt8(9, fields.state);
  const record = decodeRecord(more);
  t.match(record, { state: 'unknown' }, 'a state of a newer program');
  t.equal(record.kind === 'drop' && record.packet.length, 128, 'no more than there is');
  t.end();
});

test('decodeRecord() reads every field of a service event', (t) => {
  const expected = {
    kind: 'service',
    timestampNs: 5n,
    reason: 3,
    direction: 'egress',
    protocol: 'TCP',
    frontend: { address: '10.96.0.1', port: 80 },
    backend: { address: 'fd02::5', port: 8080, clusterId: 2 },
    cookie: 1n << 40n,
  };
  t.same(decodeRecord(serviceRecord()), expected);
  const refused = serviceRecord();
  refused.fill(0, SERVICE_EVENT.fields.backend, SERVICE_EVENT.fields.cookie);
  refused.writeUInt16BE(0, SERVICE_EVENT.fields.backendPort);
  t.same(decodeRecord(refused), { ...expected, backend: undefined });
  t.end();
});

test('decodeRecord() refuses what no program of ours writes, and every part of a record', (t) => {
  for (const whole of [packetRecord(), serviceRecord()]) {
    for (let length = 0; length < whole.length; length += 1) {
      t.throws(() => decodeRecord(whole.subarray(0, length)), {
        code: 'bad-record',
        message: new RegExp(`${length} bytes, expected \\d+`),
      });
    }
  }
  const change = (bytes: Buffer, offset: number): Buffer => {
    bytes.writeUInt8(99, offset);
    return bytes;
  };
  t.throws(() => decodeRecord(change(packetRecord(), fields.kind)), {
    code: 'bad-record',
    message: 'cannot read an event of kind 99: expected 1 to 4',
  });
  t.throws(() => decodeRecord(change(packetRecord(), fields.direction)), { code: 'bad-record' });
  t.throws(() => decodeRecord(change(serviceRecord(), SERVICE_EVENT.fields.protocol)), {
    code: 'bad-record',
    message: /protocol 99 of a service event/,
  });
  t.end();
});

test('splitRecords() splits a batch, and says where it is cut off', (t) => {
  const batch = Buffer.concat(
    ['one', 'three'].flatMap((text) => [Buffer.from([text.length, 0, 0, 0]), Buffer.from(text)]),
  );
  t.same(
    [...splitRecords(batch)].map((bytes) => Buffer.from(bytes).toString()),
    ['one', 'three'],
  );
  t.same([...splitRecords(new Uint8Array())], []);
  for (let length = 1; length < batch.length; length += 1) {
    const part = batch.subarray(0, length);
    if (length === 7) t.equal([...splitRecords(part)].length, 1);
    else t.throws(() => [...splitRecords(part)], { code: 'bad-record' }, `${length} bytes`);
  }
  t.end();
});
