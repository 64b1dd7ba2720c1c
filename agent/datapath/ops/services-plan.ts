/** What has to be written so that frontends are as wanted: work and writes in proportion to what changes. */
import { ipFamily } from '../../../mesh/wire/ip.ts';
import { SERVICE_WRITING } from '../../../mesh/wire/maps.ts';
import { backendKeyOf, diffBackends } from '../backend-difference.ts';
import { DatapathError } from '../datapath-error.ts';
import type { Backend, FrontendEntry, FrontendKey } from '../desired.ts';
import type { MemberKey, MemberRow } from './affinity-map.ts';
import type { BackendPool } from './backend-pool.ts';
import type { IdRing } from './id-ring.ts';
import { type MaglevTableSize, maglevSizeFor } from './maglev.ts';
import { type BlockKey, type BlockRow, blockKeys, blocksOf, changedBlocks } from './maglev-map.ts';
import { backendSlot, frontendKeyOf, type SlotKey, type SlotRow } from './service-map.ts';
import {
  countSlot,
  type DrainingBackend,
  type Frontend,
  maglevTableOf,
  makeFrontend,
  remembers,
  type Slot,
} from './services-frontend.ts';

/** All frontends of the kernel, as planned. */
export interface ServicesState {
  readonly frontends: Map<string, Frontend>;
  readonly pool: BackendPool;
  readonly serviceIds: IdRing;
}

/** What a frontend is to become. */
export type WantedFrontend = Omit<FrontendEntry, 'service'>;

/** Kernel writes of one apply, in the order of the fields. New backends come before all, unused ones go after all. */
export interface Changes {
  /** Frontends that are written. */
  readonly touched: Frontend[];
  /** Slots 0 as they are, marked: their members or Maglev tables are about to change. */
  readonly marks: SlotRow[];
  readonly members: MemberRow[];
  readonly blocks: BlockRow[];
  readonly slots: SlotRow[];
  readonly countDeletes: SlotKey[];
  readonly memberDeletes: MemberKey[];
  /** Frontends whose slot 0 is written; that takes the mark away. */
  readonly counts: Set<Frontend>;
  readonly slotDeletes: SlotKey[];
  readonly blockDeletes: BlockKey[];
}

/** A backend that a frontend has lost altogether. */
export interface Loss {
  readonly frontend: string;
  readonly backend: string;
}

/** Nothing to write. */
export function noChanges(): Changes {
  return {
    touched: [],
    marks: [],
    members: [],
    blocks: [],
    slots: [],
    countDeletes: [],
    memberDeletes: [],
    counts: new Set(),
    slotDeletes: [],
    blockDeletes: [],
  };
}

/** Why a frontend cannot be written at all. */
export function frontendProblem({
  address,
  port,
  service,
}: FrontendEntry): DatapathError | undefined {
  if (isPort(port)) return undefined;
  return new DatapathError(
    'bad-row',
    `cannot write frontend ${address} of ${service} with port ${port}: expected 1 to 65535`,
  );
}

/** The backends that can be written: a socket of one family cannot connect to the other one. */
export function usableBackends(
  entry: FrontendEntry,
  backends: readonly Backend[],
  failures: DatapathError[],
): readonly Backend[] {
  const family = ipFamily(entry.address);
  const isUsable = (backend: Backend): boolean =>
    ipFamily(backend.address) === family && isPort(backend.port);
  const bad = backends.find((backend) => !isUsable(backend));
  if (bad === undefined) return backends;
  failures.push(
    new DatapathError(
      'bad-row',
      `cannot give frontend ${frontendKeyOf(entry)} of ${entry.service} backend ${bad.address} port ${bad.port}: expected IPv${family} and a port from 1 to 65535`,
    ),
  );
  return backends.filter(isUsable);
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port >= 1 && port <= 0xffff;
}

/**
 * Plans one frontend; `changes` and the state take the result. Returns what it lost. One that is planned and should be so
 * already is written whole: whoever asks for it has found the kernel to be different.
 */
