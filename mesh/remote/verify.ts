/**
 * Proves after a list that what is held is what the server has: by their number at the list's revision, and where that
 * differs by their names. Works against any etcd, a plain Cilium's included.
 */
import { KvError, type KvStore } from '../kvstore/kvstore.ts';
import type { Ledger } from './ledger.ts';

/** What the comparison says. */
export type Verification =
  | { readonly kind: 'match' }
  | {
      readonly kind: 'mismatch';
      /** Keys that the server has and we do not, and the other way round. */
      readonly missing: number;
      readonly extra: number;
      readonly reason: string;
    }
  /** The server did not say. */
  | { readonly kind: 'unknown'; readonly reason: string };

/** What is held of a prefix. */
export interface HeldKeys {
  /** Names in use. */
  readonly held: Ledger;
  /** Keys that are refused. */
  readonly refused: Ledger;
  /** Names that are kept although the list did not name them. */
  readonly heldBack: number;
  /** Name under which a key would be held; undefined: under none. */
  readonly nameOf: (key: string) => string | undefined;
}

const MOST_EXAMPLES = 3;

/** Compares what is held with what the server had at a revision. Nothing may be applied meanwhile. Never throws a KvError. */
export async function verifyPrefix(
  store: KvStore,
  prefix: string,
  options: {
    readonly revision: bigint;
    /** How many keys the server has counted at that revision; undefined: it is asked. */
    readonly stated: number | undefined;
    readonly keys: HeldKeys;
    readonly signal: AbortSignal;
  },
): Promise<Verification> {
  const { revision, keys, signal } = options;
  const ours = keys.held.size + keys.refused.size - keys.heldBack;
  if (options.stated === ours) return { kind: 'match' };
  try {
    const { count } = await store.count(prefix, { revision, signal });
    if (count === ours) return { kind: 'match' };
    const listed = await store.keys(prefix, { revision, signal });
    return compareKeys(listed.keys, keys, { revision, count });
  } catch (error) {
    if (!(error instanceof KvError)) throw error;
    return { kind: 'unknown', reason: error.message };
  }
}

function compareKeys(
  theirs: readonly string[],
  { held, refused, heldBack, nameOf }: HeldKeys,
  { revision, count }: { readonly revision: bigint; readonly count: number },
): Verification {
  const missing: string[] = [];
  let shared = 0;
  for (const key of theirs) {
    const name = nameOf(key);
    if (refused.has(key) || (name !== undefined && held.has(name))) shared += 1;
    else missing.push(key);
  }
  const extra = held.size + refused.size - heldBack - shared;
  if (missing.length === 0 && extra === 0) {
    return {
      kind: 'mismatch',
      missing: 0,
      extra: 0,
      reason: `at revision ${revision} the server counts ${count} keys and lists ${theirs.length}: it contradicts itself`,
    };
  }
  const examples = missing.slice(0, MOST_EXAMPLES).join(', ');
  return {
    kind: 'mismatch',
    missing: missing.length,
    extra,
    reason: `at revision ${revision} the server has ${theirs.length} keys, ${missing.length} of them are not held here${examples === '' ? '' : ` (${examples})`}, and ${extra} are held that it does not have`,
  };
}
