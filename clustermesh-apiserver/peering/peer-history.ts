/** What peers were before each change that was asked for here, so that it can be undone. Kept in the own etcd. */
import { z } from 'zod';
import { KvError, type KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { REGISTRY_PREFIX } from '../../mesh/wire/keys.ts';

/** Where it is kept, a key a peer. */
export const PEER_HISTORY_PREFIX = `${REGISTRY_PREFIX}peer-history/`;

const SCHEMA = 1;
const MOST_REVISIONS = 10;
const ATTEMPTS = 5;

/** One change. */
export interface PeerRevision {
  /** Counts the changes of one peer from 1. */
  readonly revision: number;
  readonly outcome: 'created' | 'changed' | 'deleted';
  /** Milliseconds since 1970. */
  readonly at: number;
  /** Common name of who asked for it. */
  readonly by: string;
  /** The MeshPeer in YAML before it; empty: there was none. */
  readonly before: string;
}

/** The history of all peers. */
export interface PeerHistory {
  /**
   * Notes a change that is about to be made; its number. Who was killed before it was made, and makes it now, notes nothing new: a
   * change like the latest one, by the same person from the same state, has that one's number. Throws KvError.
   */
  note(
    name: ClusterName,
    change: Pick<PeerRevision, 'outcome' | 'by' | 'before'>,
    signal: AbortSignal,
  ): Promise<number>;
  /** Changes of a peer, the latest first. Throws KvError. */
  of(name: string, signal: AbortSignal): Promise<readonly PeerRevision[]>;
}

const recordSchema = z.object({
  schema: z.literal(SCHEMA),
  revisions: z.array(
    z.object({
      revision: z.number().int().positive(),
      outcome: z.enum(['created', 'changed', 'deleted']),
      at: z.number(),
      by: z.string(),
      before: z.string(),
    }),
  ),
});

/** Opens it. */
export function createPeerHistory(options: {
  readonly store: KvStore;
  readonly clock: Clock;
}): PeerHistory {
  const { store, clock } = options;
  const read = async (
    name: string,
    signal: AbortSignal,
  ): Promise<{ revisions: readonly PeerRevision[]; modRevision: bigint | undefined }> => {
    const found = await store.get(PEER_HISTORY_PREFIX + name, { signal });
    if (found === undefined) return { revisions: [], modRevision: undefined };
    return { revisions: parse(found.value), modRevision: found.modRevision };
  };
  return {
    async note(name, change, signal) {
      const key = PEER_HISTORY_PREFIX + name;
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const { revisions, modRevision } = await read(name, signal);
        const [latest] = revisions;
        if (latest !== undefined && isSame(latest, change)) return latest.revision;
        const revision = (latest?.revision ?? 0) + 1;
        const next = [{ ...change, revision, at: clock.now() }, ...revisions];
        const value = JSON.stringify({ schema: SCHEMA, revisions: next.slice(0, MOST_REVISIONS) });
        const { succeeded } = await store.transact(
          {
            compare: [modRevision === undefined ? { key, exists: false } : { key, modRevision }],
            then: [{ kind: 'put', key, value }],
          },
          { signal },
        );
        if (succeeded) return revision;
      }
      throw new KvError('unavailable', `cannot write ${key}: others write it all the time`, {
        retryable: true,
      });
    },
    of: async (name, signal) => (await read(name, signal)).revisions,
  };
}

function isSame(
  a: Pick<PeerRevision, 'outcome' | 'by' | 'before'>,
  b: Pick<PeerRevision, 'outcome' | 'by' | 'before'>,
): boolean {
  return a.outcome === b.outcome && a.by === b.by && a.before === b.before;
}

/** A record that cannot be read was written by a later version: its changes cannot be undone here, and are lost with the next. */
function parse(value: Buffer): readonly PeerRevision[] {
  try {
    return recordSchema.parse(JSON.parse(value.toString('utf8'))).revisions;
  } catch {
    return [];
  }
}