export function planUpsert(
  state: ServicesState,
  wanted: WantedFrontend,
  options: { readonly changes: Changes; readonly maglevSize: MaglevTableSize },
): Loss[] {
  const { frontends, pool, serviceIds } = state;
  const { changes } = options;
  const text = frontendKeyOf(wanted);
  const existing = frontends.get(text);
  const frontend = existing ?? makeFrontend(wanted, serviceIds.take(), []);
  frontends.set(text, frontend);
  changes.touched.push(frontend);
  const before = {
    slot: countSlot(frontend),
    remembers: existing !== undefined && remembers(frontend),
    draining: frontend.draining,
  };
  const { missing, gone } = differenceOf(frontend, wanted.backends);
  const isMoved = missing.size > 0 || gone.length > 0;
  const rewrite =
    existing === undefined || frontend.isDoubtful || (!isMoved && hasRest(frontend, wanted));
  const { isExternal, affinitySeconds, algorithm } = wanted;
  const tableSize =
    algorithm === 'maglev'
      ? maglevSizeFor(frontend.slots.length - gone.length + missing.size, options.maglevSize)
      : 0;
  const tableBefore =
    !rewrite && isMoved && tableSize !== 0 && frontend.maglevSize === tableSize
      ? maglevTableOf(frontend.slots, tableSize)
      : undefined;

  const members = new Map<number, MemberRow['state'] | 'none'>();
  for (const key of gone) {
    const slot = frontend.slots[frontend.placeOf.get(key) ?? -1];
    if (slot !== undefined && before.remembers) members.set(slot.backendId, 'none');
  }
  if (rewrite && existing !== undefined) {
    for (const backend of [...wanted.backends, ...wanted.draining]) {
      pool.renew(backendKeyOf(backend), backend);
    }
  }
  planSlots(frontend, { missing, gone, rewrite }, { pool, changes });
  frontend.backends = wanted.backends;
  frontend.settings = { isExternal, affinitySeconds, algorithm };
  frontend.isDoubtful = false;
  planDraining(frontend, wanted.draining, { pool, members, rewrite });
  planMembers(frontend, { missing, remembered: before.remembers, rewrite }, members);
  for (const [backendId, state] of members) {
    const { serviceId } = frontend;
    if (state === 'none') changes.memberDeletes.push({ serviceId, backendId });
    else changes.members.push({ serviceId, backendId, state });
  }

  let isMarked = members.size > 0;
  if (tableSize !== 0 && (isMoved || rewrite || frontend.maglevSize !== tableSize)) {
    const table = maglevTableOf(frontend.slots, tableSize);
    const blocks = changedBlocks(frontend.serviceId, table, tableBefore);
    if (blocks.length > 0) {
      for (const block of blocks) changes.blocks.push(block);
      isMarked = true;
    }
  }
  changes.blockDeletes.push(
    ...blockKeys(frontend.serviceId, blocksOf(tableSize), frontend.maglevSize),
  );
  frontend.maglevSize = tableSize;
  if (isMarked) {
    const { slot } = before;
    if (existing !== undefined)
      changes.marks.push({ ...slot, flags: slot.flags | SERVICE_WRITING });
    changes.counts.add(frontend);
  }
  if (rewrite || !sameSlot(before.slot, countSlot(frontend))) changes.counts.add(frontend);

  const losses: Loss[] = [];
  for (const backend of [...gone, ...before.draining.keys()]) {
    if (frontend.placeOf.has(backend) || frontend.draining.has(backend)) continue;
    losses.push({ frontend: text, backend });
  }
  return losses;
}

/** Whether a frontend is as wanted in all but its active backends. */
function hasRest({ settings, draining }: Frontend, wanted: WantedFrontend): boolean {
  return (
    settings.isExternal === wanted.isExternal &&
    settings.affinitySeconds === wanted.affinitySeconds &&
    settings.algorithm === wanted.algorithm &&
    draining.size === wanted.draining.length &&
    wanted.draining.every((backend) => draining.has(backendKeyOf(backend)))
  );
}

function sameSlot(a: SlotRow, b: SlotRow): boolean {
  return (
    a.count === b.count &&
    a.affinitySeconds === b.affinitySeconds &&
    a.maglevSize === b.maglevSize &&
    a.flags === b.flags
  );
}

/** Puts missing backends where others have gone, and closes the gaps that stay. */
function planSlots(
  { key, slots, placeOf }: Frontend,
  { missing, gone, rewrite }: SlotDifference & { rewrite: boolean },
  { pool, changes }: { pool: BackendPool; changes: Changes },
): void {
  const countBefore = slots.length;
  const free: number[] = [];
  for (const backendKey of gone) {
    const index = placeOf.get(backendKey);
    if (index === undefined) continue;
    placeOf.delete(backendKey);
    free.push(index);
    pool.release(backendKey);
  }
  free.sort((a, b) => a - b);
  const place = (index: number, slot: Slot): void => {
    slots[index] = slot;
    placeOf.set(slot.key, index);
    if (!rewrite) changes.slots.push(backendSlot(key, index + 1, slot.backendId));
  };
  for (const [backendKey, backend] of missing) {
    const backendId = pool.acquire(backendKey, backend);
    place(free.shift() ?? slots.length, { key: backendKey, backendId });
  }
  closeGaps(slots, free, place);
  if (rewrite) {
    slots.forEach(({ backendId }, index) => {
      changes.slots.push(backendSlot(key, index + 1, backendId));
    });
  }
  for (let index = slots.length; index < countBefore; index += 1) {
    changes.slotDeletes.push({ frontend: key, slot: index + 1 });
  }
}

