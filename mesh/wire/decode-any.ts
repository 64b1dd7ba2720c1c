/** Decoding and encoding of a pair whose kind only its key says. */
import { type ClusterConfig, decodeClusterConfig, encodeClusterConfig } from './cluster-config.ts';
import { decodeMeshDigest, encodeMeshDigest, type MeshDigest } from './digest.ts';
import { decodeEndpointSlice, type EndpointSlice } from './endpoint-slice.ts';
import { decodeLabels, encodeLabels, type Labels } from './identity.ts';
import { decodeIdentityReference, encodeIdentityReference } from './identity-reference.ts';
import type { ClusterName, NumericIdentity } from './ids.ts';
import { decodeIpIdentity, encodeIpIdentity, type IpIdentity } from './ip-identity.ts';
import { decodeLocalPolicy, encodeLocalPolicy, type LocalPolicy } from './local-policy.ts';
import { decodeLocalService, encodeLocalService, type LocalService } from './local-service.ts';
import { decodeNode, encodeNode, type Node } from './node.ts';
import { type KeyOf, type ParsedKey, parseKey } from './parse-key.ts';
import { decodePeerReport, encodePeerReport, type PeerReport } from './peer-report.ts';
import { type ClusterService, decodeClusterService, encodeClusterService } from './service.ts';
import { decodeServiceExport, encodeServiceExport, type ServiceExport } from './service-export.ts';
import { decodeMeshStamp, encodeMeshStamp, type MeshStamp } from './stamp.ts';
import { decodeTimestamp } from './timestamp.ts';

interface Pair<K extends ParsedKey['kind'], T> {
  readonly kind: K;
  readonly key: KeyOf<K>;
  readonly value: T;
}

/** A pair taken apart. Values of `internal` keys are not looked into. */
export type DecodedPair =
  | Pair<'node', Node>
  | Pair<'ip', IpIdentity>
  | Pair<'identity', Labels>
  | Pair<'identity-reference', NumericIdentity>
  | Pair<'service', ClusterService>
  | Pair<'service-export', ServiceExport>
  /** Its bytes stay beside it: compressing it again need not give the same ones. */
  | (Pair<'endpoint-slice', EndpointSlice> & { readonly bytes: Buffer })
  | Pair<'cluster-config', ClusterConfig>
  /** The text of a time, which may have any zone. */
  | Pair<'synced', string>
  | Pair<'heartbeat', string>
  | Pair<'local-service', LocalService>
  | Pair<'local-policy', LocalPolicy>
  | Pair<'mesh-digest', MeshDigest>
  | Pair<'mesh-stamp', MeshStamp>
  | Pair<'mesh-peer', PeerReport>
  | Pair<'internal', Buffer>;

/** A value of any kind after a way there and back. */
export interface DecodedValue {
  readonly kind: ParsedKey['kind'];
  readonly cluster: ClusterName | undefined;
  /** The value as this version would write it; bytes for kinds that are no text. */
  readonly value: string | Buffer;
}

/** Decodes the value of any key and encodes it again. Throws WireError as the kind's decoder does. */
export function decodeValue(key: string, value: Buffer | string): DecodedValue {
  const pair = decodePair(key, value);
  const cluster = 'cluster' in pair.key ? pair.key.cluster : undefined;
  return { kind: pair.kind, cluster, value: encodePair(pair) };
}

/** Decodes a pair. Throws WireError for its key, or as the kind's decoder does. */
export function decodePair(text: string, value: Buffer | string): DecodedPair {
  const key = parseKey(text);
  switch (key.kind) {
    case 'node':
      return { kind: 'node', key, value: decodeNode(value, text) };
    case 'ip':
      return { kind: 'ip', key, value: decodeIpIdentity(value, text) };
    case 'identity':
      return { kind: 'identity', key, value: decodeLabels(value, text) };
    case 'identity-reference':
      return { kind: 'identity-reference', key, value: decodeIdentityReference(value, text) };
    case 'service':
      return { kind: 'service', key, value: decodeClusterService(value, text) };
    case 'service-export':
      return { kind: 'service-export', key, value: decodeServiceExport(value, text) };
    case 'endpoint-slice': {
      const bytes = Buffer.from(value);
      return { kind: 'endpoint-slice', key, value: decodeEndpointSlice(bytes, text), bytes };
    }
    case 'cluster-config':
      return { kind: 'cluster-config', key, value: decodeClusterConfig(value, text) };
    case 'synced':
      return { kind: 'synced', key, value: readTime(value, text) };
    case 'heartbeat':
      return { kind: 'heartbeat', key, value: readTime(value, text) };
    case 'local-service':
      return { kind: 'local-service', key, value: decodeLocalService(value, text) };
    case 'local-policy':
      return { kind: 'local-policy', key, value: decodeLocalPolicy(value, text) };
    case 'mesh-digest':
      return { kind: 'mesh-digest', key, value: decodeMeshDigest(value, text) };
    case 'mesh-stamp':
      return { kind: 'mesh-stamp', key, value: decodeMeshStamp(value, text) };
    case 'mesh-peer':
      return { kind: 'mesh-peer', key, value: decodePeerReport(value, text) };
    case 'internal':
      return { kind: 'internal', key, value: Buffer.from(value) };
    default:
      return key satisfies never;
  }
}

/** The value of a pair as this version would write it. */
export function encodePair(pair: DecodedPair): string | Buffer {
  switch (pair.kind) {
    case 'node':
      return encodeNode(pair.value);
    case 'ip':
      return encodeIpIdentity(pair.value);
    case 'identity':
      return encodeLabels(pair.value);
    case 'identity-reference':
      return encodeIdentityReference(pair.value);
    case 'service':
      return encodeClusterService(pair.value);
    case 'service-export':
      return encodeServiceExport(pair.value);
    case 'endpoint-slice':
      return pair.bytes;
    case 'cluster-config':
      return encodeClusterConfig(pair.value);
    case 'local-service':
      return encodeLocalService(pair.value);
    case 'local-policy':
      return encodeLocalPolicy(pair.value);
    case 'mesh-digest':
      return encodeMeshDigest(pair.value);
    case 'mesh-stamp':
      return encodeMeshStamp(pair.value);
    case 'mesh-peer':
      return encodePeerReport(pair.value);
    case 'synced':
    case 'heartbeat':
    case 'internal':
      return pair.value;
    default:
      return pair satisfies never;
  }
}

/** Cilium writes these times in the zone of the process; what is written again keeps it. */
function readTime(value: Buffer | string, key: string): string {
  decodeTimestamp(value, key);
  return value.toString();
}
