/**
 * Frontends and their backends. A frontend's backends stand in slots 1 to n without gaps; a change touches only the
 * slots that change, however many there are. The order of writes lets a connect that runs meanwhile find a backend:
 * backends, slots, counts; then what goes, the other way round.
 */
import { ipFamily } from '../../../mesh/wire/ip.ts';
import { backendKeyOf, diffBackends } from '../backend-difference.ts';
import { DatapathError } from '../datapath-error.ts';
import type { Backend, DatapathTable, FrontendEntry } from '../desired.ts';
import { createRowMap, type RowMap, throwFirst } from '../map.ts';
import type { OpenMaps } from '../object.ts';
import { type BackendPool, createBackendPool } from './backend-pool.ts';
import {
  type BackendKey,
  type BackendRow,
  backendCodec,
  type FrontendKey,
  frontendKeyOf,
  type SlotKey,
  type SlotRow,
  slotCodec,
} from './service-map.ts';

/** A frontend as the kernel has it: slot i + 1 holds slots[i]. */
interface Frontend {
  readonly key: FrontendKey;
  readonly slots: Slot[];
  /** Place of each backend in `slots`, by its key. */
  readonly placeOf: Map<string, number>;
  /** The list that the slots were made of last. */
  backends: readonly Backend[];
}

interface Slot {
  /** Of the backend, by `backendKeyOf`: kept, because thousands of them are compared at each change. */
  readonly key: string;
  readonly backendId: number;
}

/** Kernel writes of one apply, in the order of the fields. */
interface Changes {
  readonly slots: SlotRow[];
  readonly counts: SlotRow[];
  readonly countDeletes: SlotKey[];
  readonly slotDeletes: SlotKey[];
}

interface KernelState {
  readonly frontends: Map<string, Frontend>;
  readonly pool: BackendPool;
}

/** The service and backend maps as one table. */
export function openServicesTable(
  maps: OpenMaps,
): DatapathTable<FrontendEntry, Pick<FrontendEntry, 'address' | 'port' | 'protocol'>> {
  const slotMap = createRowMap(maps.get('mesh_services'), slotCodec);
  const backendMap = createRowMap(maps.get('mesh_backends'), backendCodec);
  /** undefined: the kernel must be read (again), because writes failed half-way. */
  let state: KernelState | undefined;

  return {
    name: 'services',
    apply({ upserts, deletes }) {
      state ??= adopt(slotMap, backendMap);
      const { changes, failures } = plan(state, upserts, deletes);
      failures.push(...write(state.pool, changes, { slotMap, backendMap }));
      // A bad row was left out and changed nothing: only the kernel's refusals make our picture doubtful.
      if (failures.some((failure) => failure.code !== 'bad-row')) state = undefined;
      throwFirst(failures);
    },
    rows: () => readFrontends(slotMap.rows(), backendMap.rows()).map(({ frontend }) => frontend),
    keyOf: frontendKeyOf,
  };
}

function plan(
  state: KernelState,
  upserts: readonly FrontendEntry[],
  deletes: readonly FrontendKey[],
): { changes: Changes; failures: DatapathError[] } {
  const changes: Changes = { slots: [], counts: [], countDeletes: [], slotDeletes: [] };
  const failures: DatapathError[] = [];
  // One frontend is planned once: its last upsert, or its delete.
  const wanted = new Map(upserts.map((entry) => [frontendKeyOf(entry), entry]));
  for (const key of deletes) wanted.delete(frontendKeyOf(key));
  for (const entry of wanted.values()) {
    const backends = usableBackends(entry, failures);
    planUpsert(state, { key: entry, backends }, changes);
  }
  for (const key of deletes) planDelete(state, key, changes);
  return { changes, failures };
}

/** A socket of one family cannot connect to the other one. */
function usableBackends(entry: FrontendEntry, failures: DatapathError[]): readonly Backend[] {
  const family = ipFamily(entry.address);
  const bad = entry.backends.find((backend) => ipFamily(backend.address) !== family);
  if (bad === undefined) return entry.backends;
  failures.push(
    new DatapathError(
      'bad-row',
      `cannot give frontend ${frontendKeyOf(entry)} of ${entry.service} backend ${bad.address}: expected IPv${family}`,
    ),
  );
  return entry.backends.filter((backend) => ipFamily(backend.address) === family);
}

