import { backendKeyOf } from '../backend-difference.ts';
import type { Backend } from '../desired.ts';
import type { BackendKey, BackendRow } from './service-map.ts';

/** Backends by id, shared by all frontends that name the same address, port, protocol and cluster. */
export interface BackendPool {
  /** One more frontend uses it: its id, a new one when it had none. */
  acquire(key: string, backend: Backend): number;
  /** One frontend less uses it. */
  release(key: string): void;
  /** Backends that got an id since the last call. */
  takeNew(): BackendRow[];
  /** Backends that nobody uses any more; they lose their ids. */
  takeUnused(): BackendKey[];
}

interface Member {
  readonly id: number;
  uses: number;
}

const LAST_ID = 0xffffffff;

/** A pool that knows what the kernel map holds already. */
export function createBackendPool(existing: readonly BackendRow[]): BackendPool {
  const members = new Map<string, Member>();
  const usedIds = new Set<number>();
  const fresh: BackendRow[] = [];
  /** Members that may be unused: looked at again when they are taken. */
  const idle = new Set<string>();
  /** Ids of a backend that the kernel holds twice. */
  const doubles: BackendKey[] = [];
  let lastId = 0;

  for (const { id, backend } of existing) {
    const key = backendKeyOf(backend);
    usedIds.add(id);
    lastId = Math.max(lastId, id);
    if (members.has(key)) {
      doubles.push({ id });
    } else {
      members.set(key, { id, uses: 0 });
      idle.add(key);
    }
  }

  /** Ids go round, so that one that was just freed is not soon another backend for a reader that still holds it. */
  function nextId(): number {
    do {
      lastId = lastId >= LAST_ID ? 1 : lastId + 1;
    } while (usedIds.has(lastId));
    usedIds.add(lastId);
    return lastId;
  }

  return {
    acquire(key, backend) {
      const member = members.get(key);
      if (member !== undefined) {
        member.uses += 1;
        return member.id;
      }
      const id = nextId();
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
    takeNew: () => fresh.splice(0),
    takeUnused() {
      const unused = doubles.splice(0);
      for (const key of idle) {
        const member = members.get(key);
        if (member === undefined || member.uses > 0) continue;
        members.delete(key);
        unused.push({ id: member.id });
      }
      idle.clear();
      for (const { id } of unused) usedIds.delete(id);
      return unused;
    },
  };
}
