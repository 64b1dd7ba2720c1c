import fc from 'fast-check';
import { test } from 'tap';
import { createNameIndex } from './name-index.ts';

/** Names that are packed, nearly packed, and not at all. */
const octet = fc.integer({ min: 0, max: 256 });
const network = fc
  .tuple(octet, octet, octet, octet, fc.integer({ min: 0, max: 33 }))
  .map(([a, b, c, d, length]) => `${a}.${b}.${c}.${d}/${length}`);
const near = fc
  .tuple(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 30, max: 33 }))
  .map(([last, length]) => `10.0.0.${last}/${length}`);
const name = fc.oneof(
  near,
  network,
  fc.nat(20).map(String),
  fc.bigInt({ min: 0n, max: 5_000_000_000n }).map(String),
  fc.stringMatching(/^[0-9./]{0,14}$/),
  fc.constantFrom('', '0', '00', '01', '4294967295', '4294967296', '10.0.0.1', '10.0.0.1/', '/'),
  fc.constantFrom('10.0.0.1/00', '10.0.0.01/32', '1.2.3.4.5/6', 'fd00::1/128', '::/0', 'node-1'),
);

test('an index says what a map would, whatever names are added and removed', async () => {
  const step = fc.record({
    kind: fc.constantFrom('add', 'add', 'add', 'delete', 'find', 'clear'),
    name,
    isClear: fc.nat(30),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const index = createNameIndex();
      const model = new Map<string, number>();
      for (const { kind, name, isClear } of steps) {
        if (kind === 'clear' && isClear === 0) {
          index.clear();
          model.clear();
        } else if (kind === 'delete') {
          if (index.delete(name) !== (model.get(name) ?? -1)) return false;
          model.delete(name);
        } else if (kind === 'add') {
          const number = index.add(name);
          if (number !== (model.get(name) ?? number)) return false;
          if (!model.has(name) && [...model.values()].includes(number)) return false;
          model.set(name, number);
        } else if (index.find(name) !== (model.get(name) ?? -1)) return false;
      }
      if (index.size !== model.size) return false;
      for (const [known, number] of model) {
        if (index.find(known) !== number || index.nameOf(number) !== known) return false;
      }
      return [...index.names()].sort().join(' ') === [...model.keys()].sort().join(' ');
    }),
    { numRuns: 1000 },
  );
});

test('many networks keep their numbers while others come and go', async (t) => {
  const index = createNameIndex();
  const nameOf = (number: number): string =>
    `10.${number >> 16}.${(number >> 8) & 255}.${number & 255}/32`;
  const numbers = new Map<string, number>();
  for (let number = 0; number < 100_000; number += 1) {
    numbers.set(nameOf(number), index.add(nameOf(number)));
  }
  for (let number = 0; number < 100_000; number += 3) {
    index.delete(nameOf(number));
    numbers.delete(nameOf(number));
  }
  t.equal(index.size, numbers.size);
  t.ok([...numbers].every(([known, number]) => index.find(known) === number));
  for (let number = 0; number < 100_000; number += 3) index.add(nameOf(number));
  t.equal(index.used, 100_000, 'numbers are given again');
  t.equal(new Set(index.names()).size, 100_000);
});

test('names may be removed while they are listed', async (t) => {
  const index = createNameIndex();
  for (let number = 0; number < 100; number += 1) {
    index.add(`10.0.0.${number}/32`);
    index.add(`node-${number}`);
  }
  let seen = 0;
  for (const known of index.names()) {
    seen += 1;
    index.delete(known);
  }
  t.equal(seen, 200);
  t.equal(index.size, 0);
});
