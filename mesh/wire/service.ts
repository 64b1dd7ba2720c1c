/** A global service of a cluster (`pkg/clustermesh/store.ClusterService`). */
import { type ClusterName, parseClusterName } from './ids.ts';
import { type IpAddress, parseIpAddress } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  fieldOf,
  parseField,
  parseJsonObject,
  readArray,
  readBoolean,
  readObject,
  readRequiredString,
  readString,
  readStringMap,
  readUint,
  sortedRecord,
} from './json.ts';

/** Protocols of ports, in the words of Kubernetes. */
export const PROTOCOLS = ['TCP', 'UDP', 'SCTP'] as const;
/** One of `PROTOCOLS`. */
export type Protocol = (typeof PROTOCOLS)[number];

/** A port of a frontend or backend; 0 to 65535. */
export interface L4Port {
  readonly protocol: Protocol;
  readonly port: number;
}

/** Ports by name; a port without a name is under the empty string. */
export type PortMap = ReadonlyMap<string, L4Port>;

/** Where a backend is, and the zones it is hinted for. */
export interface BackendZone {
  readonly zone: string;
  readonly forZones: readonly { readonly name: string }[] | null;
}

/** A service as its cluster offers it to the others. */
export interface ClusterService {
  readonly cluster: ClusterName;
  readonly namespace: string;
  readonly name: string;
  /** Cluster addresses; empty for a headless service. */
  readonly frontends: ReadonlyMap<IpAddress, PortMap>;
  readonly backends: ReadonlyMap<IpAddress, PortMap>;
  readonly hostnames: ReadonlyMap<IpAddress, string> | undefined;
  readonly zones: ReadonlyMap<IpAddress, BackendZone> | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly selector: Readonly<Record<string, string>>;
  readonly includeExternal: boolean;
  /** False withdraws the backends from other clusters. */
  readonly shared: boolean;
  readonly clusterId: number;
}

/** Largest service accepted, in bytes. One of 10,000 backends has about 1 MiB; etcd's own default ends at 1.5 MiB. */
export const MAX_SERVICE_BYTES = 16 * 1024 * 1024;

/** Encodes a service as Cilium does: maps sorted, empty ones `{}`, absent hostnames and zones left out. */
export function encodeClusterService(service: ClusterService): string {
  return encodeGoJson({
    cluster: service.cluster,
    namespace: service.namespace,
    name: service.name,
    frontends: encodePortsByIp(service.frontends),
    backends: encodePortsByIp(service.backends),
    hostnames: optionalRecord(service.hostnames, (name) => name),
    zones: optionalRecord(service.zones, ({ zone, forZones }) => ({ zone, forZones })),
    labels: sortedRecord(Object.entries(service.labels)),
    selector: sortedRecord(Object.entries(service.selector)),
    includeExternal: service.includeExternal,
    shared: service.shared,
    clusterID: service.clusterId,
  });
}

/** Decodes a service. Throws WireError naming key and field. */
export function decodeClusterService(value: Buffer | string, key: string): ClusterService {
  const object = parseJsonObject(value, key, MAX_SERVICE_BYTES);
  const at = (field: string): FieldPath => ({ key, field });
  return {
    cluster: parseField(at('cluster'), fieldOf(object, 'cluster'), parseClusterName),
    namespace: readRequiredString(at('namespace'), fieldOf(object, 'namespace'), 'a name'),
    name: readRequiredString(at('name'), fieldOf(object, 'name'), 'a name'),
    frontends: readPortsByIp(at('frontends'), fieldOf(object, 'frontends')),
    backends: readPortsByIp(at('backends'), fieldOf(object, 'backends')),
    hostnames: readByIp(at('hostnames'), fieldOf(object, 'hostnames'), readString),
    zones: readByIp(at('zones'), fieldOf(object, 'zones'), readZone),
    labels: readStringMap(at('labels'), fieldOf(object, 'labels')) ?? {},
    selector: readStringMap(at('selector'), fieldOf(object, 'selector')) ?? {},
    includeExternal: readBoolean(at('includeExternal'), fieldOf(object, 'includeExternal')),
    shared: readBoolean(at('shared'), fieldOf(object, 'shared')),
    clusterId: readUint(at('clusterID'), fieldOf(object, 'clusterID'), 511),
  };
}

/** JSON of ports by address, as services of ours carry it too. */
export function encodePortsByIp(map: ReadonlyMap<IpAddress, PortMap>): Record<string, unknown> {
  return sortedRecord(
    [...map].map(([ip, ports]) => [
      ip,
      sortedRecord(
        [...ports].map(([name, { protocol, port }]) => [name, { Protocol: protocol, Port: port }]),
      ),
    ]),
  );
}

/** Reads ports by address; absent and null are an empty map. */
export function readPortsByIp(at: FieldPath, found: unknown): ReadonlyMap<IpAddress, PortMap> {
  return readEntriesByIp(at, found, readPorts);
}

/** Reads a protocol's name. */
export function readProtocol(at: FieldPath, found: unknown): Protocol {
  return (
    PROTOCOLS.find((protocol) => protocol === found) ?? failField(at, found, 'TCP, UDP or SCTP')
  );
}

function readPorts(at: FieldPath, found: unknown): PortMap {
  const ports = new Map<string, L4Port>();
  for (const [name, entry] of Object.entries(readObject(at, found) ?? {})) {
    const field = `${at.field}[${JSON.stringify(name)}]`;
    const object =
      readObject({ key: at.key, field }, entry) ??
      failField({ key: at.key, field }, entry, 'an object');
    ports.set(name, {
      protocol: readProtocol(
        { key: at.key, field: `${field}.Protocol` },
        fieldOf(object, 'Protocol'),
      ),
      port: readUint({ key: at.key, field: `${field}.Port` }, fieldOf(object, 'Port'), 65535),
    });
  }
  return ports;
}

function readZone(at: FieldPath, found: unknown): BackendZone {
  const object = readObject(at, found) ?? failField(at, found, 'an object');
  const hintsField = { key: at.key, field: `${at.field}.forZones` };
  const hints = readArray(hintsField, fieldOf(object, 'forZones'));
  return {
    zone: readString({ key: at.key, field: `${at.field}.zone` }, fieldOf(object, 'zone')),
    forZones:
      hints?.map((hint, index) => {
        const field = { key: at.key, field: `${hintsField.field}[${index}]` };
        return { name: readString(field, fieldOf(readObject(field, hint) ?? {}, 'name')) };
      }) ?? null,
  };
}

/** An empty map of these is left out on the wire, so it is the same as none. */
function readByIp<T>(
  at: FieldPath,
  found: unknown,
  read: (at: FieldPath, found: unknown) => T,
): ReadonlyMap<IpAddress, T> | undefined {
  const map = readEntriesByIp(at, found, read);
  return map.size === 0 ? undefined : map;
}

function readEntriesByIp<T>(
  at: FieldPath,
  found: unknown,
  read: (at: FieldPath, found: unknown) => T,
): ReadonlyMap<IpAddress, T> {
  const map = new Map<IpAddress, T>();
  for (const [text, entry] of Object.entries(readObject(at, found) ?? {})) {
    const field = { key: at.key, field: `${at.field}[${JSON.stringify(text)}]` };
    map.set(parseField(field, text, parseIpAddress), read(field, entry));
  }
  return map;
}

function optionalRecord<T, U>(
  map: ReadonlyMap<IpAddress, T> | undefined,
  encode: (value: T) => U,
): Record<string, U> | undefined {
  if (map === undefined || map.size === 0) return undefined;
  return sortedRecord([...map].map(([ip, value]) => [ip, encode(value)]));
}
