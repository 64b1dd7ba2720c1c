/** Where numbers of identities and their labels stand in etcd: for peers and own agents, or for own agents alone. */
import type { KvCompare, KvOp, KvPair, KvStore } from '../../mesh/kvstore/kvstore.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import {
  identityKey,
  LOCAL_IDENTITIES_PREFIX,
  localIdentityKey,
  REGISTRY_PREFIX,
} from '../../mesh/wire/keys.ts';

/** Where numbers are kept by their labels. */
export const ALLOCATIONS_PREFIX = `${REGISTRY_PREFIX}identities/`;

/** A number that labels are to have, and who may know it. */
export interface Choice {
  readonly text: string;
  readonly id: NumericIdentity;
  readonly isLocal: boolean;
}

/** What stands in etcd: labels by number in both places, and numbers by labels. */
export interface Listed {
  readonly ids: ReadonlyMap<string, KvPair>;
  readonly locals: ReadonlyMap<string, KvPair>;
  readonly allocations: ReadonlyMap<string, KvPair>;
}

/** Text of a value, empty for none. */
export function textOf(pair: KvPair | undefined): string {
  return pair?.value.toString('utf8') ?? '';
}

/** Whether a value is there and is this text. */
export function isOf(pair: KvPair | undefined, text: string): pair is KvPair {
  return pair !== undefined && textOf(pair) === text;
}

/** Writes labels where those may read that may know them. */
export function putLabels({ text, id, isLocal }: Choice): KvOp {
  return { kind: 'put', key: isLocal ? localIdentityKey(id) : identityKey(id), value: text };
}

/** Writes the number of labels, and them. */
export function putIdentity(choice: Choice): readonly KvOp[] {
  const { text, id } = choice;
  return [{ kind: 'put', key: ALLOCATIONS_PREFIX + text, value: String(id) }, putLabels(choice)];
}

/** That nobody has a number, in either place. */
export function isFree(id: NumericIdentity): readonly KvCompare[] {
  return [
    { key: identityKey(id), exists: false },
    { key: localIdentityKey(id), exists: false },
  ];
}

/** Reads all. Whoever leads alone takes labels out of a place, and does not while it reads: so none is missed on its way. */
export async function listIdentities(
  store: KvStore,
  idsPrefix: string,
  signal: AbortSignal,
): Promise<Listed> {
  const byName = (pairs: readonly KvPair[], prefix: string): Map<string, KvPair> =>
    new Map(pairs.map((pair) => [pair.key.slice(prefix.length), pair]));
  const ids = await store.list(idsPrefix, { signal });
  const locals = await store.list(LOCAL_IDENTITIES_PREFIX, { signal });
  const allocations = await store.list(ALLOCATIONS_PREFIX, { signal });
  return {
    ids: byName(ids.pairs, idsPrefix),
    locals: byName(locals.pairs, LOCAL_IDENTITIES_PREFIX),
    allocations: byName(allocations.pairs, ALLOCATIONS_PREFIX),
  };
}
