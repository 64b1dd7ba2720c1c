/** A frontend as the kernel has it, or will have it after the next writes. */
import { SERVICE_EXTERNAL, SERVICE_MAGLEV } from '../../../mesh/wire/maps.ts';
import type { Backend, FrontendEntry, FrontendKey } from '../desired.ts';
import { fillMaglevTable, type MaglevTableSize } from './maglev.ts';
import { frontendKeyOf, type SlotRow } from './service-map.ts';

/** What there is to say of a frontend besides its backends. */
export type FrontendSettings = Pick<FrontendEntry, 'isExternal' | 'affinitySeconds' | 'algorithm'>;

/** A place of a frontend: slot i + 1 of the kernel holds slots[i]. */
export interface Slot {
  /** Of the backend, by `backendKeyOf`: kept, because thousands of them are compared at each change. */
  readonly key: string;
  readonly backendId: number;
}

export interface DrainingBackend {
  readonly id: number;
  readonly backend: Backend;
}

/** Planning changes it, ahead of the kernel. */
export interface Frontend {
  readonly key: FrontendKey;
  readonly text: string;
  readonly serviceId: number;
  readonly slots: Slot[];
  /** Place of each backend in `slots`, by its key. */
  readonly placeOf: Map<string, number>;
  /** The list that the slots were made of last. */
  backends: readonly Backend[];
  /** By key; never one that has a slot. */
  draining: ReadonlyMap<string, DrainingBackend>;
  settings: FrontendSettings;
  /** Entries of its Maglev table, 0: none. */
  maglevSize: number;
  /** What the kernel holds is not known for certain: with the next change everything is written. */
  isDoubtful: boolean;
}

const NOBODY: ReadonlyMap<string, DrainingBackend> = new Map();

/** A frontend with these slots and nothing else. */
export function makeFrontend(key: FrontendKey, serviceId: number, slots: Slot[]): Frontend {
  const { address, port, protocol, scope } = key;
  return {
    key: { address, port, protocol, scope },
    text: frontendKeyOf(key),
    serviceId,
    slots,
    placeOf: new Map(slots.map((slot, index) => [slot.key, index])),
    backends: [],
    draining: NOBODY,
    settings: { isExternal: false, affinitySeconds: 0, algorithm: 'random' },
    maglevSize: 0,
    isDoubtful: false,
  };
}

/** Whether clients or sockets remember which backend they had: then its active backends are members, too. */
export function remembers({ key, settings }: Pick<Frontend, 'key' | 'settings'>): boolean {
  return settings.affinitySeconds > 0 || key.protocol === 'UDP';
}

/** Slot 0. */
export function countSlot(frontend: Frontend): SlotRow {
  const { key, serviceId, slots, settings, maglevSize } = frontend;
  return {
    frontend: key,
    slot: 0,
    count: slots.length,
    backendId: 0,
    serviceId,
    affinitySeconds: settings.affinitySeconds,
    maglevSize,
    flags:
      (settings.isExternal ? SERVICE_EXTERNAL : 0) |
      (settings.algorithm === 'maglev' ? SERVICE_MAGLEV : 0),
  };
}

/** Maglev table of the slots, in backend ids: the same on all nodes but for the ids. */
export function maglevTableOf(slots: readonly Slot[], size: MaglevTableSize): Uint32Array {
  const sorted = [...slots].sort((a, b) => (a.key < b.key ? -1 : 1));
  const table = fillMaglevTable(
    sorted.map(({ key }) => placeName(key)),
    size,
  );
  return table.map((index) => sorted[index]?.backendId ?? 0);
}

/** Address and port in a key of `backendKeyOf`: what a backend is to its clients, wherever it runs. */
function placeName(backendKey: string): string {
  return backendKey.slice(backendKey.indexOf(' ') + 1, backendKey.lastIndexOf(' '));
}

/** Protocol, address and port in a key of `backendKeyOf`. */
export function socketNameOf(backendKey: string): string {
  return backendKey.slice(0, backendKey.lastIndexOf(' '));
}
