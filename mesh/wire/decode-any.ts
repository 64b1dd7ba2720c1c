import { decodeClusterConfig, encodeClusterConfig } from './cluster-config.ts';
import { decodeLabels, encodeLabels } from './identity.ts';
import type { ClusterName } from './ids.ts';
import { decodeIpIdentity, encodeIpIdentity } from './ip-identity.ts';
import { type ParsedKey, parseKey } from './keys.ts';
import { decodeLocalPolicy, encodeLocalPolicy } from './local-policy.ts';
import { decodeLocalService, encodeLocalService } from './local-service.ts';
import { decodeNode, encodeNode } from './node.ts';
import { decodeClusterService, encodeClusterService } from './service.ts';
import { decodeTimestamp, encodeTimestamp } from './timestamp.ts';

/** A value of any kind after a way there and back. */
export interface DecodedValue {
  readonly kind: ParsedKey['kind'];
  readonly cluster: ClusterName | undefined;
  /** The value as this version would write it; undefined for kinds whose values are not looked into. */
  readonly value: string | undefined;
}

/** Decodes the value of any key and encodes it again. Throws WireError as the kind's decoder does. */
export function decodeValue(key: string, value: Buffer | string): DecodedValue {
  const parsed = parseKey(key);
  const cluster = 'cluster' in parsed ? parsed.cluster : undefined;
  return { kind: parsed.kind, cluster, value: reencode(parsed, value, key) };
}

function reencode(parsed: ParsedKey, value: Buffer | string, key: string): string | undefined {
  switch (parsed.kind) {
    case 'node':
      return encodeNode(decodeNode(value, key));
    case 'ip':
      return encodeIpIdentity(decodeIpIdentity(value, key));
    case 'identity':
      return encodeLabels(decodeLabels(value, key));
    case 'service':
      return encodeClusterService(decodeClusterService(value, key));
    case 'cluster-config':
      return encodeClusterConfig(decodeClusterConfig(value, key));
    case 'synced':
    case 'heartbeat':
      return encodeTimestamp(decodeTimestamp(value, key));
    case 'local-service':
      return encodeLocalService(decodeLocalService(value, key));
    case 'local-policy':
      return encodeLocalPolicy(decodeLocalPolicy(value, key));
    case 'identity-reference':
    case 'service-export':
    case 'endpoint-slice':
    case 'internal':
      return undefined;
    default:
      return parsed satisfies never;
  }
}
