/** Taking over the kernel's service maps, with what a process that died in the middle of its writes has left in them. */
import {
  MAGLEV_KEY,
  SERVICE_EXTERNAL,
  SERVICE_MAGLEV,
  SERVICE_WRITING,
} from '../../../mesh/wire/maps.ts';
import { backendKeyOf } from '../backend-difference.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import { readMapParts } from '../map.ts';
import { atOnce } from '../slices.ts';
import { type BackendPool, createBackendPool } from './backend-pool.ts';
import { createIdRing } from './id-ring.ts';
import { type MaglevTableSize, maglevSizeFor } from './maglev.ts';
import { blockCodec, blocksOf } from './maglev-map.ts';
import { frontendKeyOf, type SlotRow } from './service-map.ts';
import { type Frontend, makeFrontend, remembers } from './services-frontend.ts';
import {
  type Changes,
  noChanges,
  planUpsert,
  type ServicesState,
  type WantedFrontend,
} from './services-plan.ts';
import {
  type Found,
  type FoundFrontend,
  readFrontendKey,
  readServices,
  type ServiceMaps,
} from './services-read.ts';

/** What was taken over. */
export interface AdoptedServices {
  readonly state: ServicesState;
  /** Rows as `readRows` has them. */
  readonly rows: readonly FrontendEntry[];
  /** What is to be written before anything else: doubtful frontends anew; and what belongs to nobody is deleted. */
  readonly repairs: Changes;
}

/** Frontends or entries that are looked at in a step: about a millisecond. */
const STEP = 512;

/**
 * Rows as the kernel has them. Of a frontend that was being written when a process died, or whose Maglev table is not of
 * the size that is asked for, the affinity comes back as -1 second, which nobody wants: so it is written again.
 */
export function readRows(maps: ServiceMaps, maglevSize: MaglevTableSize): FrontendEntry[] {
  return atOnce(readServices(maps)).frontends.map((found) => foundRow(found, maglevSize));
}

/**
 * The same, a part at a time; between parts the maps may change. Of draining backends only those are seen that `state` has,
 * since the kernel cannot be asked for the members of one frontend.
 */
export function* scanRows(
  maps: ServiceMaps,
  { frontends }: ServicesState,
  maglevSize: MaglevTableSize,
): Generator<FrontendEntry[]> {
  for (const part of maps.slots.scan()) {
    yield part.flatMap((slot) => {
      if (slot.slot !== 0) return [];
      const backends = new Map<string, Backend>();
      for (let index = 1; index <= slot.count; index += 1) {
        const id = maps.slots.get({ frontend: slot.frontend, slot: index })?.backendId ?? 0;
        const backend = maps.backends.get({ id })?.backend;
        if (backend !== undefined) backends.set(backendKeyOf(backend), backend);
      }
      const known = frontends.get(frontendKeyOf(slot.frontend))?.draining.values() ?? [];
      const draining = [...known].filter(({ id }) => {
        const member = maps.members.get({ serviceId: slot.serviceId, backendId: id });
        return member?.state === 'draining' && maps.backends.get({ id }) !== undefined;
      });
      const lists = {
        backends: [...backends.values()],
        draining: draining.map(({ backend }) => backend),
      };
      return [rowOf(slot, lists, maglevSize)];
    });
  }
}

function rowOf(
  slot: SlotRow,
  lists: Pick<FrontendEntry, 'backends' | 'draining'>,
  maglevSize: MaglevTableSize,
): FrontendEntry {
  return {
    ...slot.frontend,
    isExternal: (slot.flags & SERVICE_EXTERNAL) !== 0,
    ...lists,
    affinitySeconds: isFinished(slot, maglevSize) ? slot.affinitySeconds : -1,
    algorithm: (slot.flags & SERVICE_MAGLEV) === 0 ? 'random' : 'maglev',
    service: '',
  };
}

function foundRow(
  { slot, backends, draining }: FoundFrontend,
  maglevSize: MaglevTableSize,
): FrontendEntry {
  const lists = {
    backends: [...backends.values()],
    draining: [...draining.values()].map(({ backend }) => backend),
  };
  return rowOf(slot, lists, maglevSize);
}

/** Takes over what the kernel holds, in steps; nothing may write it meanwhile. Throws DatapathError `kernel`. */
export function* adoptServices(
  maps: ServiceMaps,
  maglevSize: MaglevTableSize,
): Generator<undefined, AdoptedServices> {
  const found = yield* readServices(maps);
  const pool = createBackendPool();
  const serviceIds = createIdRing();
  const state: ServicesState = { frontends: new Map(), pool, serviceIds };
  let work = 0;
  for (const [id, { key }] of found.backends) {
    pool.adopt(key, id);
    work += 1;
    if (work % STEP === 0) yield;
  }
  for (const { slot } of found.frontends) serviceIds.reserve(slot.serviceId);
  const taken = new Set<number>();
  const rows: FrontendEntry[] = [];
  for (const one of found.frontends) {
    const isUnique = one.slot.serviceId !== 0 && !taken.has(one.slot.serviceId);
    const serviceId = isUnique ? one.slot.serviceId : serviceIds.take();
    taken.add(serviceId);
    const frontend = adoptFrontend(one, { serviceId, isUnique, pool, maglevSize });
    state.frontends.set(frontend.text, frontend);
    rows.push(foundRow(one, maglevSize));
    work += one.backends.size + 1;
    if (work < STEP) continue;
    work = 0;
    yield;
  }
  const repairs = noChanges();
  yield* collectGarbage(found, { state, maps, garbage: repairs });
  for (const frontend of state.frontends.values()) {
    if (!frontend.isDoubtful) continue;
    planUpsert(state, wantedOf(frontend), { changes: repairs, maglevSize });
    yield;
  }
  return { state, rows, repairs };
}

