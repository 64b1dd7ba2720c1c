/** A Service of the own cluster as its own agents need it: every one, global or not, with what its annotations say. */
import { type IpAddress, parseIpAddress } from './ip.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  parseField,
  parseJsonObject,
  readArray,
  readBoolean,
  readObject,
  readRequiredString,
  readString,
  readUint,
} from './json.ts';
import { readSchema } from './schema.ts';
import {
  encodePortsByIp,
  MAX_SERVICE_BYTES,
  type PortMap,
  type Protocol,
  readPortsByIp,
  readProtocol,
} from './service.ts';

/** Whose backends are preferred: nobody's, those of the own cluster, or those of the others. */
export const SERVICE_AFFINITIES = ['none', 'local', 'remote'] as const;
/** One of `SERVICE_AFFINITIES`. */
export type ServiceAffinity = (typeof SERVICE_AFFINITIES)[number];

/** A Service with its local backends, whether other clusters may use it or not. */
export interface LocalService {
  readonly namespace: string;
  readonly name: string;
  readonly clusterIps: readonly IpAddress[];
  readonly ports: readonly {
    readonly name: string;
    readonly protocol: Protocol;
    readonly port: number;
  }[];
  readonly headless: boolean;
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: ServiceAffinity;
  /** Backends of this cluster that are ready or still serving. */
  readonly backends: ReadonlyMap<IpAddress, PortMap>;
}

const SCHEMA = 1;

/** Encodes a service for the own cluster's agents. Equal services have equal text, so that no needless write follows. */
export function encodeLocalService(service: LocalService): string {
  return encodeGoJson({
    schema: SCHEMA,
    namespace: service.namespace,
    name: service.name,
    clusterIps: service.clusterIps,
    ports: service.ports.map(({ name, protocol, port }) => ({ name, protocol, port })),
    headless: service.headless,
    global: service.global,
    shared: service.shared,
    affinity: service.affinity,
    backends: encodePortsByIp(service.backends),
  });
}

/** Decodes one. Throws WireError naming key and field, and for a schema that is not known. */
export function decodeLocalService(value: Buffer | string, key: string): LocalService {
  const object = parseJsonObject(value, key, MAX_SERVICE_BYTES);
  readSchema(key, object, SCHEMA);
  const at = (field: string): FieldPath => ({ key, field });
  const affinity = SERVICE_AFFINITIES.find((candidate) => candidate === object.affinity);
  if (affinity === undefined)
    failField(at('affinity'), object.affinity, SERVICE_AFFINITIES.join(', '));
  const clusterIps = readArray(at('clusterIps'), object.clusterIps) ?? [];
  const ports = readArray(at('ports'), object.ports) ?? [];
  return {
    namespace: readRequiredString(at('namespace'), object.namespace, 'a name'),
    name: readRequiredString(at('name'), object.name, 'a name'),
    clusterIps: clusterIps.map((ip, index) =>
      parseField(at(`clusterIps[${index}]`), ip, parseIpAddress),
    ),
    ports: ports.map((entry, index) => {
      const port = readObject(at(`ports[${index}]`), entry) ?? {};
      return {
        name: readString(at(`ports[${index}].name`), port.name),
        protocol: readProtocol(at(`ports[${index}].protocol`), port.protocol),
        port: readUint(at(`ports[${index}].port`), port.port, 65535),
      };
    }),
    headless: readBoolean(at('headless'), object.headless),
    global: readBoolean(at('global'), object.global),
    shared: readBoolean(at('shared'), object.shared),
    affinity,
    backends: readPortsByIp(at('backends'), object.backends),
  };
}
