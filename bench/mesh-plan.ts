/** What the clusters of a simulated mesh publish: names, addresses, and the keys and values that Cilium would write. */
import { encodeClusterConfig } from '../mesh/wire/cluster-config.ts';
import { encodeLabels, labelsFromRecord } from '../mesh/wire/identity.ts';
import {
  type ClusterId,
  type ClusterName,
  type MaxConnectedClusters,
  makeIdentity,
  type NumericIdentity,
  parseClusterId,
  parseClusterName,
} from '../mesh/wire/ids.ts';
import { type IpAddress, makePrefix, parseIpAddress } from '../mesh/wire/ip.ts';
import { encodeIpIdentity } from '../mesh/wire/ip-identity.ts';
import {
  canaryPrefix,
  clusterConfigKey,
  HEARTBEAT_KEY,
  identitiesPrefix,
  ipsPrefix,
  nodesPrefix,
  syncedKey,
} from '../mesh/wire/keys.ts';
import { encodeNode } from '../mesh/wire/node.ts';

/** How many of everything each cluster has. */
export interface MeshSizes {
  readonly peers: number;
  readonly nodes: number;
  readonly identities: number;
  readonly endpoints: number;
}

/** A key and what stands under it. */
export interface PlannedKey {
  readonly key: string;
  readonly value: string;
}

/** A cluster of the simulated mesh. */
export interface MeshCluster {
  readonly name: ClusterName;
  readonly id: ClusterId;
  /** Whether it stands in a mirror, in the layout of `cilium/cache`. */
  readonly cached: boolean;
  readonly max: MaxConnectedClusters;
  readonly sizes: Omit<MeshSizes, 'peers'>;
}

/** Addresses of nodes and pods are made of these numbers, one byte each. */
const MOST_NODES = 250;
const MOST_PODS_A_NODE = 240;
const FIRST_IDENTITY = 256;
const MARKED = ['nodes', 'identities', 'ips', 'services'] as const;

/** The agent's own cluster, which has nothing but what must be there. */
export function ownCluster(max: MaxConnectedClusters): MeshCluster {
  return {
    name: parseClusterName('own'),
    id: parseClusterId(1),
    cached: false,
    max,
    sizes: { nodes: 0, identities: 0, endpoints: 0 },
  };
}

/** Peers of the mesh, by number from 1. Throws when the sizes do not fit its addresses. */
export function peerClusters(sizes: MeshSizes, cached: boolean): MeshCluster[] {
  const { peers, nodes, endpoints } = sizes;
  if (peers > 510) throw new Error(`cannot make ${peers} peers: a mesh has at most 510`);
  if (nodes > MOST_NODES || endpoints > nodes * MOST_PODS_A_NODE) {
    throw new Error(
      `cannot make ${nodes} nodes with ${endpoints} endpoints: at most ${MOST_NODES} nodes, ${MOST_PODS_A_NODE} endpoints on each`,
    );
  }
  const max = meshSizeFor(peers);
  return Array.from({ length: peers }, (_, index) => ({
    name: parseClusterName(`peer-${String(index + 1).padStart(3, '0')}`),
    id: parseClusterId(index + 2, max),
    cached,
    max,
    sizes,
  }));
}

/** Mesh size that holds that many peers. */
export function meshSizeFor(peers: number): MaxConnectedClusters {
  return peers > 254 ? 511 : 255;
}

/** Everything that a cluster publishes, its markers last. */
export function* keysOfCluster(cluster: MeshCluster): Generator<PlannedKey> {
  const { name, id, cached, max, sizes } = cluster;
  yield { key: HEARTBEAT_KEY, value: '2026-01-02T03:04:05Z' };
  yield {
    key: clusterConfigKey(name),
    value: encodeClusterConfig({
      id,
      capabilities: {
        syncedCanaries: true,
        cached,
        maxConnectedClusters: max,
        serviceExportsEnabled: undefined,
        endpointSlicesExportMode: undefined,
      },
    }),
  };
  for (let node = 0; node < sizes.nodes; node += 1) yield plannedNode(cluster, node);
  for (let index = 0; index < sizes.identities; index += 1) yield plannedIdentity(cluster, index);
  for (let index = 0; index < sizes.endpoints; index += 1) {
    yield plannedEndpoint(cluster, index, index);
  }
  for (const kind of MARKED) {
    yield {
      key: syncedKey(name, canaryPrefix(kind, { cached })),
      value: '2026-01-02T03:04:05Z',
    };
  }
}

