/**
 * What the kernel's service maps hold, frontend by frontend. With tens of thousands of frontends that takes a while: it is
 * done in steps of a few milliseconds.
 */
import { SERVICE_KEY, SERVICE_VALUE } from '../../../mesh/wire/maps.ts';
import { backendKeyOf } from '../backend-difference.ts';
import type { Backend, FrontendKey } from '../desired.ts';
import { type RowMap, readMapParts } from '../map.ts';
import type { OpenMap } from '../object.ts';
import type { MemberKey, MemberRow } from './affinity-map.ts';
import type { BlockKey, BlockRow } from './maglev-map.ts';
import {
  type BackendKey,
  type BackendRow,
  type SlotKey,
  type SlotRow,
  slotCodec,
} from './service-map.ts';
import type { DrainingBackend } from './services-frontend.ts';

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

/** Key of a frontend as bytes, one character each: there are as many keys as slots, and most need not be understood. */
export type FrontendBytes = string;

/** A frontend with the backends that a connect could find. */
export interface FoundFrontend {
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

/** A backend and its key by `backendKeyOf`. */
export interface FoundBackend {
  readonly key: string;
  readonly backend: Backend;
}

/** All that was found. */
export interface Found {
  readonly frontends: readonly FoundFrontend[];
  /** Backend ids of the slots from 1, also of frontends that have no slot 0. */
  readonly slotIds: ReadonlyMap<FrontendBytes, ReadonlyMap<number, number>>;
  /** By id. */
  readonly backends: ReadonlyMap<number, FoundBackend>;
  readonly members: readonly MemberRow[];
}

/** Entries that are read, or put together, in a step: one to two milliseconds. */
const STEP = 1024;

const NOBODY: ReadonlyMap<string, DrainingBackend> = new Map();
const NOTHING: ReadonlySet<number> = new Set();

/** Reads all service maps but Maglev's. Nothing may write them meanwhile. Throws DatapathError `kernel`. */
export function* readServices(maps: ServiceMaps): Generator<undefined, Found> {
  const { heads, slotIds } = yield* readSlots(maps.services);
  const backends = new Map<number, FoundBackend>();
  for (const rows of maps.backends.scan()) {
    for (const { id, backend } of rows) backends.set(id, { key: backendKeyOf(backend), backend });
    yield;
  }
  const members: MemberRow[] = [];
  const membersByService = new Map<number, MemberRow[]>();
  for (const rows of maps.members.scan()) {
    for (const member of rows) {
      members.push(member);
      const list = membersByService.get(member.serviceId);
      if (list === undefined) membersByService.set(member.serviceId, [member]);
      else list.push(member);
    }
    yield;
  }
  const frontends: FoundFrontend[] = [];
  let work = 0;
  for (const { bytes, slot } of heads) {
    const ids = slotIds.get(bytes);
    const found = new Map<string, Backend>();
    for (let index = 1; index <= slot.count; index += 1) {
      const entry = backends.get(ids?.get(index) ?? 0);
      if (entry !== undefined) found.set(entry.key, entry.backend);
    }
    const list = membersByService.get(slot.serviceId);
    frontends.push({
      bytes,
      slot,
      backends: found,
      // Most have neither, and there may be tens of thousands.
      draining: list === undefined ? NOBODY : drainingOf(list, { backends, found }),
      active: list === undefined ? NOTHING : activeOf(list),
      isWhole: found.size === slot.count,
    });
    work += slot.count + 1;
    if (work < STEP) continue;
    work = 0;
    yield;
  }
  return { frontends, slotIds, backends, members };
}

function drainingOf(
  members: readonly MemberRow[],
  { backends, found }: { backends: Found['backends']; found: ReadonlyMap<string, Backend> },
): Map<string, DrainingBackend> {
  const draining = new Map<string, DrainingBackend>();
  for (const { state, backendId } of members) {
    const entry = state === 'draining' ? backends.get(backendId) : undefined;
    if (entry === undefined || found.has(entry.key)) continue;
    draining.set(entry.key, { id: backendId, backend: entry.backend });
  }
  return draining;
}

function activeOf(members: readonly MemberRow[]): Set<number> {
  const active = new Set<number>();
  for (const { state, backendId } of members) if (state === 'active') active.add(backendId);
  return active;
}

interface FoundSlots {
  readonly heads: readonly { readonly bytes: FrontendBytes; readonly slot: SlotRow }[];
  readonly slotIds: Found['slotIds'];
}

function* readSlots(map: OpenMap): Generator<undefined, FoundSlots> {
  const { size, fields } = SERVICE_KEY;
  const heads: { bytes: FrontendBytes; slot: SlotRow }[] = [];
  const slotIds = new Map<FrontendBytes, Map<number, number>>();
  const bytesOfMap = { ...slotCodec, fd: map.fd, name: map.name };
  for (const { keys, values, count } of readMapParts(bytesOfMap, STEP)) {
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
    yield;
  }
  return { heads, slotIds };
}

/** The frontend of a key that was read as bytes. */
export function readFrontendKey(bytes: FrontendBytes): FrontendKey {
  const key = new DataView(new ArrayBuffer(SERVICE_KEY.size));
  for (let index = 0; index < bytes.length; index += 1) {
    key.setUint8(index, bytes.charCodeAt(index));
  }
  const value = new DataView(new ArrayBuffer(SERVICE_VALUE.size));
  return slotCodec.readRow(key, 0, value, 0).frontend;
}
