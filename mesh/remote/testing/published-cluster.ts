import type { KvStore } from '../../kvstore/kvstore.ts';
import { createMemoryStore, type MemoryStore } from '../../kvstore/memory.ts';
import { type ClusterConfig, encodeClusterConfig } from '../../wire/cluster-config.ts';
import { encodeLabels, labelsFromRecord } from '../../wire/identity.ts';
import {
  type ClusterName,
  makeIdentity,
  type NumericIdentity,
  parseClusterId,
  parseClusterName,
} from '../../wire/ids.ts';
import { ipFamily, makePrefix, parseIpAddress } from '../../wire/ip.ts';
import { encodeIpIdentity } from '../../wire/ip-identity.ts';
import {
  CANARY_PREFIXES,
  clusterConfigKey,
  identityKey,
  ipKey,
  localIdentityKey,
  localIpKey,
  localPolicyKey,
  localServiceKey,
  nodeKey,
  serviceKey,
  syncedKey,
} from '../../wire/keys.ts';
import { encodeLocalPolicy, type LocalPolicy } from '../../wire/local-policy.ts';
import { encodeLocalService, type LocalService, PLAIN_TRAFFIC } from '../../wire/local-service.ts';
import { encodeNode } from '../../wire/node.ts';
import { type ClusterService, encodeClusterService } from '../../wire/service.ts';

/** Kinds with a marker. */
type Marked = 'nodes' | 'identities' | 'ips' | 'services';

/** A cluster published into a store by hand, as its apiserver would. */
export interface PublishedCluster<Store extends KvStore = MemoryStore> {
  readonly name: ClusterName;
  readonly store: Store;
  config(changes?: {
    id?: number;
    capabilities?: Partial<ClusterConfig['capabilities']>;
  }): Promise<void>;
  /** Writes the markers of these kinds, of all by default. */
  marked(...kinds: Marked[]): Promise<void>;
  node(name: string, ip: string, labels?: Record<string, string>): Promise<void>;
  removeNode(name: string): Promise<void>;
  /** Identity with that local number; labels get namespace `demo` and the cluster. Returns the whole number. */
  identity(local: number, labels: Record<string, string>): Promise<NumericIdentity>;
  removeIdentity(local: number): Promise<void>;
  /** `pod`: its name in namespace demo; default: the entry names none. */
  ip(ip: string, options: { host: string | null; local: number; pod?: string }): Promise<void>;
  removeIp(ip: string): Promise<void>;
  /** Moves an address to where only own agents read, as its publisher does when its namespace is hidden. */
  hideIp(ip: string): Promise<void>;
  removeHiddenIp(ip: string): Promise<void>;
  /** Moves an identity likewise. */
  hideIdentity(local: number): Promise<void>;
  /** Service `demo/<name>` with a port `http`. */
  service(
    name: string,
    backends: Record<string, number>,
    changes?: Partial<ClusterService>,
  ): Promise<void>;
  removeService(name: string): Promise<void>;
  localService(name: string, changes: Partial<LocalService>): Promise<void>;
  removeLocalService(name: string): Promise<void>;
  policy(name: string, spec: unknown, changes?: Partial<LocalPolicy>): Promise<void>;
  removePolicy(name: string, kind?: LocalPolicy['kind']): Promise<void>;
}

