import { backendKeyOf } from '../backend-difference.ts';
import type { Backend } from '../desired.ts';
import { createIdRing } from './id-ring.ts';
import type { BackendKey, BackendRow } from './service-map.ts';

/** Backends by id, shared by all frontends that name the same address, port, protocol and cluster. */
export interface BackendPool {
  /** The kernel holds it under this id. */
  adopt(key: string, id: number): void;
  /** One more frontend uses it: its id, a new one when it had none. */
  acquire(key: string, backend: Backend): number;
  /** One frontend less uses it. */
  release(key: string): void;
  /** It is to be written again, as a new one would be. */
  renew(key: string, backend: Backend): void;
  /** Backends that got an id since the last call. */
  takeNew(): BackendRow[];
  /** Of those, some may not have been written: they are new again. */
  putBack(rows: readonly BackendRow[]): void;
  /** Backends that nobody uses any more; they lose their ids. */
  takeUnused(): BackendKey[];
}

interface Member {
  readonly id: number;
  uses: number;
}

/** A pool without backends. */
export function createBackendPool(): BackendPool {
  const members = new Map<string, Member>();
  const ids = createIdRing();
  const fresh: BackendRow[] = [];
  /** Members that may be unused: looked at again when they are taken. */
  const idle = new Set<string>();
  /** Ids of a backend that the kernel holds twice. */
  const doubles: BackendKey[] = [];

  return {
    adopt(key, id) {
      ids.reserve(id);
      if (members.has(key)) {
        doubles.push({ id });
      } else {
        members.set(key, { id, uses: 0 });
        idle.add(key);
      }
    },
    acquire(key, backend) {
      const member = members.get(key);
      if (member !== undefined) {
        member.uses += 1;
        return member.id;
      }
      const id = ids.take();
      members.set(key, { id, uses: 1 });
      fresh.push({ id, backend });
      return id;
    },
    release(key) {
      const member = members.get(key);
      if (member === undefined) return;
      member.uses -= 1;
      if (member.uses === 0) idle.add(key);
    },
    renew(key, backend) {
      const member = members.get(key);
      if (member !== undefined) fresh.push({ id: member.id, backend });
    },
    takeNew: () => fresh.splice(0),
    putBack(rows) {
      for (const row of rows) {
        if (members.get(backendKeyOf(row.backend))?.id === row.id) fresh.push(row);
      }
    },
    takeUnused() {
      const unused = doubles.splice(0);
      for (const key of idle) {
        const member = members.get(key);
        if (member === undefined || member.uses > 0) continue;
        members.delete(key);
        unused.push({ id: member.id });
      }
      idle.clear();
      for (const { id } of unused) ids.release(id);
      return unused;
    },
  };
}
