/**
 * What a reader checks of a peer's values beyond their form: that they are the peer's to publish. Each function gives
 * undefined for a good value, else why it is refused. The checks are those of Cilium's readers (`pkg/node/store`,
 * `pkg/clustermesh/store`, `pkg/ipcache`, `pkg/allocator`), stricter where a peer could speak for another.
 */
import type { ClusterConfig } from './cluster-config.ts';
import { CLUSTER_LABEL, type Labels } from './identity.ts';
import {
  type ClusterId,
  type ClusterName,
  identityRange,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  type NumericIdentity,
  reservedIdentity,
} from './ids.ts';
import type { IpIdentity } from './ip-identity.ts';
import { keyTextOfPrefix } from './keys.ts';
import type { Node } from './node.ts';
import type { KeyOf } from './parse-key.ts';
import type { ClusterService } from './service.ts';

/** Who a value was read from, as agreed with the peer's cluster configuration. */
export interface PeerIdentity {
  readonly name: ClusterName;
  readonly id: ClusterId;
  readonly max: MaxConnectedClusters;
}

/** Fixed words for why a value is refused; counters go by them. */
export type RejectionReason =
  | 'wrong-cluster'
  | 'wrong-cluster-id'
  | 'key-mismatch'
  | 'identity-out-of-range'
  | 'identity-reserved'
  | 'cluster-label-missing'
  | 'cluster-label-foreign'
  | 'reserved-label'
  | 'no-labels';

/** Why a value is refused: a word for counters, a sentence for people. */
export interface Rejection {
  readonly reason: RejectionReason;
  readonly message: string;
}

/** Reserved identities that a peer's addresses may carry: health, remote-node, ingress. Its host is a remote node to us. */
const RESERVED_FROM_PEERS: readonly number[] = [
  reservedIdentity('health'),
  reservedIdentity('remote-node'),
  reservedIdentity('ingress'),
];

/** Checks a node against the key it stood under and the peer it came from. */
export function validateNode(
  node: Node,
  key: KeyOf<'node'>,
  peer: PeerIdentity,
): Rejection | undefined {
  if (node.cluster !== peer.name || key.cluster !== peer.name) {
    return reject(
      'wrong-cluster',
      `node ${key.name}: cluster ${node.cluster}, expected ${peer.name}`,
    );
  }
  if (node.name !== key.name)
    return reject('key-mismatch', `node ${key.name}: its value names node ${node.name}`);
  if (node.clusterId !== peer.id) {
    return reject(
      'wrong-cluster-id',
      `node ${key.name}: cluster id ${node.clusterId}, expected ${peer.id}`,
    );
  }
  return undefined;
}

/** Checks an address; whether the peer may announce it is decided where all peers are known. */
export function validateIpIdentity(
  record: IpIdentity,
  key: KeyOf<'ip'>,
  peer: PeerIdentity,
): Rejection | undefined {
  // Made only for messages: this runs for every address of the mesh.
  const text = (): string => keyTextOfPrefix(key.prefix, key.isCidr);
  if (key.cluster !== undefined && key.cluster !== peer.name) {
    return reject(
      'wrong-cluster',
      `address ${text()}: published under cluster ${key.cluster}, expected ${peer.name}`,
    );
  }
  if (record.prefix !== key.prefix || record.isCidr !== key.isCidr) {
    return reject(
      'key-mismatch',
      `address ${text()}: its value says ${keyTextOfPrefix(record.prefix, record.isCidr)}`,
    );
  }
  return validateAddressIdentity(record.identity, text, peer);
}

/** Identity that a reader uses for a peer's address: the host of another cluster is a remote node here. */
export function identityAsSeenFromHere(identity: NumericIdentity): NumericIdentity {
  return identity === reservedIdentity('host') ? reservedIdentity('remote-node') : identity;
}

