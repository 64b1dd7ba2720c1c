import { test } from 'tap';
import { decodeKeptFacts, encodeKeptFacts, nodeNameOf, parseNodeFacts } from './node-facts.ts';

test('parseNodeFacts() takes addresses and networks in any spelling, once each', async (t) => {
  const facts = parseNodeFacts({
    sequence: 1,
    addresses: ['192.0.2.1', '2001:DB8::1', '192.0.2.1'],
    pod_cidrs: ['10.1.0.7/24', 'fd00:0:0::/48'],
    boot_id: 'b1',
    something_new: 1,
  });
  t.same(facts, {
    addresses: ['192.0.2.1', '2001:db8::1'],
    podCidrs: ['10.1.0.0/24', 'fd00::/48'],
    bootId: 'b1',
  });
  t.same(decodeKeptFacts(encodeKeptFacts(facts)), facts);
});

test('parseNodeFacts() names the field that cannot be taken', async (t) => {
  const ok = ['192.0.2.1'];
  const cases: readonly [Record<string, unknown>, string, RegExp][] = [
    [{}, 'addresses', /none is given/],
    [{ addresses: [] }, 'addresses', /none is given/],
    [{ addresses: ['nonsense'] }, 'addresses', /"nonsense"/],
    [{ addresses: [7] }, 'addresses.0', /string/],
    [{ addresses: ['127.0.0.1'] }, 'addresses', /loopback/],
    [{ addresses: ['0.0.0.0'] }, 'addresses', /no address of a node/],
    [{ addresses: ['169.254.1.1'] }, 'addresses', /link-local/],
    [{ addresses: ['224.0.0.1'] }, 'addresses', /multicast/],
    [{ addresses: ['::1'] }, 'addresses', /no address of a node/],
    [{ addresses: ['fe80::1'] }, 'addresses', /link-local/],
    [{ addresses: ['ff02::1'] }, 'addresses', /multicast/],
    [{ addresses: Array(33).fill('192.0.2.1') }, 'addresses', /33 are given/],
    [{ addresses: ok, pod_cidrs: ['10.0.0.0/33'] }, 'pod_cidrs', /10\.0\.0\.0\/33/],
    [{ addresses: ok, pod_cidrs: ['0.0.0.0/0'] }, 'pod_cidrs', /every address/],
    [{ addresses: ok, pod_cidrs: ['::/0'] }, 'pod_cidrs', /every address/],
    [{ addresses: ok, pod_cidrs: ['127.0.0.0/16'] }, 'pod_cidrs', /overlaps 127/],
    [{ addresses: ok, pod_cidrs: ['128.0.0.0/1'] }, 'pod_cidrs', /overlaps/],
    [{ addresses: ok, boot_id: 'x'.repeat(129) }, 'boot_id', /longer/],
  ];
  for (const [message, field, reason] of cases) {
    t.throws(
      () => parseNodeFacts(message),
      { name: 'FactsError', field, message: reason },
      JSON.stringify(message),
    );
  }
});

test('decodeKeptFacts() refuses what it did not write', async (t) => {
  for (const value of ['', '{', '[]', '{"schema":2,"addresses":["192.0.2.1"]}', '{"schema":1}']) {
    t.throws(() => decodeKeptFacts(value), { name: 'FactsError' }, value);
  }
});

test('nodeNameOf() takes only names that can stand in a key', async (t) => {
  t.equal(nodeNameOf('node-n1.example'), 'n1.example');
  for (const name of [
    'n1',
    'node-',
    'node-a/b',
    'node-..',
    'node-A',
    'machine-n1',
    `node-${'x'.repeat(254)}`,
    ' node-n1',
  ]) {
    t.equal(nodeNameOf(name), undefined, name);
  }
});
