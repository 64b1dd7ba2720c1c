/** Clusters that are mirrored in the own etcd, by whichever replica: machines read their peers there and nowhere else. */
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { MESH_PEER_PREFIX } from '../../mesh/wire/keys.ts';

/** A mirror that begins anew, or an etcd that has lost its data, shall not make every machine forget its peers. */
const ABSENT_MS = 60_000;
/** How long it is waited for a mirror's first word. */
const FIRST_WORD_MS = 15_000;
const LOOK_MS = 1_000;

/** The peers. */
export interface MirroredPeers {
  /** Their names in order; undefined while that is not known. */
  readonly names: readonly string[] | undefined;
  /** Follows the mirrors' reports until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Makes an empty list. `isExpected`: whether a mirror runs, so that none at all is not believed at once. */
export function createMirroredPeers(options: {
  readonly store: KvStore;
  readonly isExpected: boolean;
  readonly clock: Clock;
}): MirroredPeers {
  const { store, isExpected, clock } = options;
  const began = clock.monotonic();
  const present = new Set<string>();
  /** Since when a report is missing. */
  const absent = new Map<string, number>();
  let isSynced = false;
  let names: readonly string[] | undefined;

  const look = (): void => {
    for (const [name, since] of absent) {
      if (clock.monotonic() - since >= ABSENT_MS) absent.delete(name);
    }
    const isLate = clock.monotonic() - began >= FIRST_WORD_MS;
    if (!isSynced || (isExpected && names === undefined && present.size === 0 && !isLate)) return;
    const next = [...present, ...absent.keys()].sort();
    if (names?.join() !== next.join()) names = next;
  };
  const follow = async (signal: AbortSignal): Promise<void> => {
    for await (const event of store.watch({ prefix: MESH_PEER_PREFIX }, { signal })) {
      if (event.kind === 'put') {
        const name = event.pair.key.slice(MESH_PEER_PREFIX.length);
        present.add(name);
        absent.delete(name);
      }
      if (event.kind === 'delete') {
        const name = event.key.slice(MESH_PEER_PREFIX.length);
        if (present.delete(name)) absent.set(name, clock.monotonic());
      }
      if (event.kind === 'synced') isSynced = true;
      look();
    }
  };
  const lookAgain = async (signal: AbortSignal): Promise<void> => {
    while (!signal.aborted) {
      await clock.sleep(LOOK_MS, signal).catch(() => undefined);
      look();
    }
  };
  return {
    get names() {
      return names;
    },
    async run(signal) {
      await Promise.all([follow(signal), lookAgain(signal)]);
    },
  };
}
