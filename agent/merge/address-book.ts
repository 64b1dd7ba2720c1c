import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { LOCAL_ORIGIN } from './addresses.ts';

/** Somebody who says who is behind a prefix. */
export interface Claimant {
  /** Cluster that says it; LOCAL_ORIGIN for this node itself. */
  readonly clusterId: number;
  readonly source: 'node' | 'ip';
  /** Name of the node whose record it is, so that two nodes may hold one address while one replaces the other. */
  readonly owner: string;
}

/** Two clusters claim one prefix: who holds it, and who does not get it. */
export interface AddressConflict {
  readonly prefix: IpPrefix;
  readonly holder: number;
  readonly refused: readonly number[];
}

/** All claims to addresses, and the row that each prefix is to have. Has no clock, no socket: the same calls give the same rows. */
export interface AddressBook {
  claim(claimant: Claimant, row: IpcacheEntry): void;
  withdraw(claimant: Claimant, prefix: IpPrefix): void;
  /** Prefixes whose claims changed since the last call, with the row that is to stand now. */
  takeChanges(): { readonly upserts: IpcacheEntry[]; readonly deletes: IpPrefix[] };
  holderOf(prefix: IpPrefix): IpcacheEntry | undefined;
  conflicts(): Iterable<AddressConflict>;
}

/** What a node's record, or this node, says of an address. */
interface NodeClaim {
  readonly owner: string;
  readonly clusterId: number;
  readonly row: IpcacheEntry;
}

/**
 * A claim. That of a cluster's ip table, of which there are far more than of all others, is the row itself: its cluster
 * is the claimant.
 */
type Claim = IpcacheEntry | NodeClaim;

/**
 * Makes an empty book. This node itself comes first, then the own cluster, then the peer that claimed first and still
 * does: a later peer gets the address only when the holder lets go. Within a cluster a node record comes before an ip
 * entry.
 */
export function createAddressBook(ownClusterId: number): AddressBook {
  /** Nearly every prefix has one claim; a list is only made for more. Order is the order of arrival. */
  const claims = new Map<IpPrefix, Claim | readonly Claim[]>();
  const conflicts = new Map<IpPrefix, AddressConflict>();
  const dirty = new Set<IpPrefix>();

  const listOf = (prefix: IpPrefix): readonly Claim[] => {
    const found = claims.get(prefix);
    if (found === undefined) return [];
    return isList(found) ? found : [found];
  };

  const store = (prefix: IpPrefix, list: readonly Claim[]): void => {
    const [first] = list;
    dirty.add(prefix);
    if (first === undefined) claims.delete(prefix);
    else claims.set(prefix, list.length === 1 ? first : list);
    noteConflict(prefix, list);
  };

  const noteConflict = (prefix: IpPrefix, list: readonly Claim[]): void => {
    const holder = choose(list, ownClusterId);
    const refused = new Set<number>();
    for (const { clusterId } of list) {
      if (clusterId !== holder?.clusterId && clusterId !== LOCAL_ORIGIN) refused.add(clusterId);
    }
    // The own cluster lists this node's addresses, too: the same thing said twice.
    if (holder?.clusterId === LOCAL_ORIGIN) refused.delete(ownClusterId);
    if (holder === undefined || refused.size === 0) conflicts.delete(prefix);
    else conflicts.set(prefix, { prefix, holder: holder.clusterId, refused: [...refused] });
  };

  return {
    claim(claimant, row) {
      const { clusterId, owner } = claimant;
      const claim: Claim = claimant.source === 'ip' ? row : { owner, clusterId, row };
      const found = claims.get(row.prefix);
      if (found === undefined || (!isList(found) && isBy(found, claimant))) {
        claims.set(row.prefix, claim);
        dirty.add(row.prefix);
        return;
      }
      const list = listOf(row.prefix);
      const known = list.some((other) => isBy(other, claimant));
      store(
        row.prefix,
        known ? list.map((other) => (isBy(other, claimant) ? claim : other)) : [...list, claim],
      );
    },
    withdraw(claimant, prefix) {
      const list = listOf(prefix);
      const rest = list.filter((other) => !isBy(other, claimant));
      if (rest.length !== list.length) store(prefix, rest);
    },
    takeChanges() {
      const upserts: IpcacheEntry[] = [];
      const deletes: IpPrefix[] = [];
      for (const prefix of dirty) {
        const chosen = choose(listOf(prefix), ownClusterId);
        if (chosen === undefined) deletes.push(prefix);
        else upserts.push(rowOf(chosen));
      }
      dirty.clear();
      return { upserts, deletes };
    },
    holderOf(prefix) {
      const chosen = choose(listOf(prefix), ownClusterId);
      return chosen === undefined ? undefined : rowOf(chosen);
    },
    conflicts: () => conflicts.values(),
  };
}

function isList(claims: Claim | readonly Claim[]): claims is readonly Claim[] {
  return Array.isArray(claims);
}

function isOfNode(claim: Claim): claim is NodeClaim {
  return 'row' in claim;
}

function rowOf(claim: Claim): IpcacheEntry {
  return isOfNode(claim) ? claim.row : claim;
}

function isBy(claim: Claim, claimant: Claimant): boolean {
  if (claim.clusterId !== claimant.clusterId) return false;
  if (!isOfNode(claim)) return claimant.source === 'ip';
  return claimant.source === 'node' && claim.owner === claimant.owner;
}

function choose(list: readonly Claim[], ownClusterId: number): Claim | undefined {
  const first = list[0];
  if (list.length <= 1 || first === undefined) return first;
  const holder =
    list.find(({ clusterId }) => clusterId === LOCAL_ORIGIN) ??
    list.find(({ clusterId }) => clusterId === ownClusterId) ??
    first;
  return list.find((claim) => claim.clusterId === holder.clusterId && isOfNode(claim)) ?? holder;
}
