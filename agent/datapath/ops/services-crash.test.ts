import { deepStrictEqual } from 'node:assert/strict';
import fc from 'fast-check';
import { test } from 'tap';
import type { FrontendEntry } from '../desired.ts';
import type { RowMap } from '../map.ts';
import { kernelSkipReason } from '../testing/bpffs.ts';
import {
  findServiceFaults,
  frontendText,
  openTestServiceMaps,
  testBackend,
  testFrontend,
} from '../testing/service-maps.ts';
import { createServicesTable } from './services.ts';
import type { ServiceMaps } from './services-read.ts';

const skip = kernelSkipReason();
const SIZE = 251;

class Killed extends Error {}

/** Maps whose writer dies after so many entries, in the middle of whatever it does. */
function mortal(kernel: ServiceMaps, life: { left: number }): ServiceMaps {
  const spend = (): void => {
    if (life.left === 0) throw new Killed();
    life.left -= 1;
  };
  const wrap = <Row extends Key, Key>(map: RowMap<Row, Key>): RowMap<Row, Key> => ({
    ...map,
    upsert: (rows) =>
      rows.flatMap((row) => {
        spend();
        return map.upsert([row]);
      }),
    remove: (keys) =>
      keys.flatMap((key) => {
        spend();
        return map.remove([key]);
      }),
  });
  return {
    slots: wrap(kernel.slots),
    backends: wrap(kernel.backends),
    members: wrap(kernel.members),
    blocks: wrap(kernel.blocks),
    services: kernel.services,
    maglev: kernel.maglev,
  };
}

const frontend = fc.record({
  active: fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 5 }),
  draining: fc.uniqueArray(fc.integer({ min: 1, max: 6 }), { maxLength: 2 }),
  affinitySeconds: fc.constantFrom(0, 0, 60),
  algorithm: fc.constantFrom('random' as const, 'maglev' as const),
  isExternal: fc.boolean(),
});
/** Frontends by number; undefined: it is not there. */
const world = fc.array(fc.option(frontend, { nil: undefined }), { minLength: 3, maxLength: 3 });
type World = ReturnType<typeof rowsOf>;

function rowsOf(frontends: readonly (FrontendShape | undefined)[]): FrontendEntry[] {
  return frontends.flatMap((shape, index) => {
    if (shape === undefined) return [];
    const { active, draining, ...settings } = shape;
    const protocol = index === 1 ? ('UDP' as const) : ('TCP' as const);
    const backendOf = (number: number) => testBackend(number, { protocol });
    return [
      testFrontend(active.map(backendOf), {
        ...settings,
        protocol,
        port: 80 + index,
        scope: index === 2 ? 'external' : 'internal',
        draining: draining.filter((number) => !active.includes(number)).map(backendOf),
      }),
    ];
  });
}

interface FrontendShape {
  active: number[];
  draining: number[];
  affinitySeconds: number;
  algorithm: 'random' | 'maglev';
  isExternal: boolean;
}

/** Does what the reconciler does: writes what differs from the rows. Returns whether there was anything. */
function reconcile(kernel: ServiceMaps, wanted: World): boolean {
  const table = createServicesTable(kernel, { maglevTableSize: SIZE });
  const before = new Map(table.rows().map((row) => [table.keyOf(row), row]));
  const upserts = wanted.filter((row) => {
    const found = before.get(table.keyOf(row));
    return found === undefined || frontendText(found) !== frontendText(row);
  });
  const keys = new Set(wanted.map((row) => table.keyOf(row)));
  const deletes = [...before.values()].filter((row) => !keys.has(table.keyOf(row)));
  if (upserts.length === 0 && deletes.length === 0) return false;
  table.apply({ upserts, deletes });
  return true;
}