/** Address of a pod of a cluster. */
export function endpointIp({ id, sizes }: MeshCluster, index: number): IpAddress {
  const node = index % sizes.nodes;
  return parseIpAddress(
    `${10 + (id >> 8)}.${id & 255}.${node}.${10 + Math.floor(index / sizes.nodes)}`,
  );
}

/** Identity number `index` of a cluster. */
export function identityAt({ id, max, sizes }: MeshCluster, index: number): NumericIdentity {
  return makeIdentity(id, FIRST_IDENTITY + (index % sizes.identities), max);
}

/** Rows that a complete agent has of these peers: each endpoint, and three addresses of each node. */
export function rowsOf(peers: readonly MeshCluster[]): number {
  return peers.reduce((sum, { sizes }) => sum + sizes.endpoints + 3 * sizes.nodes, 0);
}

/** An endpoint's key, with the identity of that number. */
export function plannedEndpoint(cluster: MeshCluster, index: number, identity: number): PlannedKey {
  const ip = endpointIp(cluster, index);
  return {
    key: ipsPrefix(cluster.name, cluster) + ip,
    value: encodeIpIdentity({
      prefix: makePrefix(ip, 32),
      isCidr: false,
      hostIp: nodeIp(cluster, index % cluster.sizes.nodes),
      identity: identityAt(cluster, identity),
      encryptionKey: 0,
      metadata: '',
      namespace: `team-${index % 20}`,
      podName: `web-6c9f7d8b5-${index.toString(36).padStart(5, 'x')}`,
      serviceAccount: 'default',
      namedPorts: undefined,
    }),
  };
}

function nodeIp({ id }: MeshCluster, node: number): IpAddress {
  return parseIpAddress(`172.${16 + (id >> 8)}.${id & 255}.${node + 1}`);
}

function plannedNode(cluster: MeshCluster, index: number): PlannedKey {
  const { name, id } = cluster;
  const pods = `${10 + (id >> 8)}.${id & 255}.${index}`;
  return {
    key: `${nodesPrefix(name, cluster)}node-${index}`,
    value: encodeNode({
      name: `node-${index}`,
      cluster: name,
      clusterId: id,
      addresses: [
        { type: 'InternalIP', ip: nodeIp(cluster, index) },
        { type: 'CiliumInternalIP', ip: parseIpAddress(`${pods}.1`) },
      ],
      ipv4AllocCidr: makePrefix(parseIpAddress(`${pods}.0`), 24),
      ipv6AllocCidr: null,
      ipv4SecondaryAllocCidrs: null,
      ipv6SecondaryAllocCidrs: null,
      ipv4HealthIp: parseIpAddress(`${pods}.2`),
      ipv6HealthIp: null,
      ipv4IngressIp: null,
      ipv6IngressIp: null,
      source: 'custom-resource',
      encryptionKey: 0,
      labels: {
        'kubernetes.io/arch': 'amd64',
        'kubernetes.io/hostname': `node-${index}`,
        'topology.kubernetes.io/zone': `zone-${index % 3}`,
      },
      annotations: null,
      wireguardPubKey: '',
      bootId: '5a3e1a56-8a1f-4a6e-9b1e-0c6de8f7a1b2',
    }),
  };
}

function plannedIdentity(cluster: MeshCluster, index: number): PlannedKey {
  const labels = labelsFromRecord({
    app: `app-${index}`,
    'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': `team-${index % 20}`,
    'io.cilium.k8s.policy.cluster': cluster.name,
    'io.cilium.k8s.policy.serviceaccount': 'default',
    'io.kubernetes.pod.namespace': `team-${index % 20}`,
  });
  return {
    key: `${identitiesPrefix(cluster.name, cluster)}${identityAt(cluster, index)}`,
    value: encodeLabels(labels),
  };
}
