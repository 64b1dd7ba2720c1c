/** What the kernel's service maps hold, and what a process that died in the middle of its writes has left in them. */
import {
  MAGLEV_KEY,
  SERVICE_EXTERNAL,
  SERVICE_KEY,
  SERVICE_MAGLEV,
  SERVICE_VALUE,
  SERVICE_WRITING,
} from '../../../mesh/wire/maps.ts';
import { backendKeyOf } from '../backend-difference.ts';
import type { Backend, FrontendEntry, FrontendKey } from '../desired.ts';
import { type RowMap, readMap } from '../map.ts';
import type { OpenMap } from '../object.ts';
import type { MemberKey, MemberRow } from './affinity-map.ts';
import { createBackendPool } from './backend-pool.ts';
import { createIdRing } from './id-ring.ts';
import { type MaglevTableSize, maglevSizeFor } from './maglev.ts';
import { type BlockKey, type BlockRow, blockCodec, blocksOf } from './maglev-map.ts';
import {
  type BackendKey,
  type BackendRow,
  frontendKeyOf,
  type SlotKey,
  type SlotRow,
  slotCodec,
} from './service-map.ts';
import { type DrainingBackend, makeFrontend, remembers } from './services-frontend.ts';
import { type Changes, noChanges, type ServicesState } from './services-plan.ts';

/** The kernel maps of services. */
export interface ServiceMaps {
  readonly slots: RowMap<SlotRow, SlotKey>;
  readonly backends: RowMap<BackendRow, BackendKey>;
  readonly members: RowMap<MemberRow, MemberKey>;
  readonly blocks: RowMap<BlockRow, BlockKey>;
  /** Map of `slots`. */
  readonly services: OpenMap;
  /** Map of `blocks`. */
  readonly maglev: OpenMap;
}

/** A frontend with the backends that a connect could find. */
interface FoundFrontend {
  readonly bytes: FrontendBytes;
  /** Slot 0. */
  readonly slot: SlotRow;
  /** By key, in the order of their slots. */
  readonly backends: ReadonlyMap<string, Backend>;
  readonly draining: ReadonlyMap<string, DrainingBackend>;
  /** Ids of members that were meant for new flows. */
  readonly active: ReadonlySet<number>;
  /** No slot or backend is missing or stands twice. */
  readonly isWhole: boolean;
}

interface Found {
  readonly frontends: readonly FoundFrontend[];
  readonly slotIds: FoundSlots['slotIds'];
  readonly backends: readonly BackendRow[];
  readonly members: readonly MemberRow[];
}

/**
 * Rows as the kernel has them. Of a frontend that was being written when a process died, or whose Maglev table is not of
 * the size that is asked for, the affinity comes back as -1 second, which nobody wants: so it is written again.
 */