/** What a connect could trip over while `before` becomes `after`. */
function findObstacles(kernel: ServiceMaps, before: World, after: World): string[] {
  const known = new Map<string, Set<string>>();
  for (const row of [...before, ...after]) {
    const key = `${row.protocol} ${row.port}`;
    const names = known.get(key) ?? new Set<string>();
    for (const { address } of [...row.backends, ...row.draining]) names.add(address);
    known.set(key, names);
  }
  const addresses = new Map(kernel.backends.rows().map(({ id, backend }) => [id, backend.address]));
  const blocks = kernel.blocks.rows();
  const slots = kernel.slots.rows();
  const obstacles: string[] = [];
  for (const head of slots.filter(({ slot }) => slot === 0)) {
    const { frontend: key, serviceId, count, maglevSize } = head;
    const names = known.get(`${key.protocol} ${key.port}`) ?? new Set();
    const check = (id: number, where: string): void => {
      const address = addresses.get(id);
      if (address === undefined || !names.has(address)) {
        obstacles.push(`port ${key.port} ${where}: backend ${id} is ${address}`);
      }
    };
    const ids = slots.filter(
      ({ slot, frontend: { port, protocol } }) =>
        slot > 0 && slot <= count && port === key.port && protocol === key.protocol,
    );
    if (ids.length !== count) obstacles.push(`port ${key.port}: ${ids.length} slots of ${count}`);
    for (const { slot, backendId } of ids) check(backendId, `slot ${slot}`);
    for (const { block, backendIds } of blocks.filter((row) => row.serviceId === serviceId)) {
      const end = Math.min(64, maglevSize - 64 * block);
      for (let index = 0; index < end; index += 1) check(backendIds[index] ?? 0, `block ${block}`);
    }
  }
  return obstacles;
}

test('services: killed at any point, a connect finds a backend and the next process mends all', {
  skip,
  timeout: 300_000,
}, async (t) => {
  await using open = await openTestServiceMaps({
    mesh_services: 64,
    mesh_backends: 64,
    mesh_affinity_members: 64,
    mesh_maglev: 64,
  });
  const { kernel } = open;
  const crash = fc.record({
    before: world,
    after: world,
    wish: fc.constantFrom('before', 'after', 'other'),
    other: world,
    point: fc.noBias(fc.integer({ min: 0, max: 999 })),
  });
  const maglevSize = SIZE;
  let killed = 0;
  fc.assert(
    fc.property(crash, ({ before, after, wish, other, point }) => {
      const worlds = { before: rowsOf(before), after: rowsOf(after), other: rowsOf(other) };
      reconcile(kernel, worlds.before);
      const whole = { left: 10_000 };
      reconcile(mortal(kernel, whole), worlds.after);
      // Once to learn how many writes it takes, then again from the same beginning.
      reconcile(kernel, worlds.before);
      const writes = 10_000 - whole.left;
      try {
        reconcile(mortal(kernel, { left: Math.floor((point * writes) / 1000) }), worlds.after);
      } catch (error) {
        if (!(error instanceof Killed)) throw error;
        killed += 1;
      }
      const obstacles = findObstacles(kernel, worlds.before, worlds.after);
      deepStrictEqual(obstacles, [], 'a connect stumbles');
      reconcile(kernel, worlds[wish]);
      const table = createServicesTable(kernel, { maglevTableSize: SIZE });
      deepStrictEqual(
        table.rows().map(frontendText).sort(),
        worlds[wish].map(frontendText).sort(),
        'the rows are not those wanted',
      );
      const faults = findServiceFaults(kernel, { maglevSize, garbage: true });
      deepStrictEqual(faults, [], 'something is in the way');
      table.apply({ upserts: [], deletes: [] });
      const rest = findServiceFaults(kernel, { maglevSize, garbage: false });
      deepStrictEqual(rest, [], 'something is left over');
    }),
    { numRuns: process.env.ISTHMUS_LONG === 'true' ? 2000 : 50 },
  );
  t.ok(killed > 10, `${killed} were killed`);
});
