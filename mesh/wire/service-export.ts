/** A Service that a cluster exports by the Multi-Cluster Services API (`pkg/clustermesh/mcsapi/types.MCSAPIServiceSpec`). */
import { type ClusterName, parseClusterName } from './ids.ts';
import {
  encodeGoJson,
  type FieldPath,
  failField,
  fieldOf,
  type JsonObject,
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
import { encodeTimestamp, parseTimestamp } from './timestamp.ts';

/** A port of an exported Service. */
export interface ExportedPort {
  /** Empty for a port without a name. */
  readonly name: string;
  /** Empty where the writer said none. */
  readonly protocol: string;
  readonly appProtocol: string | undefined;
  readonly port: number;
}

/** Affinity to a client's address; each level may be there without the next. */
export interface ExportedAffinityConfig {
  readonly clientIp: { readonly timeoutSeconds: number | undefined } | undefined;
}

/** An exported Service. */
export interface ServiceExport {
  readonly cluster: ClusterName;
  readonly name: string;
  readonly namespace: string;
  /** Undefined for none: an empty map is left out on the wire. */
  readonly annotations: Readonly<Record<string, string>> | undefined;
  readonly labels: Readonly<Record<string, string>> | undefined;
  /** Whether labels and annotations are written a second time under capital names, which Cilium of 1.18 to 1.20 does. */
  readonly legacyCopies: boolean;
  /** Milliseconds since 1970, whole seconds: of two exports in conflict the older one counts. */
  readonly exportedAt: number;
  readonly ports: readonly ExportedPort[] | null;
  readonly type: (typeof EXPORT_TYPES)[number];
  readonly sessionAffinity: (typeof SESSION_AFFINITIES)[number];
  readonly sessionAffinityConfig: ExportedAffinityConfig | undefined;
  /** Not checked further, as Cilium does not. */
  readonly ipFamilies: readonly string[] | undefined;
  readonly internalTrafficPolicy: (typeof TRAFFIC_POLICIES)[number] | undefined;
  readonly trafficDistribution: (typeof TRAFFIC_DISTRIBUTIONS)[number] | undefined;
}

const EXPORT_TYPES = ['ClusterSetIP', 'Headless'] as const;
const SESSION_AFFINITIES = ['None', 'ClientIP'] as const;
const TRAFFIC_POLICIES = ['Cluster', 'Local'] as const;
const TRAFFIC_DISTRIBUTIONS = ['PreferClose', 'PreferSameZone', 'PreferSameNode'] as const;
/** What Go takes for no time at all, and Cilium then refuses. */
const YEAR_ONE = Date.parse('0001-01-01T00:00:00Z');
const MAX_INT32 = 2 ** 31 - 1;

/** Encodes an exported Service with the fields in the order of Cilium's. */
export function encodeServiceExport(value: ServiceExport): string {
  const labels = value.labels && sortedRecord(Object.entries(value.labels));
  const annotations = value.annotations && sortedRecord(Object.entries(value.annotations));
  return encodeGoJson({
    cluster: value.cluster,
    name: value.name,
    namespace: value.namespace,
    annotations,
    labels,
    Labels: value.legacyCopies ? labels : undefined,
    Annotations: value.legacyCopies ? annotations : undefined,
    exportCreationTimestamp: encodeTimestamp(value.exportedAt),
    ports:
      value.ports?.map(({ name, protocol, appProtocol, port }) => ({
        name: name || undefined,
        protocol: protocol || undefined,
        appProtocol,
        port,
      })) ?? null,
    type: value.type,
    sessionAffinity: value.sessionAffinity,
    sessionAffinityConfig: value.sessionAffinityConfig && {
      clientIP: value.sessionAffinityConfig.clientIp && {
        timeoutSeconds: value.sessionAffinityConfig.clientIp.timeoutSeconds,
      },
    },
    ipFamilies: value.ipFamilies,
    internalTrafficPolicy: value.internalTrafficPolicy,
    trafficDistribution: value.trafficDistribution,
  });
}

/** Decodes an exported Service. Throws WireError naming key and field, for whatever Cilium would refuse as well. */
export function decodeServiceExport(value: Buffer | string, key: string): ServiceExport {
  const object = parseJsonObject(value, key);
  const at = (field: string): FieldPath => ({ key, field });
  const labels = readCopiedMap(object, at('labels'), 'Labels');
  const annotations = readCopiedMap(object, at('annotations'), 'Annotations');
  const families = readArray(at('ipFamilies'), fieldOf(object, 'ipFamilies')) ?? [];
  return {
    cluster: parseField(at('cluster'), fieldOf(object, 'cluster'), parseClusterName),
    name: readRequiredString(at('name'), fieldOf(object, 'name'), 'a name'),
    namespace: readRequiredString(at('namespace'), fieldOf(object, 'namespace'), 'a name'),
    annotations: annotations.map,
    labels: labels.map,
    legacyCopies: annotations.isCopied || labels.isCopied,
    exportedAt: readTime(at('exportCreationTimestamp'), fieldOf(object, 'exportCreationTimestamp')),
    ports: readPorts(at('ports'), fieldOf(object, 'ports')),
    type: readWord(at('type'), fieldOf(object, 'type'), EXPORT_TYPES),
    sessionAffinity: readWord(
      at('sessionAffinity'),
      fieldOf(object, 'sessionAffinity'),
      SESSION_AFFINITIES,
    ),
    sessionAffinityConfig: readAffinityConfig(
      at('sessionAffinityConfig'),
      fieldOf(object, 'sessionAffinityConfig'),
    ),
    ipFamilies:
      families.length === 0
        ? undefined
        : families.map((family, index) => readString(at(`ipFamilies[${index}]`), family)),
    internalTrafficPolicy: readOptionalWord(
      at('internalTrafficPolicy'),
      fieldOf(object, 'internalTrafficPolicy'),
      TRAFFIC_POLICIES,
    ),
    trafficDistribution: readOptionalWord(
      at('trafficDistribution'),
      fieldOf(object, 'trafficDistribution'),
      TRAFFIC_DISTRIBUTIONS,
    ),
  };
}

/**
 * A map that older versions write under a capital name, newer ones under both. The two names differ in case alone, so
 * each is looked up as it is written.
 */
function readCopiedMap(
  object: JsonObject,
  at: FieldPath,
  legacyName: string,
): { map: Readonly<Record<string, string>> | undefined; isCopied: boolean } {
  const own = (name: string) => (Object.hasOwn(object, name) ? object[name] : undefined);
  const map = readStringMap(at, own(at.field)) ?? {};
  const legacy = readStringMap({ key: at.key, field: legacyName }, own(legacyName)) ?? {};
  const chosen = Object.keys(map).length === 0 ? legacy : map;
  return {
    map: Object.keys(chosen).length === 0 ? undefined : chosen,
    isCopied: Object.keys(legacy).length > 0,
  };
}

function readTime(at: FieldPath, found: unknown): number {
  const text = readRequiredString(at, found, 'a time');
  const milliseconds = parseTimestamp(text);
  if (Number.isNaN(milliseconds)) failField(at, text, 'a time as of RFC 3339');
  if (milliseconds === YEAR_ONE) failField(at, text, 'a time that is not the first of the year 1');
  return Math.floor(milliseconds / 1000) * 1000;
}

function readPorts(at: FieldPath, found: unknown): readonly ExportedPort[] | null {
  const list = readArray(at, found);
  if (list === undefined) return null;
  return list.map((entry, index) => {
    const field = (name: string): FieldPath => ({
      key: at.key,
      field: `${at.field}[${index}]${name}`,
    });
    const object = readObject(field(''), entry) ?? {};
    const appProtocol = fieldOf(object, 'appProtocol');
    return {
      name: readString(field('.name'), fieldOf(object, 'name')),
      protocol: readString(field('.protocol'), fieldOf(object, 'protocol')),
      appProtocol:
        appProtocol === undefined || appProtocol === null
          ? undefined
          : readString(field('.appProtocol'), appProtocol),
      port: readUint(field('.port'), fieldOf(object, 'port'), 65_535),
    };
  });
}

function readAffinityConfig(at: FieldPath, found: unknown): ExportedAffinityConfig | undefined {
  const object = readObject(at, found);
  if (object === undefined) return undefined;
  const clientField = { key: at.key, field: `${at.field}.clientIP` };
  const client = readObject(clientField, fieldOf(object, 'clientIP'));
  if (client === undefined) return { clientIp: undefined };
  const seconds = fieldOf(client, 'timeoutSeconds');
  return {
    clientIp: {
      timeoutSeconds:
        seconds === undefined || seconds === null
          ? undefined
          : readUint(
              { key: at.key, field: `${clientField.field}.timeoutSeconds` },
              seconds,
              MAX_INT32,
            ),
    },
  };
}

function readWord<T extends string>(at: FieldPath, found: unknown, words: readonly T[]): T {
  return words.find((word) => word === found) ?? failField(at, found, words.join(' or '));
}

function readOptionalWord<T extends string>(
  at: FieldPath,
  found: unknown,
  words: readonly T[],
): T | undefined {
  return found === undefined || found === null ? undefined : readWord(at, found, words);
}
