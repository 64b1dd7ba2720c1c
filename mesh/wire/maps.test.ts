import fc from 'fast-check';
import { test } from 'tap';
import { parseIpAddress, parseIpPrefix } from './ip.ts';
import {
  ADDRESS_SIZE,
  protocolName,
  protocolNumber,
  readAddress,
  writeAddress,
  writeIpv4,
} from './maps.ts';

test('writeAddress() and readAddress() are inverse', (t) => {
  const address = fc.oneof(fc.ipV4(), fc.ipV6()).map(parseIpAddress);
  fc.assert(
    fc.property(address, fc.nat(8), (ip, offset) => {
      const view = new DataView(new ArrayBuffer(ADDRESS_SIZE + 8));
      writeAddress(view, offset, ip);
      t.equal(readAddress(view, offset), ip);
    }),
  );
  t.end();
});

test('writeAddress() writes IPv4 in its mapped form', (t) => {
  const view = new DataView(new ArrayBuffer(ADDRESS_SIZE));
  writeAddress(view, 0, parseIpAddress('192.0.2.1'));
  t.equal(Buffer.from(view.buffer).toString('hex'), '00000000000000000000ffffc0000201');
  t.end();
});

test('writeIpv4() takes an address and a prefix', (t) => {
  for (const text of [parseIpAddress('10.20.0.255'), parseIpPrefix('10.20.0.255/32')]) {
    const view = new DataView(new ArrayBuffer(4));
    writeIpv4(view, 0, text);
    t.equal(view.getUint32(0), 0x0a1400ff);
  }
  t.end();
});

test('protocolName() and protocolNumber() are inverse', (t) => {
  for (const name of ['TCP', 'UDP', 'SCTP'] as const)
    t.equal(protocolName(protocolNumber(name)), name);
  t.equal(protocolName(1), undefined);
  t.end();
});
