import { type ClusterName, type NumericIdentity, reservedIdentity } from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, makePrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import { type Node, nodeAddresses } from '../../mesh/wire/node.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';

/** Who this node is, for deciding what is near and what is behind a tunnel. */
export interface NodeContext {
  readonly clusterId: number;
  readonly clusterName: ClusterName;
  readonly nodeName: string;
  /** Underlay addresses of this node, one a family. */
  readonly nodeIps: readonly IpAddress[];
  /** `machine`: the host is no node, and its addresses have the identity that its cluster has given them. Default: a node. */
  readonly hostEndpoint?: 'machine' | undefined;
}

/** Cluster id of a row that comes from this node itself, not from any cluster's etcd. */
export const LOCAL_ORIGIN = 0;

const HOST = reservedIdentity('host');
const REMOTE_NODE = reservedIdentity('remote-node');
const HEALTH = reservedIdentity('health');
const INGRESS = reservedIdentity('ingress');

/** Rows of this node's own addresses, known before any etcd is. Of a machine its cluster has to say who it is. */
export function ownNodeRows(context: NodeContext): IpcacheEntry[] {
  if (context.hostEndpoint === 'machine') return [];
  return context.nodeIps.map((ip) => row(ip, HOST, undefined, LOCAL_ORIGIN));
}

/** Whether a node record is about the node that this agent runs on. */
export function isOwnNode(
  node: Pick<Node, 'name' | 'cluster'>,
  context: Pick<NodeContext, 'clusterName' | 'nodeName' | 'hostEndpoint'>,
): boolean {
  if (context.hostEndpoint === 'machine') return false;
  return node.cluster === context.clusterName && node.name === context.nodeName;
}

/**
 * Rows of a node's addresses. Its underlay addresses are reached without the overlay; addresses that live behind it
 * (CiliumInternalIP, health, ingress) through it (Cilium `pkg/node/manager`, nodeAddressHasTunnelIP).
 */
export function nodeRows(
  node: Node,
  origin: { readonly clusterId: number },
  context: NodeContext,
): IpcacheEntry[] {
  const own = isOwnNode(node, context);
  const clusterId = own ? LOCAL_ORIGIN : origin.clusterId;
  const tunnel = own ? undefined : underlayAddress(node, context);
  const rows: IpcacheEntry[] = [];
  for (const { type, ip } of nodeAddresses(node)) {
    if (type !== 'InternalIP' && type !== 'ExternalIP' && type !== 'CiliumInternalIP') continue;
    const behind = type === 'CiliumInternalIP' ? tunnel : undefined;
    rows.push(row(ip, own ? HOST : REMOTE_NODE, behind, clusterId));
  }
  for (const ip of [node.ipv4HealthIp, node.ipv6HealthIp]) {
    if (ip !== null) rows.push(row(ip, HEALTH, tunnel, clusterId));
  }
  for (const ip of [node.ipv4IngressIp, node.ipv6IngressIp]) {
    if (ip !== null) rows.push(row(ip, INGRESS, tunnel, clusterId));
  }
  return rows;
}

/**
 * Row of one entry of a cluster's ip table. On this node, and without a host, nothing is encapsulated. What has no tunnel is a
 * machine's own, so that its endpoints have one which leads to itself: packets for one that is not there are dropped.
 */
export function ipRow(
  entry: Pick<IpIdentity, 'prefix' | 'identity' | 'hostIp'>,
  origin: { readonly clusterId: number },
  context: NodeContext,
): IpcacheEntry {
  const { hostIp } = entry;
  const isHere = hostIp !== null && context.nodeIps.includes(hostIp);
  const isBehind = isHere && context.hostEndpoint === 'machine' && !isWhole(entry.prefix, hostIp);
  const near = hostIp === null || (isHere && !isBehind);
  return {
    prefix: entry.prefix,
    identity: entry.identity,
    tunnelEndpoint: near ? undefined : hostIp,
    clusterId: origin.clusterId,
  };
}

/** Whether a prefix is one address, and that one. */
function isWhole(prefix: IpPrefix, address: IpAddress): boolean {
  return prefix === makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}

/** Address to encapsulate to: of a family that this node has, InternalIP before ExternalIP. */
function underlayAddress(node: Node, context: NodeContext): IpAddress | undefined {
  const families = new Set(context.nodeIps.map(ipFamily));
  for (const wanted of ['InternalIP', 'ExternalIP'] as const) {
    const found = nodeAddresses(node).find(
      ({ type, ip }) => type === wanted && families.has(ipFamily(ip)),
    );
    if (found !== undefined) return found.ip;
  }
  return undefined;
}

function row(
  ip: IpAddress,
  identity: NumericIdentity,
  tunnelEndpoint: IpAddress | undefined,
  clusterId: number,
): IpcacheEntry {
  const prefix = makePrefix(ip, ipFamily(ip) === 4 ? 32 : 128);
  return { prefix, identity, tunnelEndpoint, clusterId };
}

/** Whether two rows of a prefix are the same to the kernel. */
export function sameIpcacheEntry(a: IpcacheEntry, b: IpcacheEntry): boolean {
  return (
    a.identity === b.identity &&
    a.tunnelEndpoint === b.tunnelEndpoint &&
    a.clusterId === b.clusterId
  );
}
