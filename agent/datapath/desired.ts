/**
 * What the agent's state wants in the kernel, and the datapath's side of the bargain. `merge/` and `policy/` compute
 * rows, `state/` hands them over, `datapath/` writes them. No type here knows about bytes, files or libbpf.
 */
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import type { LocalIdentity, NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpAddress, IpPrefix } from '../../mesh/wire/ip.ts';
import type { EVENT_KINDS, TRACE_LEVELS } from '../../mesh/wire/maps.ts';
import type { Protocol } from '../../mesh/wire/service.ts';
import type { DatapathFirewall, FirewallCall } from './firewall.ts';
import type { HostRoutes } from './host-routes.ts';
import type { MaglevTableSize } from './ops/maglev.ts';
import type { SocketOrphans } from './socket-orphans.ts';

/** Who is behind an address: identity, the node to tunnel to, and the cluster it came from. */
export interface IpcacheEntry {
  readonly prefix: IpPrefix;
  readonly identity: NumericIdentity | LocalIdentity;
  /** Underlay address of the node to encapsulate to; undefined: reachable without the overlay (own node, other CIDRs). */
  readonly tunnelEndpoint: IpAddress | undefined;
  /** Cluster the entry came from, 0 for this node's own entries. Used to prune per origin. */
  readonly clusterId: number;
}

/**
 * A pod (or other endpoint) of this node. The datapath keeps one map entry for each of its addresses. The host itself has
 * the number HOST_ENDPOINT_ID of `mesh/wire/maps.ts`, no addresses and no interface.
 */
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
  /** What policy denies is told and counted, and passes all the same. */
  readonly audit: boolean;
}

/**
 * One allow or deny for an endpoint. The most specific row that matches decides; a deny beats an allow of equal or lesser width.
 * A row of KNOWN_TO says no verdict, but that the agent knows an identity.
 */
export interface PolicyEntry {
  /** 1 to 65535, or KNOWN_TO. */
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
  /** Of a row that allows any identity: of pods only those that have a row of KNOWN_TO. Default: all. */
  readonly knownOnly?: boolean;
}

/** In place of an endpoint's number, with ingress and no port, in rows of identities that the agent knows. */
export const KNOWN_TO = 0;

/** A server behind a frontend. */
export interface Backend {
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: Protocol;
  /** Cluster the backend runs in, so that status and metrics can tell. */
  readonly clusterId: number;
}

/**
 * Whom a frontend is for. `internal`: sockets and endpoints of this node; `external`: what reaches the node from outside.
 * A lookup from outside that finds no external row takes the internal one, if that says `isExternal`.
 */
export type FrontendScope = 'internal' | 'external';

/** How a backend is picked for a new connection. */
export type ServiceAlgorithm = 'random' | 'maglev';

/** What tells one frontend from another. */
export interface FrontendKey {
  readonly address: IpAddress;
  readonly port: number;
  readonly protocol: Protocol;
  readonly scope: FrontendScope;
}

/** An address and port that clients call, translated to one of `backends` when they connect. No backends: connections are refused. */
export interface FrontendEntry extends FrontendKey {
  /** Whether clients outside the node may call it: NodePort, LoadBalancer and externalIP addresses. */
  readonly isExternal: boolean;
  /** Who gets new connections. */
  readonly backends: readonly Backend[];
  /**
   * Backends that are on their way out: they keep the connections they have and get no new ones, not even of a client
   * with affinity to them, which moves on as it does with kube-proxy. None of them stands in `backends`: when nobody
   * else is there, they stand there instead of here.
   */
  readonly draining: readonly Backend[];
  /** How long a client keeps its backend after its last connection; 0: each connection is a new choice. */
  readonly affinitySeconds: number;
  readonly algorithm: ServiceAlgorithm;
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
  /** Changes of one kind, in the order in which they are to be applied. Absent: any order will do. */
  inOrder?(changes: readonly RowChange<Row, Key>[]): readonly RowChange<Row, Key>[];
}

/** A row to write, or a key to delete. */
export type RowChange<Row, Key> =
  | { readonly kind: 'upsert'; readonly row: Row }
  | { readonly kind: 'delete'; readonly key: Key };

/** Most events of each kind that each CPU may write: on average, and at once after a silence. */
export interface EventRate {
  readonly perSecond: number;
  readonly burst: number;
}

