import fc from 'fast-check';
import { test } from 'tap';
import {
  DEFAULT_MAGLEV_TABLE_SIZE,
  fillMaglevTable,
  MAGLEV_TABLE_SIZES,
  maglevSizeFor,
} from './maglev.ts';

const SIZE = DEFAULT_MAGLEV_TABLE_SIZE;
const GOLDEN = [0, 0, 2, 1, 1, 1, 0, 1, 0, 2, 2, 2, 1, 2, 1, 2, 1, 0, 1, 0, 0, 1, 1, 0];

function namesOf(count: number, seed: number): string[] {
  return Array.from(
    { length: count },
    (_, index) => `10.${seed & 255}.${index >> 8}.${index & 255} 8080`,
  ).sort();
}

/** Names of the entries of a table. */
function entriesOf(names: readonly string[], size: (typeof MAGLEV_TABLE_SIZES)[number] = SIZE) {
  return Array.from(fillMaglevTable(names, size), (index) => names[index]);
}

test('fillMaglevTable() gives each backend its share', (t) => {
  for (const count of [2, 3, 7, 100, 1000]) {
    const shares = new Map<string | undefined, number>();
    for (const name of entriesOf(namesOf(count, count))) {
      shares.set(name, (shares.get(name) ?? 0) + 1);
    }
    t.equal(shares.size, count, `${count} backends: all are there`);
    t.notOk(shares.has(undefined), 'no entry is free');
    const numbers = [...shares.values()];
    t.ok(
      Math.max(...numbers) - Math.min(...numbers) <= 1,
      `${count} backends: at most one entry apart`,
    );
  }
  t.end();
});

test('fillMaglevTable(): one of a thousand leaves, at most 2 % of the other flows move', (t) => {
  let worst = 0;
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 255 }),
      fc.integer({ min: 0, max: 999 }),
      (seed, leaver) => {
        const before = namesOf(1000, seed);
        const gone = before[leaver];
        const after = before.filter((name) => name !== gone);
        const [old, now] = [entriesOf(before), entriesOf(after)];
        let others = 0;
        let moved = 0;
        old.forEach((name, index) => {
          if (name === gone) return;
          others += 1;
          if (name !== now[index]) moved += 1;
        });
        worst = Math.max(worst, moved / others);
        return moved / others <= 0.02;
      },
    ),
    { numRuns: 40 },
  );
  t.comment(`at most ${(100 * worst).toFixed(2)} % moved`);
  t.ok(worst > 0, 'the measure sees movements');
  t.end();
});

test('fillMaglevTable() is the same on every node', (t) => {
  // A change of these would send flows elsewhere while nodes of two versions run side by side.
  t.same(
    [...fillMaglevTable(['10.0.0.1 80', '10.0.0.2 80', 'fd00::3 80'], 251).slice(0, 24)],
    GOLDEN,
  );
  t.end();
});

test('fillMaglevTable() fills tables of every size', (t) => {
  for (const size of MAGLEV_TABLE_SIZES) {
    const table = fillMaglevTable(namesOf(5, 1), size);
    t.equal(table.length, size);
    t.ok(table.every((index) => index < 5));
  }
  t.ok(fillMaglevTable([], 251).every((index) => index === 0xffffffff));
  t.end();
});

test('maglevSizeFor() saves tables that would say nothing', (t) => {
  t.equal(maglevSizeFor(0, 251), 0);
  t.equal(maglevSizeFor(1, 251), 0);
  t.equal(maglevSizeFor(2, 251), 251);
  t.equal(maglevSizeFor(251, 251), 251);
  t.equal(maglevSizeFor(252, 251), 0);
  t.end();
});
