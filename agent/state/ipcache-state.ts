import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import {
  type LocalIdentity,
  localIdentity,
  localIdentityScope,
  type NumericIdentity,
  parseNumericIdentity,
  reservedIdentity,
} from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import { ipFamily, makePrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { type AddressConflict, createAddressBook } from '../merge/address-book.ts';
import type { AddressRows } from '../merge/address-rows.ts';
import {
  ipRow,
  LOCAL_ORIGIN,
  type NodeContext,
  nodeRows,
  ownNodeRows,
} from '../merge/addresses.ts';
import { copyText, type SharedTexts } from '../merge/shared-texts.ts';
import { createAddressGate } from './address-gate.ts';
import type { Reconciler } from './reconciler.ts';

/** Turns what clusters say about nodes and addresses into desired rows of the ipcache. */
export interface IpcacheState {
  setNode(cluster: ClusterRef, name: string, node: Node | undefined): void;
  setIp(cluster: ClusterRef, prefix: IpPrefix, entry: IpIdentity | undefined): void;
  /** Identity that the own cluster gives an address; undefined while it says nothing. */
  ownIdentityOf(address: IpAddress): NumericIdentity | undefined;
  /** Identity of whoever in the mesh has a prefix; undefined: nobody. */
  holderOf(prefix: IpPrefix): number | undefined;
  /** Gives a prefix that nobody in the mesh has an identity; undefined: takes it back. */
  setOutside(prefix: IpPrefix, identity: LocalIdentity | undefined): void;
  /**
   * Gives a node an identity of its own among the nodes; undefined: it is one of many. `node`: as `nodeKey` says. Until
   * `releaseNodes` it keeps the one that a previous process gave it.
   */
  setNodeIdentity(node: string, identity: LocalIdentity | undefined): void;
  /** Which identity of its own a previous process gave a node. */
  formerIdentityOf(node: string): number | undefined;
  /** It is known which nodes have identities of their own: those that have none now lose what a previous process gave. */
  releaseNodes(): void;
  /** Somebody has said what an identity is: addresses that wait for it get it with the next refresh. */
  identityKnown(identity: number): void;
  /** Hands what changed to the table. Returns the prefixes concerned. `now`: monotonic milliseconds. */
  refresh(now: number): IpPrefix[];
  /** When `refresh` is worth a call though nothing was said; undefined: not until something is. */
  nextRefreshAt(): number | undefined;
  conflicts(): readonly AddressConflict[];
}

/** Begins with this node's own addresses. */
export function createIpcacheState(
  context: NodeContext,
  options: {
    readonly reconciler: Reconciler<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;
    /** Where addresses of hosts are kept. */
    readonly hosts: SharedTexts;
    /** What a previous process left and nobody has said again yet. */
    readonly adopted: Pick<AddressRows, 'get'>;
    /** Whether somebody has said what an identity is. */
    readonly isKnown: (identity: number) => boolean;
  },
): IpcacheState {
  const { table } = options.reconciler;
  const book = createAddressBook(context.clusterId, options.hosts);
  /** Prefixes that each node's record claims, by cluster and name: one text for all of a node, since nodes are many. */
  const nodePrefixes = new Map<string, string>();
  /** Identities that nodes have of their own, and those that a previous process gave them. */
  const nodeIdentities = new Map<string, LocalIdentity>();
  const former = new Map<string, LocalIdentity>();
  let areNodesReleased = false;
  const outside = new Map<IpPrefix, LocalIdentity>();
  const outsideChanged = new Set<IpPrefix>();
  const gate = createAddressGate(options.isKnown);

  /** Rows of a node, with the identity that it has of its own. */
  const rowsOf = (cluster: ClusterRef, node: Node, key: string): IpcacheEntry[] => {
    const rows = nodeRows(node, { clusterId: cluster.id }, context);
    if (!areNodesReleased && !former.has(key)) {
      const left = rows
        .map(({ prefix }) => localIdentityScope(options.adopted.get(prefix)?.identity ?? 0))
        .find((found) => found?.scope === 'node');
      if (left !== undefined) former.set(key, localIdentity('node', left.number));
    }
    const identity = nodeIdentities.get(key) ?? (areNodesReleased ? undefined : former.get(key));
    return identity === undefined ? rows : rows.map((row) => withIdentity(row, identity));
  };

  const relabel = (node: string, identity: IpcacheEntry['identity']): void => {
    const slash = node.indexOf('/');
    const owner = node.slice(slash + 1);
    const claimant = { clusterId: Number(node.slice(0, slash)), source: 'node', owner } as const;
    for (const prefix of splitPrefixes(nodePrefixes.get(node))) {
      const row = book.claimOf(claimant, prefix);
      if (row !== undefined) book.claim(claimant, withIdentity(row, identity));
    }
  };

  for (const row of ownNodeRows(context)) {
    book.claim({ clusterId: LOCAL_ORIGIN, source: 'node', owner: '' }, row);
  }

  return {
    setNode(cluster, name, node) {
      const claimant = { clusterId: cluster.id, source: 'node', owner: name } as const;
      const key = nodeKey(cluster, name);
      const rows = node === undefined ? [] : rowsOf(cluster, node, key);
      const prefixes = new Set(rows.map(({ prefix }) => prefix));
      for (const prefix of splitPrefixes(nodePrefixes.get(key))) {
        if (!prefixes.has(prefix)) book.withdraw(claimant, prefix);
      }
      for (const row of rows) book.claim(claimant, row);
      if (prefixes.size === 0) nodePrefixes.delete(key);
      else nodePrefixes.set(copyText(key), copyText([...prefixes].join(' ')));
    },
    setIp(cluster, prefix, entry) {
      const claimant = { clusterId: cluster.id, source: 'ip', owner: '' } as const;
      if (entry === undefined) book.withdraw(claimant, prefix);
      else book.claim(claimant, ipRow(entry, { clusterId: cluster.id }, context));
    },
    ownIdentityOf(address) {
      const row = book.holderOf(makePrefix(address, ipFamily(address) === 4 ? 32 : 128));
      if (row?.clusterId !== context.clusterId) return undefined;
      // What a cluster says of an address is never of local scope.
      return localIdentityScope(row.identity) === undefined
        ? parseNumericIdentity(row.identity)
        : undefined;
    },
    holderOf: (prefix) => book.holderOf(prefix)?.identity,
    setOutside(prefix, identity) {
      if (identity === undefined) outside.delete(prefix);
      else outside.set(prefix, identity);
      outsideChanged.add(prefix);
    },
    setNodeIdentity(node, identity) {
      if (identity === undefined) nodeIdentities.delete(node);
      else nodeIdentities.set(node, identity);
      relabel(node, identity ?? REMOTE_NODE);
    },
    formerIdentityOf: (node) => former.get(node),
    releaseNodes() {
      if (areNodesReleased) return;
      areNodesReleased = true;
      for (const node of former.keys()) relabel(node, nodeIdentities.get(node) ?? REMOTE_NODE);
      former.clear();
    },
    identityKnown: (identity) => gate.open(identity),
    nextRefreshAt: () => gate.nextAt(),
    refresh(now) {
      const { upserts, deletes } = book.takeChanges();
      const changed = deletes.slice();
      for (const prefix of deletes) gate.forget(prefix);
      const waited = gate.takeDue(now).flatMap((prefix) => book.holderOf(prefix) ?? []);
      for (const row of waited.length === 0 ? upserts : [...upserts, ...waited]) {
        if (gate.isOpenTo(row)) table.set(row);
        else {
          const before = table.get(row.prefix) ?? options.adopted.get(row.prefix);
          table.set(gate.pass(row, before, now));
        }
        changed.push(row.prefix);
      }
      for (const prefix of deletes) {
        if (outside.has(prefix)) outsideChanged.add(prefix);
        else table.remove({ prefix });
      }
      // Whoever is in the mesh has its address; only what nobody has is outside.
      for (const prefix of outsideChanged) {
        if (book.holderOf(prefix) !== undefined) continue;
        const identity = outside.get(prefix);
        if (identity === undefined) table.remove({ prefix });
        else table.set({ prefix, identity, tunnelEndpoint: undefined, clusterId: LOCAL_ORIGIN });
      }
      outsideChanged.clear();
      return changed;
    },
    conflicts: () => [...book.conflicts()],
  };
}

const REMOTE_NODE = reservedIdentity('remote-node');

/** Name of a node among all clusters'. */
export function nodeKey(cluster: Pick<ClusterRef, 'id'>, name: string): string {
  return `${cluster.id}/${name}`;
}

/** A node's row with another identity, if it is one by which nodes are known: not what lives behind the node. */
function withIdentity(row: IpcacheEntry, identity: IpcacheEntry['identity']): IpcacheEntry {
  const isNode = row.identity === REMOTE_NODE || localIdentityScope(row.identity)?.scope === 'node';
  return isNode ? { ...row, identity } : row;
}

function splitPrefixes(joined: string | undefined): IpPrefix[] {
  return joined === undefined ? [] : joined.split(' ').map(parseIpPrefix);
}
