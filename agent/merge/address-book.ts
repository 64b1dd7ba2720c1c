import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { createAddressRows } from './address-rows.ts';
import { LOCAL_ORIGIN } from './addresses.ts';
import { createSharedTexts, type SharedTexts } from './shared-texts.ts';

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
  /** The row that somebody claims, whether or not it stands. */
  claimOf(claimant: Claimant, prefix: IpPrefix): IpcacheEntry | undefined;
  conflicts(): Iterable<AddressConflict>;
}

/** What somebody says of an address. */
interface Claim extends Claimant {
  readonly row: IpcacheEntry;
}

/** Mark of a row that a cluster's ip table claims; another one is the number of the node whose record does. */
const IP_TABLE = 0;

/**
 * Makes an empty book. This node itself comes first, then the own cluster, then the peer that claimed first and still
 * does: a later peer gets the address only when the holder lets go. Within a cluster a node record comes before an ip
 * entry. `hosts`: where addresses of hosts are kept, which others may share.
 */
export function createAddressBook(
  ownClusterId: number,
  hosts: SharedTexts = createSharedTexts(),
): AddressBook {
  /** Nearly every prefix has one claim, by the cluster that its row names: the row is all there is of it. */
  const single = createAddressRows(hosts);
  const owners = createSharedTexts();
  /** All others. Order is the order of arrival. */
  const lists = new Map<IpPrefix, readonly Claim[]>();
  const conflicts = new Map<IpPrefix, AddressConflict>();
  /** Prefixes that changed, with the row where it is at hand. */
  const dirty = new Map<IpPrefix, IpcacheEntry | undefined>();

  /** Mark of a claimant's rows, -1 where none of its rows is marked yet. */
  const markOf = (claimant: Claimant): number =>
    claimant.source === 'ip' ? IP_TABLE : owners.find(ownerKey(claimant)) || -1;
  const deleteSingle = (prefix: IpPrefix): void => {
    const mark = single.markOf(prefix);
    if (mark > IP_TABLE) owners.drop(mark);
    single.delete(prefix);
  };
  /** `before`: mark of the row that stands there, -1 for none. */
  const setSingle = (claimant: Claimant, row: IpcacheEntry, before: number): void => {
    const mark = claimant.source === 'ip' ? IP_TABLE : owners.take(ownerKey(claimant));
    if (before > IP_TABLE) owners.drop(before);
    single.set(row.prefix, row, mark);
  };
  /** Claims what nobody has, or what the same claimant has alone; false: it must be done the long way. */
  const claimSingle = (claimant: Claimant, row: IpcacheEntry): boolean => {
    const { prefix } = row;
    if (claimant.clusterId !== row.clusterId || (lists.size > 0 && lists.has(prefix))) {
      return false;
    }
    const mark = single.markOf(prefix);
    if (mark !== -1) {
      if (mark !== markOf(claimant)) return false;
      if (single.isLike(prefix, row)) return true;
      if (mark === IP_TABLE && single.get(prefix)?.clusterId !== row.clusterId) return false;
    }
    setSingle(claimant, row, mark);
    dirty.set(prefix, row);
    return true;
  };
  const listOf = (prefix: IpPrefix): readonly Claim[] => {
    const list = lists.get(prefix);
    if (list !== undefined) return list;
    const row = single.get(prefix);
    if (row === undefined) return [];
    const { clusterId } = row;
    const mark = single.markOf(prefix);
    if (mark === IP_TABLE) return [{ clusterId, source: 'ip', owner: '', row }];
    const owner = (owners.textOf(mark) ?? '').slice(`${clusterId}/`.length);
    return [{ clusterId, source: 'node', owner, row }];
  };

  const store = (prefix: IpPrefix, list: readonly Claim[]): void => {
    const [first] = list;
    dirty.set(prefix, undefined);
    if (first !== undefined && list.length === 1 && first.clusterId === first.row.clusterId) {
      lists.delete(prefix);
      setSingle(first, first.row, single.markOf(prefix));
    } else {
      deleteSingle(prefix);
      if (first === undefined) lists.delete(prefix);
      else lists.set(prefix, list);
    }
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

  const holderOf = (prefix: IpPrefix): IpcacheEntry | undefined => {
    const list = lists.get(prefix);
    return list === undefined ? single.get(prefix) : choose(list, ownClusterId)?.row;
  };

  return {
    claim(claimant, row) {
      if (claimSingle(claimant, row)) return;
      const { prefix } = row;
      const claim: Claim = { ...claimant, row };
      const list = listOf(prefix);
      const known = list.some((other) => isBy(other, claimant));
      store(
        prefix,
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
      for (const [prefix, known] of dirty) {
        const row = known ?? holderOf(prefix);
        if (row === undefined) deletes.push(prefix);
        else upserts.push(row);
      }
      dirty.clear();
      return { upserts, deletes };
    },
    holderOf,
    claimOf: (claimant, prefix) => listOf(prefix).find((claim) => isBy(claim, claimant))?.row,
    conflicts: () => conflicts.values(),
  };
}

function ownerKey({ clusterId, owner }: Claimant): string {
  return `${clusterId}/${owner}`;
}

function isBy(claim: Claim, claimant: Claimant): boolean {
  return (
    claim.clusterId === claimant.clusterId &&
    claim.source === claimant.source &&
    (claim.source === 'ip' || claim.owner === claimant.owner)
  );
}

function choose(list: readonly Claim[], ownClusterId: number): Claim | undefined {
  const first = list[0];
  if (list.length <= 1 || first === undefined) return first;
  const holder =
    list.find(({ clusterId }) => clusterId === LOCAL_ORIGIN) ??
    list.find(({ clusterId }) => clusterId === ownClusterId) ??
    first;
  return (
    list.find(({ clusterId, source }) => clusterId === holder.clusterId && source === 'node') ??
    holder
  );
}