/** Checks the labels of an identity. Deletes are not checked: refusing one would keep what its owner took back. */
export function validateIdentity(
  id: NumericIdentity,
  labels: Labels,
  peer: PeerIdentity,
): Rejection | undefined {
  const range = identityRange(peer.id, peer.max);
  if (id < range.first || id > range.last) {
    return reject(
      'identity-out-of-range',
      `identity ${id}: outside ${peer.name}'s range ${range.first} to ${range.last}`,
    );
  }
  if (labels.length === 0) return reject('no-labels', `identity ${id}: it has no labels`);
  if (labels.some((label) => label.source === 'reserved')) {
    return reject('reserved-label', `identity ${id}: a peer may not use labels of source reserved`);
  }
  const clusters = labels.filter((label) => label.key === CLUSTER_LABEL);
  const cluster = clusters.find((label) => label.source === 'k8s');
  if (cluster === undefined) {
    return reject('cluster-label-missing', `identity ${id}: label k8s:${CLUSTER_LABEL} is missing`);
  }
  if (clusters.length > 1 || cluster.value !== peer.name) {
    const values = clusters.map((label) => label.value).join(', ');
    return reject(
      'cluster-label-foreign',
      `identity ${id}: cluster label ${values}, expected ${peer.name} alone`,
    );
  }
  return undefined;
}

/** Checks a service against its key and the peer. */
export function validateClusterService(
  service: ClusterService,
  key: KeyOf<'service' | 'service-export' | 'endpoint-slice'>,
  peer: PeerIdentity,
): Rejection | undefined {
  const text = `${key.namespace}/${key.name}`;
  if (service.cluster !== peer.name || key.cluster !== peer.name) {
    return reject(
      'wrong-cluster',
      `service ${text}: cluster ${service.cluster}, expected ${peer.name}`,
    );
  }
  if (service.namespace !== key.namespace || service.name !== key.name) {
    return reject(
      'key-mismatch',
      `service ${text}: its value names ${service.namespace}/${service.name}`,
    );
  }
  if (service.clusterId !== peer.id) {
    return reject(
      'wrong-cluster-id',
      `service ${text}: cluster id ${service.clusterId}, expected ${peer.id}`,
    );
  }
  return undefined;
}

/** Why a peer's cluster configuration cannot be worked with; undefined when it can. */
export function validateClusterConfig(
  config: ClusterConfig,
  context: {
    readonly peer: ClusterName;
    readonly own: {
      readonly name: ClusterName;
      readonly id: ClusterId;
      readonly max: MaxConnectedClusters;
    };
    /** Name of another peer that holds this id already. */
    readonly holder: ClusterName | undefined;
  },
): string | undefined {
  const { peer, own, holder } = context;
  const mode = config.capabilities.endpointSlicesExportMode;
  if (config.id < 1 || config.id > own.max) {
    return `cluster ${peer} says its id is ${config.id}, expected 1 to ${own.max}: set --cluster-id there`;
  }
  if (config.id === own.id) {
    return `cluster ${peer} has our own cluster id ${own.id}: give one of the two another --cluster-id`;
  }
  if (holder !== undefined && holder !== peer) {
    return `cluster ${peer} has cluster id ${config.id}, which cluster ${holder} holds already: give one of the two another --cluster-id`;
  }
  if (own.max === 511 && config.capabilities.maxConnectedClusters !== 511) {
    return `cluster ${peer} is in a mesh of ${config.capabilities.maxConnectedClusters ?? 255} clusters and we are in one of 511: both need the same --max-connected-clusters`;
  }
  if (own.max === 255 && config.capabilities.maxConnectedClusters === 511) {
    return `cluster ${peer} is in a mesh of 511 clusters and we are in one of 255: both need the same --max-connected-clusters`;
  }
  if (
    mode !== undefined &&
    mode !== 'services-and-endpointslices' &&
    mode !== 'endpointslices-only'
  ) {
    return `cluster ${peer} exports endpoint slices in mode ${JSON.stringify(mode)}, which this version does not know: upgrade this side`;
  }
  return undefined;
}

function validateAddressIdentity(
  identity: NumericIdentity,
  address: () => string,
  peer: PeerIdentity,
): Rejection | undefined {
  const seen = identityAsSeenFromHere(identity);
  if (seen < MINIMUM_ALLOCATED_IDENTITY) {
    if (RESERVED_FROM_PEERS.includes(seen)) return undefined;
    return reject(
      'identity-reserved',
      `address ${address()}: a peer may not give it reserved identity ${identity}`,
    );
  }
  const range = identityRange(peer.id, peer.max);
  if (seen >= range.first && seen <= range.last) return undefined;
  return reject(
    'identity-out-of-range',
    `address ${address()}: identity ${identity} is outside ${peer.name}'s range ${range.first} to ${range.last}`,
  );
}

function reject(reason: RejectionReason, message: string): Rejection {
  return { reason, message };
}
