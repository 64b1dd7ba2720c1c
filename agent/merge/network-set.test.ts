import { test } from 'tap';
import { parseIpPrefix, prefixContains, splitPrefix } from '../../mesh/wire/ip.ts';
import { createNetworkSet } from './network-set.ts';

const prefixes = (...texts: string[]) => texts.map(parseIpPrefix);

test('createNetworkSet() finds the networks that cover another, widest first', (t) => {
  const set = createNetworkSet(prefixes('10.1.0.0/16', '10.1.2.0/24', '10.1.2.7', 'fd01::/48'));
  const covering = (text: string) => set.covering(parseIpPrefix(text));
  t.strictSame(covering('10.1.2.7'), prefixes('10.1.0.0/16', '10.1.2.0/24', '10.1.2.7'));
  t.strictSame(covering('10.1.2.0/25'), prefixes('10.1.0.0/16', '10.1.2.0/24'));
  t.strictSame(covering('10.1.0.0/16'), prefixes('10.1.0.0/16'), 'a member covers itself');
  t.strictSame(covering('10.0.0.0/8'), [], 'not what contains members');
  t.strictSame(covering('fd01:0:0:9::1'), prefixes('fd01::/48'));
  t.strictSame(covering('10.2.0.1'), []);
  t.equal(set.covers(parseIpPrefix('10.1.9.9')), true);
  t.equal(set.covers(parseIpPrefix('10.9.9.9')), false);

  set.delete(parseIpPrefix('10.1.0.0/16'));
  set.delete(parseIpPrefix('10.1.0.0/16'));
  set.add(parseIpPrefix('10.1.2.0/24'));
  t.strictSame(
    covering('10.1.2.7'),
    prefixes('10.1.2.0/24', '10.1.2.7'),
    'what went covers nothing',
  );
  t.equal(set.has(parseIpPrefix('10.1.2.0/24')), true);
  t.strictSame([...set.prefixes()].sort(), prefixes('10.1.2.0/24', '10.1.2.7', 'fd01::/48'));
  t.end();
});

test('createNetworkSet() answers as the networks themselves say', (t) => {
  const everything = prefixes(
    '0.0.0.0/0',
    '128.0.0.0/1',
    '203.0.113.0/24',
    '203.0.113.128/25',
    '255.255.255.255',
    '::/0',
    'fd00::/8',
    'fd00::7',
  );
  for (const member of everything) {
    const set = createNetworkSet([member]);
    for (const prefix of everything) {
      const { address, length } = splitPrefix(prefix);
      const isIn = splitPrefix(member).length <= length && prefixContains(member, address);
      t.equal(set.covers(prefix), isIn, `${member} covers ${prefix}`);
      t.strictSame(set.covering(prefix), isIn ? [member] : []);
    }
    set.delete(member);
    t.equal(set.covers(member), false);
  }
  t.end();
});
