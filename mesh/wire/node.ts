/** A node as Cilium publishes it (`pkg/node/types.Node`): every field is always written. */
import { encodeCidr, readOptionalCidr, readOptionalIp } from './cidr-json.ts';
import { type ClusterName, parseClusterName } from './ids.ts';
import type { IpAddress, IpPrefix } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  fieldOf,
  parseField,
  parseJsonObject,
  readArray,
  readObject,
  readRequiredString,
  readString,
  readStringMap,
  readUint,
  sortedRecord,
} from './json.ts';

/**
 * An address of a node, and what it is for: `InternalIP`, `ExternalIP`, `CiliumInternalIP` (`pkg/node/addressing`), or a
 * type that a reader does not know and passes over, as Cilium's readers do.
 */
export interface NodeAddress {
  readonly type: string;
  readonly ip: IpAddress;
}

/** An entry of the list of addresses, which Cilium also reads without an address in it. */
export interface NodeAddressEntry {
  readonly type: string;
  readonly ip: IpAddress | null;
}

/** A node. `null` is what Go writes for an absent network, list or map, and is kept apart from an empty one. */
export interface Node {
  readonly name: string;
  readonly cluster: ClusterName;
  /** 0 is allowed: a cluster outside a mesh. */
  readonly clusterId: number;
  /** As on the wire; `nodeAddresses` gives those that a reader can use. */
  readonly addresses: readonly NodeAddressEntry[] | null;
  readonly ipv4AllocCidr: IpPrefix | null;
  readonly ipv6AllocCidr: IpPrefix | null;
  readonly ipv4SecondaryAllocCidrs: readonly IpPrefix[] | null;
  readonly ipv6SecondaryAllocCidrs: readonly IpPrefix[] | null;
  readonly ipv4HealthIp: IpAddress | null;
  readonly ipv6HealthIp: IpAddress | null;
  readonly ipv4IngressIp: IpAddress | null;
  readonly ipv6IngressIp: IpAddress | null;
  /** Where the writer had it from; readers overwrite it. */
  readonly source: string;
  /** IPsec key index 1 to 15, 255 for WireGuard, 0 for none. */
  readonly encryptionKey: number;
  readonly labels: Readonly<Record<string, string>> | null;
  readonly annotations: Readonly<Record<string, string>> | null;
  /** Identity of the node itself, which Cilium up to 1.19 writes; undefined is left out. */
  readonly nodeIdentity?: number;
  readonly wireguardPubKey: string;
  readonly bootId: string;
}

/** Addresses of a node, without the entries that hold none. */
export function nodeAddresses(node: Pick<Node, 'addresses'>): readonly NodeAddress[] {
  const { addresses } = node;
  if (addresses === null) return [];
  return addresses.every(hasIp) ? addresses : addresses.filter(hasIp);
}

function hasIp(entry: NodeAddressEntry): entry is NodeAddressEntry & NodeAddress {
  return entry.ip !== null;
}

/** Encodes a node; networks in the object form, because versions up to 1.20 read no other. */
export function encodeNode(node: Node): string {
  return encodeGoJson({
    Name: node.name,
    Cluster: node.cluster,
    IPAddresses: node.addresses?.map(({ type, ip }) => ({ Type: type, IP: ip ?? '' })) ?? null,
    IPv4AllocCIDR: node.ipv4AllocCidr === null ? null : encodeCidr(node.ipv4AllocCidr),
    IPv4SecondaryAllocCIDRs: node.ipv4SecondaryAllocCidrs?.map(encodeCidr) ?? null,
    IPv6AllocCIDR: node.ipv6AllocCidr === null ? null : encodeCidr(node.ipv6AllocCidr),
    IPv6SecondaryAllocCIDRs: node.ipv6SecondaryAllocCidrs?.map(encodeCidr) ?? null,
    IPv4HealthIP: node.ipv4HealthIp ?? '',
    IPv6HealthIP: node.ipv6HealthIp ?? '',
    IPv4IngressIP: node.ipv4IngressIp ?? '',
    IPv6IngressIP: node.ipv6IngressIp ?? '',
    ClusterID: node.clusterId,
    Source: node.source,
    EncryptionKey: node.encryptionKey,
    Labels: node.labels === null ? null : sortedRecord(Object.entries(node.labels)),
    Annotations: node.annotations === null ? null : sortedRecord(Object.entries(node.annotations)),
    NodeIdentity: node.nodeIdentity,
    WireguardPubKey: node.wireguardPubKey,
    BootID: node.bootId,
  });
}

/** Decodes a node; both forms of networks are read. Throws WireError naming key and field. */
export function decodeNode(value: Buffer | string, key: string): Node {
  const object = parseJsonObject(value, key);
  const at = (field: string): FieldPath => ({ key, field });
  const read = <T>(field: string, reader: (at: FieldPath, found: unknown) => T): T =>
    reader(at(field), fieldOf(object, field));
  const nodeIdentity = read('NodeIdentity', readOptionalUint);
  return {
    name: readRequiredString(at('Name'), fieldOf(object, 'Name'), 'the name of the node'),
    cluster: parseField(at('Cluster'), fieldOf(object, 'Cluster'), parseClusterName),
    clusterId: readUint(at('ClusterID'), fieldOf(object, 'ClusterID'), 511),
    addresses: read('IPAddresses', readAddresses),
    ipv4AllocCidr: read('IPv4AllocCIDR', readOptionalCidr),
    ipv6AllocCidr: read('IPv6AllocCIDR', readOptionalCidr),
    ipv4SecondaryAllocCidrs: read('IPv4SecondaryAllocCIDRs', readCidrs),
    ipv6SecondaryAllocCidrs: read('IPv6SecondaryAllocCIDRs', readCidrs),
    ipv4HealthIp: read('IPv4HealthIP', readOptionalIp),
    ipv6HealthIp: read('IPv6HealthIP', readOptionalIp),
    ipv4IngressIp: read('IPv4IngressIP', readOptionalIp),
    ipv6IngressIp: read('IPv6IngressIP', readOptionalIp),
    source: read('Source', readString),
    encryptionKey: readUint(at('EncryptionKey'), fieldOf(object, 'EncryptionKey'), 255),
    labels: read('Labels', readStringMap),
    annotations: read('Annotations', readStringMap),
    wireguardPubKey: read('WireguardPubKey', readString),
    bootId: read('BootID', readString),
    ...(nodeIdentity === undefined ? {} : { nodeIdentity }),
  };
}

function readOptionalUint(at: FieldPath, found: unknown): number | undefined {
  return found === undefined || found === null ? undefined : readUint(at, found, 2 ** 32 - 1);
}

/** Any type is taken, as Cilium takes it: one that came with a newer version must not cost the whole node. */
function readAddresses(at: FieldPath, found: unknown): NodeAddressEntry[] | null {
  const list = readArray(at, found);
  if (list === undefined) return null;
  return list.map((entry, index) => {
    const field = (name: string): FieldPath => ({
      key: at.key,
      field: `${at.field}[${index}]${name}`,
    });
    const object = readObject(field(''), entry) ?? {};
    return {
      type: readString(field('.Type'), fieldOf(object, 'Type')),
      ip: readOptionalIp(field('.IP'), fieldOf(object, 'IP')),
    };
  });
}

function readCidrs(at: FieldPath, found: unknown): IpPrefix[] | null {
  const list = readArray(at, found);
  if (list === undefined) return null;
  return list.map((entry, index) => {
    const field = { key: at.key, field: `${at.field}[${index}]` };
    return readOptionalCidr(field, entry) ?? failField(field, entry, 'a network');
  });
}
