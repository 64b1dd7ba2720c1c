/**
 * Frontends and their backends. A frontend's backends stand in slots 1 to n without gaps; a change touches only the
 * slots, members and blocks that change, however many there are. The order of writes lets a connect that runs meanwhile
 * find a backend, and a crash at any point shows in the rows or does no harm: backends, members, Maglev blocks, slots,
 * counts; then what goes, the other way round.
 */
import type { DatapathError } from '../datapath-error.ts';
import type { DatapathTable, FrontendEntry, FrontendKey } from '../desired.ts';
import { createRowMap, throwFirst } from '../map.ts';
import type { OpenMaps } from '../object.ts';
import { atOnce } from '../slices.ts';
import { memberCodec } from './affinity-map.ts';
import { DEFAULT_MAGLEV_TABLE_SIZE, type MaglevTableSize } from './maglev.ts';
import { blockCodec, blockKeys } from './maglev-map.ts';
import { backendCodec, frontendKeyOf, slotCodec } from './service-map.ts';
import { adoptServices, readRows, scanRows } from './services-adopt.ts';
import { countSlot, socketNameOf } from './services-frontend.ts';
import {
  type Changes,
  frontendProblem,
  type Loss,
  noChanges,
  planDelete,
  planUpsert,
  type ServicesState,
  usableBackends,
  type WantedFrontend,
} from './services-plan.ts';
import type { ServiceMaps } from './services-read.ts';

/** A backend that a frontend has lost: it is neither active nor draining there. */
export interface LostBackend {
  /** Key of the frontend, by `keyOf`. */
  readonly frontend: string;
  /** Protocol, address and port of the backend, separated by blanks. */
  readonly backend: string;
}

/** The services table, and what those who care for sockets ask of it. */
export interface ServicesTable extends DatapathTable<FrontendEntry, FrontendKey> {
  /**
   * Reads what the kernel holds, in steps that others can come between, but for those who write these maps. The next
   * `scan` then has its rows without another look. Without it, whoever needs the state first reads it in one go.
   */
  takeOver(): Generator<undefined, unknown>;
  /** Backends lost since the last call; some may have come back since. */
  takeLost(): LostBackend[];
  /** Protocol, address and port of each backend that a frontend has, active or draining, as in `LostBackend`. */
  socketNames(frontend: string): ReadonlySet<string>;
}

/** The service maps as one table. Default for `maglevTableSize`: 16381 entries. */
export function openServicesTable(
  maps: OpenMaps,
  options: { readonly maglevTableSize?: MaglevTableSize | undefined } = {},
): ServicesTable {
  return createServicesTable(openServiceMaps(maps), options);
}

/** The kernel maps that the table is written to. */
export function openServiceMaps(maps: OpenMaps): ServiceMaps {
  return {
    slots: createRowMap(maps.get('mesh_services'), slotCodec),
    backends: createRowMap(maps.get('mesh_backends'), backendCodec),
    members: createRowMap(maps.get('mesh_affinity_members'), memberCodec),
    blocks: createRowMap(maps.get('mesh_maglev'), blockCodec),
    services: maps.get('mesh_services'),
    maglev: maps.get('mesh_maglev'),
  };
}

