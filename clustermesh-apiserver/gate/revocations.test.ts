import { test } from 'tap';
import { isRevoked, parseRevocations } from './revocations.ts';

const HEX = 'ab'.repeat(32);

test('parseRevocations() reads fingerprints and names', async (t) => {
  const colons = (HEX.toUpperCase().match(/../g) ?? []).join(':');
  const list = parseRevocations(`- fingerprint: ${colons}\n- commonName: node-x\n`);
  const other = { fingerprints: ['cd'.repeat(32), 'ef'.repeat(32)], commonName: 'node-y' };
  t.ok(isRevoked({ ...other, fingerprints: [HEX] }, list));
  t.ok(isRevoked({ ...other, fingerprints: ['cd'.repeat(32), HEX] }, list), 'its authority');
  t.ok(isRevoked({ ...other, commonName: 'node-x' }, list));
  t.notOk(isRevoked(other, list));
  t.equal(parseRevocations('').commonNames.size, 0);
  t.equal(parseRevocations('# none\n').fingerprints.size, 0);
});

test('parseRevocations() names the entry that is wrong', async (t) => {
  const cases: [string, RegExp][] = [
    ['commonName: x', /expected a list/],
    ['- x', /entry 1/],
    ['- commonName: x\n- {}', /entry 2/],
    [`- { commonName: x, fingerprint: ${HEX} }`, /entry 1: expected either/],
    ['- fingerprint: 12ab', /entry 1: .*64 hex digits/],
    ['- commonName: 5', /entry 1/],
    ['- commonName: ""', /entry 1/],
    ['- [', /./],
  ];
  for (const [content, message] of cases) t.throws(() => parseRevocations(content), message);
});