export function readRows(maps: ServiceMaps, maglevSize: MaglevTableSize): FrontendEntry[] {
  return readKernel(maps).frontends.map(({ slot, backends, draining }) =>
    rowOf(
      slot,
      {
        backends: [...backends.values()],
        draining: [...draining.values()].map(({ backend }) => backend),
      },
      maglevSize,
    ),
  );
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

/** Takes over what the kernel holds: doubtful frontends are to be written again, `garbage` belongs to nobody. */
export function adoptServices(
  maps: ServiceMaps,
  maglevSize: MaglevTableSize,
): { state: ServicesState; garbage: Changes } {
  const found = readKernel(maps);
  const pool = createBackendPool(found.backends);
  const serviceIds = createIdRing();
  const state: ServicesState = { frontends: new Map(), pool, serviceIds };
  for (const { slot } of found.frontends) serviceIds.reserve(slot.serviceId);
  const taken = new Set<number>();
  const garbage = noChanges();
  for (const { slot, backends, draining, active, isWhole } of found.frontends) {
    const isUnique = slot.serviceId !== 0 && !taken.has(slot.serviceId);
    const serviceId = isUnique ? slot.serviceId : serviceIds.take();
    taken.add(serviceId);
    const slots = [...backends].map(([key, backend]) => ({
      key,
      backendId: pool.acquire(key, backend),
    }));
    const frontend = makeFrontend(slot.frontend, serviceId, slots);
    const isMaglev = (slot.flags & SERVICE_MAGLEV) !== 0;
    frontend.backends = [...backends.values()];
    if (draining.size > 0)
      frontend.draining = new Map(
        [...draining].map(([text, { backend }]) => [
          text,
          { id: pool.acquire(text, backend), backend },
        ]),
      );
    frontend.settings = {
      isExternal: (slot.flags & SERVICE_EXTERNAL) !== 0,
      affinitySeconds: slot.affinitySeconds,
      algorithm: isMaglev ? 'maglev' : 'random',
    };
    frontend.maglevSize = isUnique ? slot.maglevSize : 0;
    const wantedMembers = remembers(frontend) ? slots.length : 0;
    frontend.isDoubtful =
      !isUnique ||
      !isWhole ||
      !isFinished(slot, maglevSize) ||
      active.size !== wantedMembers ||
      slots.some(({ backendId }) => wantedMembers > 0 && !active.has(backendId));
    state.frontends.set(frontend.text, frontend);
  }
  collectGarbage(found, { state, maps, garbage });
  return { state, garbage };
}

function isFinished({ flags, count, maglevSize }: SlotRow, wanted: MaglevTableSize): boolean {
  const size = (flags & SERVICE_MAGLEV) === 0 ? 0 : maglevSizeFor(count, wanted);
  return (flags & SERVICE_WRITING) === 0 && maglevSize === size;
}

function isAnyAbove(numbers: Iterable<number>, limit: number): boolean {
  for (const number of numbers) if (number > limit) return true;
  return false;
}

function collectGarbage(
  { frontends, slotIds, members }: Found,
  { state, maps, garbage }: { state: ServicesState; maps: ServiceMaps; garbage: Changes },
): void {
  const counts = new Map(frontends.map(({ bytes, backends }) => [bytes, backends.size]));
  for (const [bytes, ids] of slotIds) {
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
  }
  for (const { serviceId, backendId } of members) {
    if (memberIds.get(serviceId)?.has(backendId)) continue;
    garbage.memberDeletes.push({ serviceId, backendId });
  }
  const { fields, size } = MAGLEV_KEY;
  readMap(maps.maglev.fd, { ...blockCodec, name: maps.maglev.name }, (keys, _, count) => {
    for (let offset = 0; offset < count * size; offset += size) {
      const serviceId = keys.getUint32(offset + fields.serviceId, true);
      const block = keys.getUint32(offset + fields.block, true);
      if (block >= (tableBlocks.get(serviceId) ?? 0))
        garbage.blockDeletes.push({ serviceId, block });
    }
  });
}

const NOBODY = new Map<string, DrainingBackend>();
const NOTHING = new Set<number>();

function readKernel(maps: ServiceMaps): Found {
  const { heads, slotIds } = readSlots(maps.services);
  const backends = maps.backends.rows();
  const members = maps.members.rows();
  const backendById = new Map(
    backends.map(({ id, backend }) => [id, { key: backendKeyOf(backend), backend }]),
  );
  const membersByService = new Map<number, MemberRow[]>();
  for (const member of members) {
    const list = membersByService.get(member.serviceId);
    if (list === undefined) membersByService.set(member.serviceId, [member]);
    else list.push(member);
  }
  const frontends: FoundFrontend[] = [];
  for (const { bytes, slot } of heads) {
    const ids = slotIds.get(bytes);
    const found = new Map<string, Backend>();
    for (let index = 1; index <= slot.count; index += 1) {
      const entry = backendById.get(ids?.get(index) ?? 0);
      if (entry !== undefined) found.set(entry.key, entry.backend);
    }
    // Most have neither, and there may be tens of thousands.
    const memberList = membersByService.get(slot.serviceId);
    const draining = memberList === undefined ? NOBODY : new Map<string, DrainingBackend>();
    const active = memberList === undefined ? NOTHING : new Set<number>();
    for (const { state, backendId } of memberList ?? []) {
      const entry = backendById.get(backendId);
      if (state === 'active') active.add(backendId);
      else if (entry !== undefined && !found.has(entry.key)) {
        draining.set(entry.key, { id: backendId, backend: entry.backend });
      }
    }
    frontends.push({
      bytes,
      slot,
      backends: found,
      draining,
      active,
      isWhole: found.size === slot.count,
    });
  }
  return { frontends, slotIds, backends, members };
}

/** Key of a frontend as bytes, one character each: there are as many keys as slots, and most need not be understood. */
type FrontendBytes = string;

interface FoundSlots {
  readonly heads: readonly { readonly bytes: FrontendBytes; readonly slot: SlotRow }[];
  /** Backend ids of the slots from 1. */
  readonly slotIds: ReadonlyMap<FrontendBytes, ReadonlyMap<number, number>>;
}

function readSlots(map: OpenMap): FoundSlots {
  const { size, fields } = SERVICE_KEY;
  const heads: { bytes: FrontendBytes; slot: SlotRow }[] = [];
  const slotIds = new Map<FrontendBytes, Map<number, number>>();
  readMap(map.fd, { ...slotCodec, name: map.name }, (keys, values, count) => {
    const text = Buffer.from(keys.buffer, keys.byteOffset, keys.byteLength);
    for (let index = 0; index < count; index += 1) {
      const key = index * size;
      const value = index * SERVICE_VALUE.size;
      const bytes = text.toString('latin1', key, key + fields.slot);
      const slot = keys.getUint32(key + fields.slot, true);
      if (slot === 0) {
        heads.push({ bytes, slot: slotCodec.readRow(keys, key, values, value) });
        continue;
      }
      const id = values.getUint32(value + SERVICE_VALUE.fields.backendId, true);
      const ids = slotIds.get(bytes);
      if (ids === undefined) slotIds.set(bytes, new Map([[slot, id]]));
      else ids.set(slot, id);
    }
  });
  return { heads, slotIds };
}

/** The frontend of a key that was read as bytes. */
function readFrontendKey(bytes: FrontendBytes): FrontendKey {
  const key = new DataView(new ArrayBuffer(SERVICE_KEY.size));
  for (let index = 0; index < bytes.length; index += 1)
    key.setUint8(index, bytes.charCodeAt(index));
  const value = new DataView(new ArrayBuffer(SERVICE_VALUE.size));
  return slotCodec.readRow(key, 0, value, 0).frontend;
}
