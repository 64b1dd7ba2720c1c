import fc from 'fast-check';
import { test } from 'tap';
import {
  ipFamily,
  ipFromBytes,
  ipToBytes,
  makePrefix,
  parseIpAddress,
  parseIpPrefix,
  prefixContains,
  splitPrefix,
} from './ip.ts';
import { refusalOf } from './testing/refusal.ts';

test('an address has one text', async (t) => {
  const cases: readonly (readonly [string, string])[] = [
    ['0.0.0.0', '0.0.0.0'],
    ['255.255.255.255', '255.255.255.255'],
    ['::', '::'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['2001:DB8::000A', '2001:db8::a'],
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'],
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'],
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'],
    ['1:2:3:4:5:6:7::', '1:2:3:4:5:6:7:0'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:c000:201', '192.0.2.1'],
    ['::1.2.3.4', '::102:304'],
    ['64:ff9b::192.0.2.1', '64:ff9b::c000:201'],
    ['::ffff:0:192.0.2.1', '::ffff:0:c000:201'],
  ];
  for (const [text, canonical] of cases) t.equal(parseIpAddress(text), canonical, text);
});

test('what is no address is refused', async (t) => {
  const texts = [
    '',
    ' ',
    '1',
    '1.2.3',
    '1.2.3.4.5',
    '256.0.0.1',
    '01.2.3.4',
    '1.2.3.4 ',
    '0x7f.0.0.1',
    '1.2.3.4/32',
    ':',
    ':::',
    ':1',
    '1:',
    '1::2::3',
    '12345::',
    'g::',
    '1:2:3:4:5:6:7',
    '1:2:3:4:5:6:7:8:9',
    '1:2:3:4:5:6:7:8::',
    'fe80::1%eth0',
    '::1/128',
    '[::1]',
    '::ffff:010.0.0.1',
    '::ffff:0x7f.0.0.1',
    '::ffff:256.0.0.1',
    '::ffff:1.2.3',
    '::1.2.3.4:5',
    '1:2:3:4:5:6:7:1.2.3.4',
    '1.2.3.4::',
    'localhost',
    '1.2.3.4\n',
  ];
  for (const value of [...texts, null, undefined, 7, {}, ['1.2.3.4']]) {
    const error = refusalOf(() => parseIpAddress(value));
    t.equal(error.code, 'bad-value', JSON.stringify(value));
    t.match(error.message, /expected an IPv4 or IPv6 address/);
  }
  t.match(refusalOf(() => parseIpAddress('')).message, /cannot parse an empty string/);
  t.match(refusalOf(() => parseIpAddress('1.2.3')).message, /cannot parse "1\.2\.3":/);
});

test('texts agree with those of the URL standard', async (t) => {
  const groups = fc.uint8Array({ minLength: 16, maxLength: 16 });
  const sparse = fc.array(fc.constantFrom(0, 0, 0, 1), { minLength: 16, maxLength: 16 });
  fc.assert(
    fc.property(fc.oneof(groups, sparse), (bytes) => {
      const text = Buffer.from(bytes).toString('hex').match(/..../g)!.join(':');
      return `[${parseIpAddress(text)}]` === new URL(`http://[${text}]/`).hostname;
    }),
    { numRuns: 1000 },
  );
  t.pass();
});

test('bytes and text are two forms of one address', async (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (text) => {
      const address = parseIpAddress(text);
      const bytes = ipToBytes(address);
      return (
        bytes.length === (ipFamily(address) === 4 ? 4 : 16) &&
        ipFromBytes(bytes) === address &&
        parseIpAddress(address) === address
      );
    }),
    { numRuns: 1000 },
  );
  t.same([...ipToBytes(parseIpAddress('192.0.2.1'))], [192, 0, 2, 1]);
  t.equal(ipFromBytes(Buffer.from('00000000000000000000ffffc0000201', 'hex')), '192.0.2.1');
  for (const length of [0, 3, 5, 15, 17]) {
    t.match(refusalOf(() => ipFromBytes(new Uint8Array(length))).message, /expected 4 or 16/);
  }
});

test('a prefix has its host bits cleared', async (t) => {
  const cases: readonly (readonly [string, string])[] = [
    ['10.1.2.3/16', '10.1.0.0/16'],
    ['10.1.2.3/0', '0.0.0.0/0'],
    ['10.1.2.255/25', '10.1.2.128/25'],
    ['10.1.2.3/31', '10.1.2.2/31'],
    ['10.1.2.3/32', '10.1.2.3/32'],
    ['10.1.2.3', '10.1.2.3/32'],
    ['2001:db8::1', '2001:db8::1/128'],
    ['2001:db8::1/127', '2001:db8::/127'],
    ['2001:db8:ffff::/33', '2001:db8:8000::/33'],
    ['ffff::/1', '8000::/1'],
    ['2001:db8::1/0', '::/0'],
    ['::ffff:192.0.2.1', '192.0.2.1/32'],
  ];
  for (const [text, canonical] of cases) t.equal(parseIpPrefix(text), canonical, text);
});

test('what is no prefix is refused', async (t) => {
  const cases: readonly (readonly [unknown, RegExp])[] = [
    ['10.0.0.0/33', /expected a length of 0 to 32/],
    ['2001:db8::/129', /expected a length of 0 to 128/],
    ['10.0.0.0/', /expected a prefix length behind/],
    ['10.0.0.0/-1', /expected a prefix length behind/],
    ['10.0.0.0/08', /expected a prefix length behind/],
    ['10.0.0.0/1e1', /expected a prefix length behind/],
    ['10.0.0.0/8/8', /expected a prefix length behind/],
    ['/8', /cannot parse an empty string/],
    ['', /cannot parse an empty string/],
    [null, /cannot parse null: expected a prefix such as/],
    [{ IP: '10.0.0.0' }, /cannot parse an object: expected a prefix/],
  ];
  for (const [value, message] of cases)
    t.match(refusalOf(() => parseIpPrefix(value)).message, message);
  const address = parseIpAddress('10.0.0.1');
  for (const length of [-1, 33, 1.5, Number.NaN]) {
    t.match(refusalOf(() => makePrefix(address, length)).message, /expected a length of 0 to 32/);
  }
});

test('prefixes are split and contain their addresses', async (t) => {
  t.same(splitPrefix(parseIpPrefix('2001:db8::/48')), { address: '2001:db8::', length: 48 });
  const contains = (prefix: string, ip: string) =>
    prefixContains(parseIpPrefix(prefix), parseIpAddress(ip));
  t.ok(contains('10.1.0.0/16', '10.1.255.255'));
  t.notOk(contains('10.1.0.0/16', '10.2.0.0'));
  t.ok(contains('0.0.0.0/0', '255.0.0.1'));
  t.notOk(contains('0.0.0.0/0', '::'), 'another family');
  t.ok(contains('2001:db8::/33', '2001:db8:7fff::1'));
  t.notOk(contains('2001:db8::/33', '2001:db8:8000::1'));
  t.equal(ipFamily(parseIpPrefix('::/0')), 6);
});
