/** A global service of a cluster (`pkg/clustermesh/store.ClusterService`). */
import { type ClusterName, parseClusterName } from './ids.ts';
import { type IpAddress, parseIpAddress, parseIpv4 } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  fieldOf,
  type JsonObject,
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
import { createServiceMemory } from './service-memory.ts';

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
  /** Null where the writer had none, which Go writes apart from an empty map. */
  readonly labels: Readonly<Record<string, string>> | null;
  readonly selector: Readonly<Record<string, string>> | null;
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
    labels: service.labels && sortedRecord(Object.entries(service.labels)),
    selector: service.selector && sortedRecord(Object.entries(service.selector)),
    includeExternal: service.includeExternal,
    shared: service.shared,
    clusterID: service.clusterId,
  });
}

const memory = createServiceMemory((json, key) => readPortsByIp({ key, field: 'backends' }, json));

/** Decodes a service. Throws WireError naming key and field. */
export function decodeClusterService(value: Buffer | string, key: string): ClusterService {
  if (typeof value === 'string' || value.length > MAX_SERVICE_BYTES) {
    return decodeWholeService(value, key);
  }
  const changed = memory.decode(value, key);
  if (changed !== undefined) return changed;
  const service = decodeWholeService(value, key);
  memory.note(value, key, service);
  return service;
}

/** The same without looking at what was decoded before. */
export function decodeWholeService(value: Buffer | string, key: string): ClusterService {
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
    labels: readStringMap(at('labels'), readMap(object, 'labels')),
    selector: readStringMap(at('selector'), readMap(object, 'selector')),
    includeExternal: readBoolean(at('includeExternal'), fieldOf(object, 'includeExternal')),
    shared: readBoolean(at('shared'), fieldOf(object, 'shared')),
    clusterId: readUint(at('clusterID'), fieldOf(object, 'clusterID'), 511),
  };
}

/** A map that is left out is an empty one to Cilium's reader, which begins with those; one that is null stays null. */
function readMap(object: JsonObject, name: string): unknown {
  const found = fieldOf(object, name);
  return found === undefined ? {} : found;
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
  let latest: PortMap = new Map();
  return readEntriesByIp(at, found, (field, entry) => {
    // Nearly all backends of a service have the same ports, and then the same map stands for them.
    if (!hasPorts(entry, latest)) latest = readPorts(field(), entry);
    return latest;
  });
}

/** Whether an entry says what `ports` says, each field under its exact name. */
function hasPorts(entry: unknown, ports: PortMap): boolean {
  if (typeof entry !== 'object' || entry === null || Array.isArray(entry)) return false;
  let count = 0;
  for (const [name, port] of Object.entries(entry)) {
    const known = ports.get(name);
    if (known === undefined || typeof port !== 'object' || port === null) return false;
    if (port.Protocol !== known.protocol || port.Port !== known.port) return false;
    count += 1;
  }
  return count === ports.size && count > 0;
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
  const map = readEntriesByIp(at, found, (field, entry) => read(field(), entry));
  return map.size === 0 ? undefined : map;
}

function readEntriesByIp<T>(
  at: FieldPath,
  found: unknown,
  read: (at: () => FieldPath, found: unknown) => T,
): ReadonlyMap<IpAddress, T> {
  const map = new Map<IpAddress, T>();
  const object = readObject(at, found) ?? {};
  for (const text of Object.keys(object)) {
    // Made only for messages: a service may have ten thousand backends.
    const field = (): FieldPath => ({
      key: at.key,
      field: `${at.field}[${JSON.stringify(text)}]`,
    });
    const address = parseIpv4(text) ?? parseField(field(), text, parseIpAddress);
    map.set(address, read(field, object[text]));
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