/** Events of one kind that were never written, since the maps were made: both numbers only grow. */
export interface EventLosses {
  readonly kind: (typeof EVENT_KINDS)[number];
  /** Left out because there were more than EventRate allows. */
  readonly suppressed: number;
  /** Left out because the ring was full: whoever reads it is too slow. */
  readonly lost: number;
}

/** What the eBPF programs tell of single packets and calls. Nothing is written while nobody reads. */
export interface DatapathEvents {
  /**
   * Reads until disposed of; by one reader at a time. `onRecords` gets batches of `struct mesh_event` and
   * `mesh_service_event`, each behind its length (u32), and must not throw. Throws DatapathError.
   */
  read(listener: {
    readonly onRecords: (bytes: Uint8Array) => void;
    readonly onFailure: (error: Error) => void;
  }): Promise<AsyncDisposable>;
  /** Which packets that went on are told, from the next one on. */
  setTraceLevel(level: (typeof TRACE_LEVELS)[number]): void;
  losses(): readonly EventLosses[];
  /** Name of an interface that an event speaks of; undefined: it has gone. */
  interfaceName(ifindex: number): string | undefined;
}

/** How full a map is. */
export interface MapUse {
  readonly map: string;
  readonly entries: number;
  readonly maxEntries: number;
}

/** How packets to endpoints of other nodes leave this one: in the overlay, or by the node's own routes. */
export const ROUTING_MODES = ['tunnel', 'native'] as const;

/** One of ROUTING_MODES. */
export type RoutingMode = (typeof ROUTING_MODES)[number];

/** What looking after the datapath has found. */
export interface UpkeepReport {
  readonly routingMode: RoutingMode;
  /** Largest IP packet that fits into the tunnel, in bytes. */
  readonly tunnelMtu: number;
  /** Endpoints' interfaces with a larger MTU. They work by path MTU discovery, which costs each connection a packet. */
  readonly largerMtus: readonly { readonly hostInterface: string; readonly mtu: number }[];
  /** What does not work, a sentence each with what to do. */
  readonly problems: readonly string[];
  /** The collection of expired entries since the start, and how full it found the maps when it looked last. */
  readonly garbage: {
    readonly rounds: number;
    /** CPU time that it took, in milliseconds. */
    readonly busyMs: number;
    /** Time from one round to the next. */
    readonly intervalMs: number;
    /** `deleted`: entries taken out since the start. */
    readonly maps: readonly (MapUse & { readonly deleted: number })[];
  };
}

/** What has to be done from time to time while a datapath works. */
export interface DatapathUpkeep {
  /** Does it until `signal` aborts, which must be before the datapath is disposed of. */
  run(
    tools: { readonly clock: Clock; readonly logger: Pick<Logger, 'warn'> },
    signal: AbortSignal,
  ): Promise<void>;
  report(): UpkeepReport;
}

/** The kernel side of one node. Disposing closes handles and leaves pinned maps and links working; `uninstall` removes them. */
export interface Datapath extends AsyncDisposable {
  readonly ipcache: DatapathTable<IpcacheEntry, Pick<IpcacheEntry, 'prefix'>>;
  readonly endpoints: DatapathTable<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>>;
  readonly policy: DatapathTable<PolicyEntry, Omit<PolicyEntry, 'verdict'>>;
  readonly services: DatapathTable<FrontendEntry, FrontendKey>;
  /** Sockets whose backend is gone. Absent: none are translated. */
  readonly orphans?: SocketOrphans;
  /** Attaches (or atomically replaces) the endpoint programs on the host side of a veth. Idempotent. */
  attachEndpoint(hostInterface: string): void;
  /** Detaches them; an interface that is already gone is no error. */
  detachEndpoint(hostInterface: string): void;
  counters(): DatapathCounter[];
  /** Absent: there are no programs that could tell anything. */
  readonly events?: DatapathEvents;
  /** Absent: nothing needs it. */
  readonly upkeep?: DatapathUpkeep;
  /** By which the node's own programs reach endpoints elsewhere. Absent: there is no tunnel device. */
  readonly hostRoutes?: HostRoutes;
  /** The host as its own firewall. Absent: there are no programs that could judge it. */
  readonly firewall?: DatapathFirewall;
  /** Most entries that each map can hold. */
  capacities(): readonly MapCapacity[];
  /**
   * What is not attached although it should be, a sentence each: the overlay, the sockets, and the endpoints on these
   * interfaces. An interface that is gone is no problem of the datapath's. Read from the kernel.
   */
  detached(hostInterfaces: readonly string[]): string[];
  /**
   * Attaches again what `detached` would name, makes the tunnel device again if it is gone, and returns what was done, a
   * sentence each. Absent: there is nothing that could be detached. Throws DatapathError.
   */
  heal?(hostInterfaces: readonly string[]): Promise<string[]>;
  /** Absent: programs and maps are this build's. */
  readonly upgrade?: DatapathUpgrade;
  /** Detaches everything and removes every pin and device that this node's datapath made. */
  uninstall(): Promise<void>;
}

