/** Follows the digests that a publisher writes beside its data. A plain Cilium writes none, and does not let us look. */
import { KvError, type KvPair, type KvStore } from '../kvstore/kvstore.ts';
import type { Clock } from '../runtime/clock.ts';
import { decodeMeshDigest, type MeshDigest } from '../wire/digest.ts';
import { LOCAL_DIGEST_PREFIX, MESH_DIGEST_PREFIX, meshDigestKey } from '../wire/keys.ts';
import { WireError } from '../wire/wire-error.ts';

/** How often a server that does not show digests is asked again: it may have been upgraded. */
const ASK_AGAIN_MS = 300_000;

/** A digest and the revision at which it was written. */
export interface PublishedDigest {
  readonly revision: bigint;
  readonly digest: MeshDigest;
}

/** Digests of one server, by prefix. */
export interface Digests {
  /** Whether there is one for a prefix, as far as was heard. */
  has(prefix: string): boolean;
  /** Reads the newest now; undefined where there is none, or none that can be read. */
  read(store: KvStore, prefix: string, signal: AbortSignal): Promise<PublishedDigest | undefined>;
  /** Calls back for each digest of a prefix that comes, until the returned function is called. */
  follow(prefix: string, callback: (digest: PublishedDigest) => void): () => void;
}

/** Resolves when it is known what there is, and then goes on following it as `run`, until `signal` aborts. */
export async function openDigests(
  store: KvStore,
  options: {
    /** Whether it is the own cluster's, which has digests for its own agents beside. */
    readonly own: boolean;
    readonly clock: Clock;
    readonly signal: AbortSignal;
  },
): Promise<Digests & { readonly run: () => Promise<void> }> {
  const { clock, signal } = options;
  const known = new Set<string>();
  const callbacks = new Map<string, Set<(digest: PublishedDigest) => void>>();

  const take = ({ key, value, modRevision }: KvPair): void => {
    known.add(key);
    try {
      const published = { revision: modRevision, digest: decodeMeshDigest(value, key) };
      for (const callback of callbacks.get(key) ?? []) callback(published);
    } catch (error) {
      // A digest of a newer schema says nothing to us; that there is none we can read is what status tells.
      if (!(error instanceof WireError)) throw error;
      known.delete(key);
    }
  };
  /** Ends when `signal` aborts, or where we are not let look. */
  const follow = async (prefix: string, onAnswered: () => void): Promise<void> => {
    for await (const event of store.watch({ prefix }, { signal })) {
      if (event.kind === 'delete') known.delete(event.key);
      else if (event.kind === 'put') take(event.pair);
      else if (event.kind === 'synced') onAnswered();
      else if (event.kind === 'disconnected') {
        onAnswered();
        if (!event.error.retryable) return;
      }
    }
  };
  const followForEver = async (prefix: string, onAnswered: () => void): Promise<void> => {
    while (!signal.aborted) {
      await follow(prefix, onAnswered);
      if (signal.aborted) return;
      await clock.sleep(ASK_AGAIN_MS * (0.5 + Math.random()), signal).catch(() => undefined);
    }
  };
  const prefixes = options.own ? [MESH_DIGEST_PREFIX, LOCAL_DIGEST_PREFIX] : [MESH_DIGEST_PREFIX];
  const followers: Promise<void>[] = [];
  const answers = prefixes.map(
    (prefix) =>
      new Promise<void>((resolve, reject) => {
        const following = followForEver(prefix, resolve);
        followers.push(following);
        following.then(resolve, reject);
      }),
  );
  await Promise.all(answers);

  return {
    has: (prefix) => known.has(meshDigestKey(prefix)),
    async read(from, prefix, reading) {
      const key = meshDigestKey(prefix);
      try {
        const pair = await from.get(key, { signal: reading });
        if (pair === undefined) return undefined;
        return { revision: pair.modRevision, digest: decodeMeshDigest(pair.value, key) };
      } catch (error) {
        if (error instanceof KvError || error instanceof WireError) return undefined;
        throw error;
      }
    },
    follow(prefix, callback) {
      const key = meshDigestKey(prefix);
      const found = callbacks.get(key) ?? new Set();
      callbacks.set(key, found.add(callback));
      return () => found.delete(callback);
    },
    async run() {
      await Promise.all(followers);
    },
  };
}