function planUpsert(
  { frontends, pool }: KernelState,
  wanted: { key: FrontendKey; backends: readonly Backend[] },
  changes: Changes,
): void {
  const text = frontendKeyOf(wanted.key);
  const { address, port, protocol } = wanted.key;
  const existing = frontends.get(text);
  const frontend = existing ?? makeFrontend({ address, port, protocol }, []);
  frontends.set(text, frontend);
  const { key, slots, placeOf } = frontend;
  const countBefore = slots.length;

  const { missing, gone } = differenceOf(frontend, wanted.backends);
  frontend.backends = wanted.backends;
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
    const { backendId } = slot;
    changes.slots.push({ frontend: key, slot: index + 1, count: 0, backendId });
  };
  for (const [backendKey, backend] of missing) {
    const backendId = pool.acquire(backendKey, backend);
    place(free.shift() ?? slots.length, { key: backendKey, backendId });
  }
  closeGaps(slots, free, place);
  for (let index = slots.length; index < countBefore; index += 1) {
    changes.slotDeletes.push({ frontend: key, slot: index + 1 });
  }
  if (existing === undefined || slots.length !== countBefore) {
    changes.counts.push({ frontend: key, slot: 0, count: slots.length, backendId: 0 });
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

function makeFrontend(key: FrontendKey, slots: Slot[]): Frontend {
  return {
    key,
    slots,
    placeOf: new Map(slots.map((slot, index) => [slot.key, index])),
    backends: [],
  };
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

function planDelete({ frontends, pool }: KernelState, key: FrontendKey, changes: Changes): void {
  const text = frontendKeyOf(key);
  const frontend = frontends.get(text);
  if (frontend === undefined) return;
  frontends.delete(text);
  changes.countDeletes.push({ frontend: frontend.key, slot: 0 });
  frontend.slots.forEach((slot, index) => {
    pool.release(slot.key);
    changes.slotDeletes.push({ frontend: frontend.key, slot: index + 1 });
  });
}

function write(
  pool: BackendPool,
  changes: Changes,
  maps: { slotMap: RowMap<SlotRow, SlotKey>; backendMap: RowMap<BackendRow, BackendKey> },
): DatapathError[] {
  return [
    ...maps.backendMap.upsert(pool.takeNew()),
    ...maps.slotMap.upsert(changes.slots),
    ...maps.slotMap.upsert(changes.counts),
    ...maps.slotMap.remove(changes.countDeletes),
    ...maps.slotMap.remove(changes.slotDeletes),
    ...maps.backendMap.remove(pool.takeUnused()),
  ];
}

/** Takes over what the kernel holds, and mends what a process that died in the middle of its writes has left. */
function adopt(
  slotMap: RowMap<SlotRow, SlotKey>,
  backendMap: RowMap<BackendRow, BackendKey>,
): KernelState {
  const slots = slotMap.rows();
  const backends = backendMap.rows();
  const pool = createBackendPool(backends);
  const state: KernelState = { frontends: new Map(), pool };
  const found = readFrontends(slots, backends);
  const broken: SlotRow[] = [];
  const counts = new Map<string, number>();
  for (const { frontend, isWhole } of found) {
    const { address, port, protocol } = frontend;
    const key = { address, port, protocol };
    const members = frontend.backends.map((backend) => {
      const backendKey = backendKeyOf(backend);
      return { key: backendKey, backendId: pool.acquire(backendKey, backend) };
    });
    const adopted = makeFrontend(key, members);
    adopted.backends = frontend.backends;
    state.frontends.set(frontendKeyOf(key), adopted);
    counts.set(frontendKeyOf(key), members.length);
    if (isWhole) continue;
    members.forEach(({ backendId }, index) => {
      broken.push({ frontend: key, slot: index + 1, count: 0, backendId });
    });
    broken.push({ frontend: key, slot: 0, count: members.length, backendId: 0 });
  }
  const beyond = slots.filter(
    ({ frontend, slot }) => slot > 0 && slot > (counts.get(frontendKeyOf(frontend)) ?? 0),
  );
  throwFirst([
    ...slotMap.upsert(broken),
    ...slotMap.remove(beyond),
    ...backendMap.remove(pool.takeUnused()),
  ]);
  return state;
}

/** Frontends with the backends that a connect could find. Not whole: a slot or backend is missing or stands twice. */
function readFrontends(
  slots: readonly SlotRow[],
  backends: readonly BackendRow[],
): { frontend: FrontendEntry; isWhole: boolean }[] {
  const backendById = new Map(backends.map(({ id, backend }) => [id, backend]));
  const idsByFrontend = new Map<string, Map<number, number>>();
  for (const { frontend, slot, backendId } of slots) {
    if (slot === 0) continue;
    const text = frontendKeyOf(frontend);
    const ids = idsByFrontend.get(text) ?? new Map<number, number>();
    idsByFrontend.set(text, ids.set(slot, backendId));
  }
  const found: { frontend: FrontendEntry; isWhole: boolean }[] = [];
  for (const { frontend, slot, count } of slots) {
    if (slot !== 0) continue;
    const ids = idsByFrontend.get(frontendKeyOf(frontend));
    const members = new Map<string, Backend>();
    for (let index = 1; index <= count; index += 1) {
      const id = ids?.get(index);
      const backend = id === undefined ? undefined : backendById.get(id);
      if (backend !== undefined) members.set(backendKeyOf(backend), backend);
    }
    found.push({
      frontend: { ...frontend, backends: [...members.values()], service: '' },
      isWhole: members.size === count,
    });
  }
  return found;
}