function adoptFrontend(
  { slot, backends, draining, active, isWhole }: FoundFrontend,
  options: {
    readonly serviceId: number;
    /** No other frontend has its number. */
    readonly isUnique: boolean;
    readonly pool: BackendPool;
    readonly maglevSize: MaglevTableSize;
  },
): Frontend {
  const { serviceId, isUnique, pool, maglevSize } = options;
  const slots = [...backends].map(([key, backend]) => ({
    key,
    backendId: pool.acquire(key, backend),
  }));
  const frontend = makeFrontend(slot.frontend, serviceId, slots);
  frontend.backends = [...backends.values()];
  if (draining.size > 0) {
    frontend.draining = new Map(
      [...draining].map(([key, { backend }]) => [key, { id: pool.acquire(key, backend), backend }]),
    );
  }
  frontend.settings = {
    isExternal: (slot.flags & SERVICE_EXTERNAL) !== 0,
    affinitySeconds: slot.affinitySeconds,
    algorithm: (slot.flags & SERVICE_MAGLEV) === 0 ? 'random' : 'maglev',
  };
  frontend.maglevSize = isUnique ? slot.maglevSize : 0;
  const wantedMembers = remembers(frontend) ? slots.length : 0;
  frontend.isDoubtful =
    !isUnique ||
    !isWhole ||
    !isFinished(slot, maglevSize) ||
    active.size !== wantedMembers ||
    slots.some(({ backendId }) => wantedMembers > 0 && !active.has(backendId));
  return frontend;
}

/** A frontend as it is. */
function wantedOf({ key, settings, backends, draining }: Frontend): WantedFrontend {
  return {
    ...key,
    ...settings,
    backends,
    draining: [...draining.values()].map(({ backend }) => backend),
  };
}

function isFinished({ flags, count, maglevSize }: SlotRow, wanted: MaglevTableSize): boolean {
  const size = (flags & SERVICE_MAGLEV) === 0 ? 0 : maglevSizeFor(count, wanted);
  return (flags & SERVICE_WRITING) === 0 && maglevSize === size;
}

function isAnyAbove(numbers: Iterable<number>, limit: number): boolean {
  for (const number of numbers) if (number > limit) return true;
  return false;
}

/** Finds slots, members and Maglev blocks that belong to no frontend. */
function* collectGarbage(
  { frontends, slotIds, members }: Found,
  { state, maps, garbage }: { state: ServicesState; maps: ServiceMaps; garbage: Changes },
): Generator<undefined, void> {
  const counts = new Map(frontends.map(({ bytes, backends }) => [bytes, backends.size]));
  yield;
  let work = 0;
  for (const [bytes, ids] of slotIds) {
    work += ids.size;
    if (work >= STEP) {
      work = 0;
      yield;
    }
    const count = counts.get(bytes) ?? 0;
    if (ids.size === count && !isAnyAbove(ids.keys(), count)) continue;
    const frontend = readFrontendKey(bytes);
    for (const slot of ids.keys()) if (slot > count) garbage.slotDeletes.push({ frontend, slot });
  }
  const memberIds = new Map<number, Set<number>>();
  const tableBlocks = new Map<number, number>();
  for (const frontend of state.frontends.values()) {
    const { serviceId, draining, maglevSize } = frontend;
    tableBlocks.set(serviceId, blocksOf(maglevSize));
    const ids = new Set<number>();
    for (const { id } of draining.values()) ids.add(id);
    if (remembers(frontend)) for (const { backendId } of frontend.slots) ids.add(backendId);
    if (ids.size > 0) memberIds.set(serviceId, ids);
    work += ids.size + 1;
    if (work < STEP) continue;
    work = 0;
    yield;
  }
  for (const { serviceId, backendId } of members) {
    work += 1;
    if (work % STEP === 0) yield;
    if (memberIds.get(serviceId)?.has(backendId)) continue;
    garbage.memberDeletes.push({ serviceId, backendId });
  }
  const { fields, size } = MAGLEV_KEY;
  const { fd, name } = maps.maglev;
  for (const { keys, count } of readMapParts({ ...blockCodec, fd, name }, STEP)) {
    for (let offset = 0; offset < count * size; offset += size) {
      const serviceId = keys.getUint32(offset + fields.serviceId, true);
      const block = keys.getUint32(offset + fields.block, true);
      if (block >= (tableBlocks.get(serviceId) ?? 0)) {
        garbage.blockDeletes.push({ serviceId, block });
      }
    }
    yield;
  }
}
