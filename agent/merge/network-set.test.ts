import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
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
