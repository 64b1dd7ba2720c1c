/** Other sides by Cilium's entity names (`pkg/policy/api/entity.go`). */
import { CLUSTER_LABEL } from '../../mesh/wire/identity.ts';
import {
  type ClusterName,
  type ReservedIdentityName,
  reservedIdentity,
} from '../../mesh/wire/ids.ts';
import type { PeerMatch } from './rule.ts';
import { type Requirement, requireLabel, requirePresence } from './selector.ts';

/** Nodes and what else of a cluster has no labels of a pod. */
const CLUSTER_ENTITIES = [
  'host',
  'remote-node',
  'init',
  'ingress',
  'health',
  'unmanaged',
  'kube-apiserver',
] as const;

/**
 * Where Kubernetes itself says that its API servers are. No address gets their reserved identity here: on nodes of the mesh
 * they are `host` and `remote-node`, elsewhere they are told from the world by their addresses.
 */
const API_SERVER: PeerMatch = {
  kind: 'service',
  service: { namespace: 'default', name: 'kubernetes' },
};

/** What an entity stands for, in a cluster of that name; undefined for a name that is none. */
export function entityPeers(entity: string, clusterName: ClusterName): PeerMatch[] | undefined {
  switch (entity) {
    case 'all':
      return [{ kind: 'any' }];
    case 'world':
      return [{ kind: 'world', family: undefined }];
    case 'world-ipv4':
      return [{ kind: 'world', family: 4 }];
    case 'world-ipv6':
      return [{ kind: 'world', family: 6 }];
    case 'cluster':
      return clusterPeers(requireLabel('k8s', CLUSTER_LABEL, clusterName));
    case 'cluster-mesh':
      return clusterPeers(requirePresence('k8s', CLUSTER_LABEL));
    case 'host':
    case 'remote-node':
    case 'init':
    case 'ingress':
    case 'health':
    case 'unmanaged':
      return [reserved(entity)];
    case 'kube-apiserver':
      return [reserved(entity), API_SERVER];
    case 'none':
      return [];
    default:
      return undefined;
  }
}

function clusterPeers(cluster: Requirement): PeerMatch[] {
  const endpoints: PeerMatch = { kind: 'selector', selector: [cluster], ofEntity: true };
  return [reserved(...CLUSTER_ENTITIES), endpoints, API_SERVER];
}

function reserved(...names: readonly ReservedIdentityName[]): PeerMatch {
  return { kind: 'reserved', identities: names.map(reservedIdentity) };
}
