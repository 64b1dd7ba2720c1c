/** Keys of one peer in the local etcd, by Cilium's rule (`pkg/clustermesh/kvstoremesh/reflector`). Pure. */
import type { ClusterChange, MIRRORED_KINDS } from '../../mesh/remote/cluster-sink.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { canaryPrefix, clusterConfigKey, meshPeerKey, syncedPrefix } from '../../mesh/wire/keys.ts';

/** What is mirrored of a peer. */
export type MirroredKind = (typeof MIRRORED_KINDS)[number];

/** Parts before the name in a source's key of an address: `cilium/state/ip/v1/default/` or `cilium/cache/ip/v1/<cluster>/`. */
const PARTS_BEFORE_ADDRESS = 5;

/** Makes the keys of one peer. Whatever the peer says, each lies below a prefix that ends in the peer's name. */
export interface CacheKeys {
  /** `cilium/cluster-config/<peer>`. */
  readonly config: string;
  /** `cilium/synced/<peer>/`. */
  readonly markers: string;
  /** Marker of a kind behind `markers`: `cilium/cache/<kind>/v1`. */
  marker(kind: MirroredKind): string;
  /** `cilium/cache/<kind>/v1/<peer>/`, for identities with `id/` behind it. */
  prefix(kind: MirroredKind): string;
  /** Our report of the peer. */
  readonly report: string;
}

/** Makes the key builder of a peer. */
export function createCacheKeys(peer: ClusterName): CacheKeys {
  const marker = (kind: MirroredKind): string => canaryPrefix(kind, { cached: true });
  return {
    config: clusterConfigKey(peer),
    markers: syncedPrefix(peer),
    marker,
    prefix: (kind) => `${marker(kind)}/${peer}/${kind === 'identities' ? 'id/' : ''}`,
    report: meshPeerKey(peer),
  };
}

/** Kind that a change is of; undefined for what is never mirrored. */
export function kindOfChange(change: ClusterChange): MirroredKind | undefined {
  switch (change.kind) {
    case 'node':
      return 'nodes';
    case 'identity':
      return 'identities';
    case 'ip':
      return 'ips';
    case 'service':
      return 'services';
    case 'service-export':
      return 'serviceexports';
    case 'endpoint-slice':
      return 'endpointslices';
    case 'local-service':
    case 'local-policy':
      return undefined;
    default:
      return change satisfies never;
  }
}

/**
 * What stands behind the prefix in the local key. It is the source's own text: an address may be written with or without
 * its length, and readers compare the key with the value.
 */
export function suffixOfChange(change: ClusterChange, sourceKey: string): string {
  switch (change.kind) {
    case 'ip':
      return behindPart(sourceKey, PARTS_BEFORE_ADDRESS);
    case 'identity':
      return String(change.id);
    default:
      return change.name;
  }
}

function behindPart(key: string, parts: number): string {
  let at = -1;
  for (let part = 0; part < parts; part += 1) at = key.indexOf('/', at + 1);
  return key.slice(at + 1);
}