function planDraining(
  frontend: Frontend,
  wanted: readonly Backend[],
  options: {
    pool: BackendPool;
    members: Map<number, MemberRow['state'] | 'none'>;
    rewrite: boolean;
  },
): void {
  const { pool, members, rewrite } = options;
  const before = frontend.draining;
  if (wanted.length === 0 && before.size === 0) return;
  const now = new Map<string, DrainingBackend>();
  for (const backend of wanted) {
    const key = backendKeyOf(backend);
    if (frontend.placeOf.has(key) || now.has(key)) continue;
    now.set(key, { id: pool.acquire(key, backend), backend });
  }
  for (const [key, { id }] of before) {
    pool.release(key);
    if (!now.has(key)) members.set(id, 'none');
  }
  for (const [key, { id }] of now) {
    if (rewrite || !before.has(key)) members.set(id, 'draining');
  }
  frontend.draining = now;
}

function planMembers(
  frontend: Frontend,
  change: { missing: ReadonlyMap<string, Backend>; remembered: boolean; rewrite: boolean },
  members: Map<number, MemberRow['state'] | 'none'>,
): void {
  const { slots, placeOf } = frontend;
  const isRemembering = remembers(frontend);
  if (isRemembering && !change.rewrite && change.remembered) {
    for (const key of change.missing.keys()) {
      const slot = slots[placeOf.get(key) ?? -1];
      if (slot !== undefined) members.set(slot.backendId, 'active');
    }
  } else if (isRemembering || change.remembered) {
    for (const { backendId } of slots) members.set(backendId, isRemembering ? 'active' : 'none');
  }
}

/** Backends that have no slot yet, by key, and keys of those that lose theirs. */
interface SlotDifference {
  readonly missing: ReadonlyMap<string, Backend>;
  readonly gone: readonly string[];
}

/** Compares with the list before, and with all slots only where that list was not what they held. */
function differenceOf(frontend: Frontend, wanted: readonly Backend[]): SlotDifference {
  const { slots, placeOf, backends } = frontend;
  if (backends.length === slots.length) {
    const { added, removed } = diffBackends(backends, wanted);
    const missing = new Map<string, Backend>();
    for (const backend of added) {
      const key = backendKeyOf(backend);
      if (!placeOf.has(key)) missing.set(key, backend);
    }
    const gone = removed.map(backendKeyOf).filter((key) => placeOf.has(key));
    // Otherwise some backend stands in a list twice.
    if (slots.length - gone.length + missing.size === wanted.length) return { missing, gone };
  }
  const missing = new Map(wanted.map((backend) => [backendKeyOf(backend), backend]));
  const gone = slots.filter(({ key }) => !missing.delete(key)).map(({ key }) => key);
  return { missing, gone };
}

/** Moves backends from the end into the free slots; `free` is ascending. */
function closeGaps(
  slots: Slot[],
  free: readonly number[],
  place: (index: number, slot: Slot) => void,
): void {
  const gaps = new Set(free);
  for (const index of free) {
    while (slots.length > 0 && gaps.has(slots.length - 1)) slots.pop();
    if (index >= slots.length) return;
    const last = slots.pop();
    if (last !== undefined) place(index, last);
    gaps.delete(index);
  }
}

/** Plans the end of a frontend, also of one that only the kernel knows. Returns what it had. */
export function planDelete(
  { frontends, pool, serviceIds }: ServicesState,
  key: FrontendKey,
  changes: Changes,
): Loss[] {
  const text = frontendKeyOf(key);
  const frontend = frontends.get(text);
  if (frontend === undefined) {
    changes.countDeletes.push({ frontend: key, slot: 0 });
    return [];
  }
  const { serviceId, slots, draining } = frontend;
  const losses: Loss[] = [];
  const isRemembering = remembers(frontend);
  frontends.delete(text);
  serviceIds.release(serviceId);
  changes.countDeletes.push({ frontend: frontend.key, slot: 0 });
  slots.forEach((slot, index) => {
    pool.release(slot.key);
    if (isRemembering) changes.memberDeletes.push({ serviceId, backendId: slot.backendId });
    changes.slotDeletes.push({ frontend: frontend.key, slot: index + 1 });
    losses.push({ frontend: text, backend: slot.key });
  });
  for (const [backend, { id }] of draining) {
    pool.release(backend);
    changes.memberDeletes.push({ serviceId, backendId: id });
    losses.push({ frontend: text, backend });
  }
  changes.blockDeletes.push(...blockKeys(serviceId, 0, frontend.maglevSize));
  return losses;
}