/** Makes a cluster with nothing but a store, one in memory by default. */
export function publishCluster(name: string, id: number): PublishedCluster;
export function publishCluster<Store extends KvStore>(
  name: string,
  id: number,
  store: Store,
): PublishedCluster<Store>;
export function publishCluster(
  text: string,
  id: number,
  store: KvStore = createMemoryStore(),
): PublishedCluster<KvStore> {
  const name = parseClusterName(text);
  const clusterId = parseClusterId(id);
  const identityOf = (local: number): NumericIdentity => makeIdentity(clusterId, local, 255);
  return {
    name,
    store,
    config: ({ id: otherId = id, capabilities = {} } = {}) =>
      store.put(
        clusterConfigKey(name),
        encodeClusterConfig({
          id: otherId,
          capabilities: {
            syncedCanaries: true,
            cached: false,
            maxConnectedClusters: 255,
            serviceExportsEnabled: undefined,
            endpointSlicesExportMode: undefined,
            ...capabilities,
          },
        }),
      ),
    async marked(...kinds) {
      const all: Marked[] = kinds.length > 0 ? kinds : ['nodes', 'identities', 'ips', 'services'];
      for (const kind of all) {
        await store.put(syncedKey(name, CANARY_PREFIXES[kind]), '2026-01-01T00:00:00Z');
      }
    },
    node: (node, ip, labels) =>
      store.put(
        nodeKey(name, node),
        encodeNode({
          name: node,
          cluster: name,
          clusterId: id,
          addresses: [{ type: 'InternalIP', ip: parseIpAddress(ip) }],
          ipv4AllocCidr: null,
          ipv6AllocCidr: null,
          ipv4SecondaryAllocCidrs: null,
          ipv6SecondaryAllocCidrs: null,
          ipv4HealthIp: null,
          ipv6HealthIp: null,
          ipv4IngressIp: null,
          ipv6IngressIp: null,
          source: 'custom-resource',
          encryptionKey: 0,
          labels: labels ?? null,
          annotations: null,
          wireguardPubKey: '',
          bootId: '',
        }),
      ),
    removeNode: async (node) => void (await store.delete(nodeKey(name, node))),
    async identity(local, labels) {
      const all = {
        'io.kubernetes.pod.namespace': 'demo',
        'io.cilium.k8s.policy.cluster': text,
        ...labels,
      };
      await store.put(identityKey(identityOf(local)), encodeLabels(labelsFromRecord(all)));
      return identityOf(local);
    },
    removeIdentity: async (local) => void (await store.delete(identityKey(identityOf(local)))),
    async ip(ip, { host, local, pod }) {
      const address = parseIpAddress(ip);
      await store.put(
        ipKey(address),
        encodeIpIdentity({
          prefix: makePrefix(address, ipFamily(address) === 4 ? 32 : 128),
          isCidr: false,
          hostIp: host === null ? null : parseIpAddress(host),
          identity: identityOf(local),
          encryptionKey: 0,
          metadata: '',
          namespace: 'demo',
          podName: pod,
          serviceAccount: undefined,
          namedPorts: undefined,
        }),
      );
    },
    async hideIp(ip) {
      const key = ipKey(parseIpAddress(ip));
      const pair = await store.get(key);
      if (pair === undefined) throw new Error(`${ip} is not published`);
      await store.transact({
        compare: [],
        then: [
          { kind: 'put', key: localIpKey(parseIpAddress(ip)), value: pair.value },
          { kind: 'delete', key },
        ],
      });
    },
    async hideIdentity(local) {
      const key = identityKey(identityOf(local));
      const pair = await store.get(key);
      if (pair === undefined) throw new Error(`identity ${local} is not published`);
      await store.put(localIdentityKey(identityOf(local)), pair.value);
      await store.delete(key);
    },
    removeHiddenIp: async (ip) => void (await store.delete(localIpKey(parseIpAddress(ip)))),
    removeIp: async (ip) => void (await store.delete(ipKey(parseIpAddress(ip)))),
    service: (service, backends, changes = {}) =>
      store.put(
        serviceKey(name, 'demo', service),
        encodeClusterService({
          cluster: name,
          namespace: 'demo',
          name: service,
          frontends: new Map(),
          backends: new Map(
            Object.entries(backends).map(([ip, port]) => [
              parseIpAddress(ip),
              new Map([['http', { protocol: 'TCP', port }]]),
            ]),
          ),
          hostnames: undefined,
          zones: undefined,
          labels: {},
          selector: {},
          includeExternal: true,
          shared: true,
          clusterId: id,
          ...changes,
        }),
      ),
    removeService: async (service) => void (await store.delete(serviceKey(name, 'demo', service))),
    localService: (service, changes) =>
      store.put(
        localServiceKey('demo', service),
        encodeLocalService({
          namespace: 'demo',
          name: service,
          clusterIps: [parseIpAddress('10.96.0.10')],
          ports: [{ name: 'http', protocol: 'TCP', port: 80 }],
          headless: false,
          global: true,
          shared: true,
          affinity: 'none',
          ...PLAIN_TRAFFIC,
          backends: new Map(),
          ...changes,
        }),
      ),
    removeLocalService: async (service) =>
      void (await store.delete(localServiceKey('demo', service))),
    policy: (policy, spec, changes = {}) =>
      store.put(
        localPolicyKey(changes.kind ?? 'CiliumNetworkPolicy', changes.namespace ?? 'demo', policy),
        encodeLocalPolicy({
          kind: 'CiliumNetworkPolicy',
          namespace: 'demo',
          name: policy,
          generation: 1,
          manifest: { spec },
          ...changes,
        }),
      ),
    removePolicy: async (policy, kind = 'CiliumNetworkPolicy') =>
      void (await store.delete(localPolicyKey(kind, 'demo', policy))),
  };
}
