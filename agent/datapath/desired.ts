/**
 * What the agent's state wants in the kernel, and the datapath's side of the bargain. `merge/` and `policy/` compute
 * rows, `state/` hands them over, `datapath/` writes them. No type here knows about bytes, files or libbpf.
 */
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { Protocol } from '../../mesh/wire/service.ts';

/** Who is behind an address: identity, the node to tunnel to, and the cluster it came from. */
export interface IpcacheEntry {
  readonly prefix: IpPrefix;
  readonly identity: NumericIdentity;
  /** Underlay address of the node to encapsulate to; undefined: reachable without the overlay (own node, other CIDRs). */
  readonly tunnelEndpoint: IpAddress | undefined;
  /** Cluster the entry came from, 0 for this node's own entries. Used to prune per origin. */
  readonly clusterId: number;
}

/** A pod (or other endpoint) of this node. The datapath keeps one map entry for each of its addresses. */
export interface EndpointEntry {
  /** Number unique on this node, 1 to 65535, kept over restarts. Key of the endpoint's policy rows. */
  readonly endpointId: number;
  readonly addresses: readonly IpAddress[];
  /** Interface index of the host side of the endpoint's veth. */
  readonly ifindex: number;
  readonly hostInterface: string;
  /** MAC of the interface inside the endpoint, `aa:bb:cc:dd:ee:ff`. */
  readonly mac: string;
  readonly identity: NumericIdentity;
  /** True once a policy selects the endpoint for ingress: what no policy row allows is dropped. */
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
}

/** One allow or deny for an endpoint. The most specific row that matches decides; a deny beats an allow of equal or lesser width. */
export interface PolicyEntry {
  readonly endpointId: number;
  readonly direction: 'ingress' | 'egress';
  /** Identity of the other side; 0 matches any. */
  readonly identity: number;
  /** IANA protocol number; 0 matches any, and then the port must be 0 with 0 bits. */
  readonly protocol: number;
  readonly port: number;
  /** How many high bits of the port count: 16 one port, 0 any port, between them an aligned range. */
  readonly portPrefixBits: number;
  readonly verdict: 'allow' | 'deny';
}

/** A server behind a frontend. */
export interface Backend {
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: Protocol;
  /** Cluster the backend runs in, so that status and metrics can tell. */
  readonly clusterId: number;
}

/** An address and port that clients call, translated to one of `backends` when they connect. No backends: connections are refused. */
export interface FrontendEntry {
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: Protocol;
  readonly backends: readonly Backend[];
  /** `namespace/name`, for people; empty for a row read back from the kernel. */
  readonly service: string;
}

/** One counter of the per-CPU metrics map, summed over CPUs. */
export interface DatapathCounter {
  /** Kebab-case reason, such as `forwarded` or `policy-denied`. */
  readonly reason: string;
  readonly direction: 'ingress' | 'egress';
  readonly packets: bigint;
  readonly bytes: bigint;
}

/** How much fits into a map. */
export interface MapCapacity {
  readonly map: string;
  readonly maxEntries: number;
}

/**
 * A kernel table with desired rows. `apply` is idempotent and safe to repeat after a failure: upserts first, in order, then
 * deletes. It throws DatapathError naming the first row that failed, after having tried the others.
 */
export interface DatapathTable<Row extends Key, Key = Row> {
  readonly name: 'ipcache' | 'endpoints' | 'policy' | 'services';
  apply(changes: { readonly upserts: readonly Row[]; readonly deletes: readonly Key[] }): void;
  /** Rows that are in the kernel now, read from the map itself (after a restart: what the previous process left). */
  rows(): Row[];
  /** The same in parts, between which others may write: an entry may then be seen twice or not at all. Absent: small tables. */
  scan?(): Iterable<readonly Row[]>;
  /** Text that is equal for two rows (or keys) exactly when they are the same kernel entry. */
  keyOf(row: Key): string;
}

/** The kernel side of one node. Disposing closes handles and leaves pinned maps and links working; `uninstall` removes them. */
export interface Datapath extends AsyncDisposable {
  readonly ipcache: DatapathTable<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;
  readonly endpoints: DatapathTable<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;
  readonly policy: DatapathTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>>;
  readonly services: DatapathTable<
    FrontendEntry,
    Pick<FrontendEntry, 'address' | 'port' | 'protocol'>
  >;
  /** Attaches (or atomically replaces) the endpoint programs on the host side of a veth. Idempotent. */
  attachEndpoint(hostInterface: string): void;
  /** Detaches them; an interface that is already gone is no error. */
  detachEndpoint(hostInterface: string): void;
  counters(): DatapathCounter[];
  /** Most entries that each map can hold. */
  capacities(): readonly MapCapacity[];
  /**
   * What is not attached although it should be, a sentence each: the overlay, the sockets, and the endpoints on these
   * interfaces. An interface that is gone is no problem of the datapath's. Read from the kernel.
   */
  detached(hostInterfaces: readonly string[]): string[];
  /** Detaches everything and removes every pin and device that this node's datapath made. */
  uninstall(): Promise<void>;
}

/** What `openDatapath(options)` in `agent/datapath/datapath.ts` takes. */
export interface DatapathOptions {
  /** Folder inside a bpffs; maps and links are pinned below `<bpfRoot>/isthmus/`. */
  readonly bpfRoot: string;
  /** cgroup v2 folder whose sockets are translated. */
  readonly cgroupRoot: string;
  readonly objectDir: string;
  readonly tunnelDevice: string;
  readonly tunnelPort: number;
  readonly clusterId: number;
  readonly maxConnectedClusters: 255 | 511;
  readonly nodeIps: readonly IpAddress[];
}
