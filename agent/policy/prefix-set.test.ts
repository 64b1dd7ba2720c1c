import { test } from 'tap';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import { createPrefixSet, numberPrefix } from './prefix-set.ts';

test('a set of prefixes contains what lies in one of them, of the same family', async (t) => {
  const set = createPrefixSet(
    ['10.0.0.0/8', '192.0.2.7', '2001:db8::/32', '::1'].map(parseIpPrefix),
  );
  const cases: readonly (readonly [string, boolean])[] = [
    ['10.0.0.0/8', true],
    ['10.255.0.0/16', true],
    ['10.1.2.3', true],
    ['0.0.0.0/0', false],
    ['11.0.0.0/8', false],
    ['192.0.2.7', true],
    ['192.0.2.6', false],
    ['192.0.2.0/24', false],
    ['2001:db8:1::/48', true],
    ['2001:db9::/48', false],
    ['::1', true],
    ['::2', false],
    ['::a00:0/104', false],
  ];
  for (const [text, wanted] of cases) {
    t.equal(set.contains(numberPrefix(parseIpPrefix(text))), wanted, text);
  }
  t.equal(set.size, 4);
  t.equal(createPrefixSet([]).contains(numberPrefix(parseIpPrefix('::/0'))), false);
  const all = createPrefixSet([parseIpPrefix('0.0.0.0/0')]);
  t.equal(all.contains(numberPrefix(parseIpPrefix('1.2.3.4'))), true);
  t.equal(all.contains(numberPrefix(parseIpPrefix('::1'))), false);
});
