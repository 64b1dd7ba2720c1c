import type { ClusterRef } from '../../mesh/remote/cluster-sink.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import { ipFamily, makePrefix, parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import { type AddressConflict, createAddressBook } from '../merge/address-book.ts';
import {
  ipRow,
  LOCAL_ORIGIN,
  type NodeContext,
  nodeRows,
  ownNodeRows,
} from '../merge/addresses.ts';
import { copyText, type SharedTexts } from '../merge/shared-texts.ts';
import type { Reconciler } from './reconciler.ts';

/** Turns what clusters say about nodes and addresses into desired rows of the ipcache. */
export interface IpcacheState {
  setNode(cluster: ClusterRef, name: string, node: Node | undefined): void;
  setIp(cluster: ClusterRef, prefix: IpPrefix, entry: IpIdentity | undefined): void;
  /** Identity that the own cluster gives an address; undefined while it says nothing. */
  ownIdentityOf(address: IpAddress): NumericIdentity | undefined;
  /** Hands what changed to the table. Returns the prefixes concerned. */
  refresh(): IpPrefix[];
  conflicts(): readonly AddressConflict[];
}

/** Begins with this node's own addresses. */
export function createIpcacheState(
  context: NodeContext,
  options: {
    readonly reconciler: Reconciler<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;
    /** Where addresses of hosts are kept. */
    readonly hosts: SharedTexts;
  },
): IpcacheState {
  const { table } = options.reconciler;
  const book = createAddressBook(context.clusterId, options.hosts);
  /** Prefixes that each node's record claims, by cluster and name: one text for all of a node, since nodes are many. */
  const nodePrefixes = new Map<string, string>();
  for (const row of ownNodeRows(context)) {
    book.claim({ clusterId: LOCAL_ORIGIN, source: 'node', owner: '' }, row);
  }

  return {
    setNode(cluster, name, node) {
      const claimant = { clusterId: cluster.id, source: 'node', owner: name } as const;
      const key = `${cluster.id}/${name}`;
      const rows = node === undefined ? [] : nodeRows(node, { clusterId: cluster.id }, context);
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
      return row?.clusterId === context.clusterId ? row.identity : undefined;
    },
    refresh() {
      const { upserts, deletes } = book.takeChanges();
      const changed = deletes.slice();
      for (const row of upserts) {
        table.set(row);
        changed.push(row.prefix);
      }
      for (const prefix of deletes) table.remove({ prefix });
      return changed;
    },
    conflicts: () => [...book.conflicts()],
  };
}

function splitPrefixes(joined: string | undefined): IpPrefix[] {
  return joined === undefined ? [] : joined.split(' ').map(parseIpPrefix);
}
