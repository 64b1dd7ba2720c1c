import fc from 'fast-check';
import { test } from 'tap';
import { parseIpAddress } from '../../mesh/wire/ip.ts';
import { backendKeyOf, diffBackends } from './backend-difference.ts';
import type { Backend } from './desired.ts';

const backend = (number: number): Backend => ({
  address: parseIpAddress(`10.2.0.${number}`),
  port: 80,
  protocol: 'TCP',
  clusterId: 2,
});

/** Lists of distinct backends; those with the same number are one object, or two that are equal. */
const OBJECTS = Array.from({ length: 12 }, (_, number) => [backend(number), backend(number)]);
const lists = fc
  .uniqueArray(fc.nat(11))
  .chain((numbers) =>
    fc
      .tuple(...numbers.map((number) => fc.constantFrom(...(OBJECTS[number] ?? []))))
      .map((list): Backend[] => list),
  );

test('diffBackends() applied to the one list gives the other, whatever objects they are made of', async (t) => {
  const wrong: unknown[] = [];
  fc.assert(
    fc.property(lists, lists, (before, after) => {
      const { added, removed } = diffBackends(before, after);
      const keys = new Set(before.map(backendKeyOf));
      const isMinimal =
        removed.every((item) => keys.has(backendKeyOf(item))) &&
        added.every((item) => !keys.has(backendKeyOf(item)));
      for (const item of removed) keys.delete(backendKeyOf(item));
      for (const item of added) keys.add(backendKeyOf(item));
      const same = String([...keys].sort()) === String(after.map(backendKeyOf).sort());
      if (!same || !isMinimal) wrong.push({ before, after, added, removed });
    }),
    { numRuns: 3000 },
  );
  t.same(wrong, []);
});

test('diffBackends() of lists that share their objects makes no key of what did not change', async (t) => {
  let read = 0;
  const counted = (number: number): Backend => ({
    ...backend(0),
    get address() {
      read += 1;
      return parseIpAddress(`10.2.${number >> 8}.${number & 255}`);
    },
  });
  const before = Array.from({ length: 1000 }, (_, number) => counted(number));
  const after = before.with(500, counted(2000));
  t.equal(diffBackends(before, after).added.length, 1);
  t.ok(read < 10, `${read} addresses were read`);
});