/** As openServicesTable(), over maps that are open. */
export function createServicesTable(
  kernel: ServiceMaps,
  options: { readonly maglevTableSize?: MaglevTableSize | undefined } = {},
): ServicesTable {
  const maglevSize = options.maglevTableSize ?? DEFAULT_MAGLEV_TABLE_SIZE;
  const lost = new Map<string, LostBackend>();
  /** undefined: the kernel must be read (again), because deletions failed half-way. */
  let state: ServicesState | undefined;
  /** What was found wrong when the kernel was read, to be mended before anything else is written. */
  let repairs: Changes | undefined;

  /** Rows that were read with the state, until they are asked for. */
  let adopted: readonly FrontendEntry[] | undefined;

  function* takeOver(): Generator<undefined, ServicesState> {
    const found = yield* adoptServices(kernel, maglevSize);
    ({ state, repairs, rows: adopted } = found);
    return found.state;
  }
  const known = (): ServicesState => state ?? atOnce(takeOver());

  return {
    name: 'services',
    apply({ upserts, deletes }) {
      const current = known();
      adopted = undefined;
      const failures: DatapathError[] = [];
      const refusals = repairs === undefined ? [] : [write(kernel, current, repairs)];
      repairs = undefined;
      // One frontend is planned once: its last upsert, or its delete.
      const wanted = new Map<string, WantedFrontend>();
      for (const entry of upserts) {
        const problem = frontendProblem(entry);
        if (problem !== undefined) failures.push(problem);
        else wanted.set(frontendKeyOf(entry), withUsableBackends(entry, failures));
      }
      for (const key of deletes) wanted.delete(frontendKeyOf(key));
      const changes = noChanges();
      const losses: Loss[] = [];
      for (const entry of wanted.values()) {
        append(losses, planUpsert(current, entry, { changes, maglevSize }));
      }
      for (const key of deletes) append(losses, planDelete(current, key, changes));
      for (const { frontend, backend } of losses) {
        const name = socketNameOf(backend);
        lost.set(`${frontend} ${name}`, { frontend, backend: name });
      }
      refusals.push(write(kernel, current, changes));
      if (refusals.some(({ deletes }) => deletes.length > 0)) state = undefined;
      throwFirst([
        ...failures,
        ...refusals.flatMap(({ upserts, deletes }) => upserts.concat(deletes)),
      ]);
    },
    rows: () => readRows(kernel, maglevSize),
    scan() {
      const rows = adopted;
      adopted = undefined;
      if (rows !== undefined) return [rows];
      return state === undefined
        ? [readRows(kernel, maglevSize)]
        : scanRows(kernel, state, maglevSize);
    },
    takeOver,
    keyOf: frontendKeyOf,
    takeLost() {
      const taken = [...lost.values()];
      lost.clear();
      return taken;
    },
    socketNames(key) {
      const frontend = known().frontends.get(key);
      if (frontend === undefined) return new Set();
      return new Set([...frontend.placeOf.keys(), ...frontend.draining.keys()].map(socketNameOf));
    },
  };
}

function withUsableBackends(entry: FrontendEntry, failures: DatapathError[]): WantedFrontend {
  return {
    ...entry,
    backends: usableBackends(entry, entry.backends, failures),
    draining: usableBackends(entry, entry.draining, failures),
  };
}

function append<Item>(list: Item[], items: readonly Item[]): void {
  for (const item of items) list.push(item);
}

/** What the kernel refused. */
interface Refusals {
  readonly upserts: DatapathError[];
  readonly deletes: DatapathError[];
}

/** Writes what was planned. Frontends of which something was refused are written whole with their next change. */
function write(maps: ServiceMaps, { pool }: ServicesState, changes: Changes): Refusals {
  const fresh = pool.takeNew();
  const upserts = [
    ...maps.backends.upsert(fresh),
    ...maps.slots.upsert(changes.marks),
    ...maps.members.upsert(changes.members),
  ];
  const blockFailures = maps.blocks.upsert(changes.blocks);
  if (blockFailures.length > 0) giveUpTables(changes);
  append(upserts, blockFailures);
  append(upserts, maps.slots.upsert(changes.slots));
  const deletes = maps.slots.remove(changes.countDeletes);
  append(deletes, maps.members.remove(changes.memberDeletes));
  append(upserts, maps.slots.upsert([...changes.counts].map(countSlot)));
  append(deletes, maps.slots.remove(changes.slotDeletes));
  append(deletes, maps.blocks.remove(changes.blockDeletes));
  if (upserts.length > 0) {
    pool.putBack(fresh);
    for (const frontend of changes.touched) frontend.isDoubtful = true;
  }
  append(deletes, maps.backends.remove(pool.takeUnused()));
  return { upserts, deletes };
}

/** Tables that may be incomplete are not used: these frontends choose at random until they fit. */
function giveUpTables(changes: Changes): void {
  const services = new Set(changes.blocks.map(({ serviceId }) => serviceId));
  for (const frontend of changes.counts) {
    if (!services.has(frontend.serviceId)) continue;
    append(changes.blockDeletes, blockKeys(frontend.serviceId, 0, frontend.maglevSize));
    frontend.maglevSize = 0;
  }
}