/** An earlier build's programs that go on over its maps, because this build cannot read all of them. */
export interface DatapathUpgrade {
  /** Maps to be written anew first; empty once `finish` was called. */
  pending(): readonly string[];
  /** The tables hold what is wanted: replaces the programs. */
  finish(): void;
}

/** After how long without a packet a flow is forgotten, in seconds, at least 1. */
export interface ConntrackTimeouts {
  /** TCP, once the handshake is over. */
  readonly tcp: number;
  /** TCP, until then. */
  readonly tcpSyn: number;
  /** TCP, closed by both sides or reset. */
  readonly tcpFin: number;
  /** UDP, ICMP and everything else. */
  readonly any: number;
}

/** Cilium's defaults (`pkg/option/config.go`, CTMapEntriesTimeout*): UDP has one for single answers and for streams. */
export const CONNTRACK_TIMEOUTS: ConntrackTimeouts = { tcp: 8000, tcpSyn: 60, tcpFin: 10, any: 60 };

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
  /** How many events each CPU may write. Default: DEFAULT_EVENT_RATE of `event-rate.ts`. */
  readonly eventRate?: EventRate | undefined;
  /** What is asked of the source of packets from other nodes. Default: `cluster`. */
  readonly overlaySourceCheck?: 'off' | 'cluster' | 'strict' | undefined;
  /** Level of trace events of forwarded packets at the start, 0 to 255; 0, the default: none. */
  readonly traceLevel?: number | undefined;
  /** Frontends may be called from outside the node (NodePort, LoadBalancer, externalIPs). Default: false. */
  readonly externalServices?: boolean | undefined;
  /** Interfaces by which such calls come in, and others of the mesh reach the host. Default: those with its addresses. */
  readonly devices?: readonly string[] | undefined;
  /** Places in the table of a Maglev service, a prime number. Default: DEFAULT_MAGLEV_TABLE_SIZE of `ops/maglev.ts`. */
  readonly maglevTableSize?: MaglevTableSize | undefined;
  /** Default: `tunnel`. */
  readonly routingMode?: RoutingMode | undefined;
  /** MTU of the network between nodes, in bytes. Default: that of the interfaces with the node's addresses. */
  readonly underlayMtu?: number | undefined;
  /** Default: CONNTRACK_TIMEOUTS. */
  readonly conntrackTimeouts?: ConntrackTimeouts | undefined;
  /** Time between two collections of expired entries, in milliseconds. Default: as it is worth while. */
  readonly conntrackGcIntervalMs?: number | undefined;
  /** Audit mode for every endpoint: what policy denies is told and counted, and passes. Default: false. */
  readonly policyAudit?: boolean | undefined;
  /** Policy judges what the node itself sends to its endpoints; else it always reaches them. Default: false. */
  readonly localhostJudged?: boolean | undefined;
  /**
   * `machine`: the host is no node but an endpoint with an identity of its own, that of its address. Default: it is a node,
   * and an endpoint as long as policies select it.
   */
  readonly hostEndpoint?: 'machine' | undefined;
  /**
   * The host is a firewall for good, from the first packet on, with these calls open. Default: it is none until told, whatever
   * an earlier process has left.
   */
  readonly firewall?: { readonly open: readonly FirewallCall[] } | undefined;
  /** TCP ports of the mesh's own services, which no policy of the host closes. Default: DEFAULT_OPEN_PORTS of `host-settings.ts`. */
  readonly openPorts?: readonly number[] | undefined;
  /** Ports of the node that source translation may use, both included. Default: DEFAULT_NAT_PORTS of `config.ts`. */
  readonly natPorts?: { readonly first: number; readonly last: number } | undefined;
}
