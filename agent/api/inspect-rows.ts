/** What an agent knows of the mesh, as rows: what `clustermesh get` shows. Names of fields are for scripts, too: they stay. */
import type { Mesh } from '../../mesh/remote/mesh.ts';
import { type Labels, NAMESPACE_LABEL } from '../../mesh/wire/identity.ts';
import {
  clusterIdOfIdentity,
  localIdentityScope,
  type MaxConnectedClusters,
  MINIMUM_ALLOCATED_IDENTITY,
  parseNumericIdentity,
} from '../../mesh/wire/ids.ts';
import { splitPrefix } from '../../mesh/wire/ip.ts';
import type { IpcacheEntry } from '../datapath/desired.ts';
import type { EndpointRecord } from '../endpoints/record.ts';
import type { NodeContext } from '../merge/addresses.ts';
import type { ServiceFacts } from '../merge/backend-state.ts';
import { accountOfService, type PeerFacts, type ServiceAccount } from '../merge/service-account.ts';
import type { Engine } from '../state/engine.ts';
import type { PolicyNodes } from './policy-nodes.ts';

/** What can be listed. */
export const INSPECT_KINDS = [
  'nodes',
  'identities',
  'endpoints',
  'services',
  'backends',
  'peers',
] as const;
/** One of INSPECT_KINDS. */
export type InspectKind = (typeof INSPECT_KINDS)[number];

/** What rows are made of. */
export interface InspectSources {
  readonly node: NodeContext;
  readonly max: MaxConnectedClusters;
  readonly engine: Pick<Engine, 'policyView' | 'addresses' | 'services'>;
  readonly mesh: Pick<Mesh, 'status' | 'unknownBackendsOf'>;
  readonly nodes: Pick<PolicyNodes, 'all' | 'of'>;
  readonly records: () => readonly EndpointRecord[];
}

type LabelRecord = Readonly<Record<string, string>>;

/** The rows of a kind. Reads the tables as it goes: what changes meanwhile may be in or not. */
export function inspectRows(kind: InspectKind, sources: InspectSources): Iterable<object> {
  switch (kind) {
    case 'nodes':
      return nodeRows(sources);
    case 'identities':
      return identityRows(sources);
    case 'endpoints':
      return endpointRows(sources);
    case 'services':
      return serviceRows(sources);
    case 'backends':
      return backendRows(sources);
    case 'peers':
      return peerRows(sources);
    default:
      return kind satisfies never;
  }
}

/** Everything about a Service `namespace/name`; undefined: neither this cluster nor a peer has one. */
export function describeService(name: string, sources: InspectSources): ServiceAccount | undefined {
  const facts = sources.engine.services.facts(name);
  const peers = peerFactsOf(sources)(name);
  const isKnown =
    facts.local !== undefined ||
    facts.remotes.length > 0 ||
    [...peers.values()].some(({ unknown, refused }) => unknown.length + refused.length > 0);
  if (!isKnown) return undefined;
  return accountOfService(name, facts, { ownName: sources.node.clusterName, peers });
}

function* nodeRows({ node, nodes, engine }: InspectSources): Generator<object> {
  for (const { cluster, clusterId, name, addresses } of [...nodes.all()]) {
    yield {
      cluster,
      name,
      // What asks is where it stands.
      own: cluster === node.clusterName && name === node.nodeName,
      addresses,
      labels: labelRecord(engine.policyView.nodeLabelsOf(clusterId, name) ?? []),
    };
  }
}

function* identityRows(sources: InspectSources): Generator<object> {
  const names = clusterNames(sources);
  for (const [identity, labels] of [...sources.engine.policyView.peers.identities()]) {
    const clusterId = clusterIdOf(identity, sources.max);
    if (clusterId === undefined) continue;
    yield {
      identity,
      cluster: names(clusterId),
      namespace: namespaceOf(labels),
      labels: labelRecord(labels),
    };
  }
}

/** Addresses of pods and machines of the whole mesh. Names of pods are known of this node's alone. */
function* endpointRows(sources: InspectSources): Generator<object> {
  const { node, nodes, engine, records, max } = sources;
  const names = clusterNames(sources);
  const own = new Map<string, EndpointRecord>(
    records().flatMap((record) => record.addresses.map((address) => [address, record] as const)),
  );
  // Taken in one go: the table may be written between two rows.
  for (const row of [...engine.addresses.desired()]) {
    const clusterId = clusterIdOf(row.identity, max);
    if (clusterId === undefined) continue;
    const { address } = splitPrefix(row.prefix);
    const record = own.get(address);
    const labels = engine.policyView.peers.labelsOf(row.identity) ?? [];
    yield {
      address,
      cluster: names(clusterId),
      namespace: record?.podNamespace || namespaceOf(labels),
      pod: record?.podName ?? '',
      node: record === undefined ? nodeNameOf(row, nodes) : node.nodeName,
      identity: row.identity,
      labels: labelRecord(labels),
    };
  }
}

/** One row for each cluster that says it has the Service. */
function* serviceRows(sources: InspectSources): Generator<object> {
  const { node, engine } = sources;
  for (const name of [...engine.services.names()]) {
    const facts = engine.services.facts(name);
    const [namespace, shortName] = splitName(name);
    const { local } = facts;
    if (local !== undefined) {
      yield {
        cluster: node.clusterName,
        namespace,
        name: shortName,
        addresses: local.clusterIps,
        ports: local.ports.map(({ port, protocol }) => `${port}/${protocol}`),
        global: local.global,
        shared: local.shared,
        affinity: local.affinity,
        backends: local.backends.size,
        used: usedAddresses(facts),
        labels: local.labels ?? {},
      };
    }
    for (const remote of facts.remotes) {
      const ports = [...remote.frontends.values()].flatMap((ofOne) => [...ofOne.values()]);
      yield {
        cluster: remote.cluster,
        namespace,
        name: shortName,
        addresses: [...remote.frontends.keys()],
        ports: [...new Set(ports.map(({ port, protocol }) => `${port}/${protocol}`))],
        // What is not global is told to no other cluster.
        global: true,
        shared: remote.shared,
        backends: remote.backends.size,
        labels: remote.labels ?? {},
      };
    }
  }
}

function* backendRows(sources: InspectSources): Generator<object> {
  const { node, engine } = sources;
  const peersOf = peerFactsOf(sources);
  for (const name of [...engine.services.names()]) {
    const peers = peersOf(name);
    const facts = engine.services.facts(name);
    const account = accountOfService(name, facts, { ownName: node.clusterName, peers });
    const { namespace, name: service } = account;
    const labels = facts.local?.labels ?? {};
    for (const backend of account.backends) yield { namespace, service, ...backend, labels };
  }
}

function* peerRows({ mesh }: InspectSources): Generator<object> {
  for (const cluster of mesh.status().clusters) {
    if (cluster.own) continue;
    const { state, use, counts, lag } = cluster;
    yield {
      name: cluster.name,
      id: cluster.clusterId,
      state: state.kind,
      reason: 'reason' in state ? state.reason : '',
      since: new Date(cluster.since).toISOString(),
      backends: { none: 'used', last: 'used-last', gone: 'withdrawn' }[use.level],
      backendsReason: use.reason,
      nodes: counts.nodes ?? 0,
      identities: counts.identities ?? 0,
      endpoints: counts.ips ?? 0,
      services: counts.services ?? 0,
      endpointUrls: cluster.endpoints,
      failures: cluster.failures,
      lastError: cluster.lastError?.message ?? '',
      certificateExpiresAt:
        cluster.certificateExpiresAt === undefined
          ? undefined
          : new Date(cluster.certificateExpiresAt).toISOString(),
      lag,
    };
  }
}

/** What each peer's reading knows of a Service beyond its record; how peers stand is looked at once. */
function peerFactsOf({ mesh }: InspectSources): (name: string) => Map<number, PeerFacts> {
  const { clusters } = mesh.status();
  return (name) => {
    const found = new Map<number, PeerFacts>();
    for (const { own, clusterId, name: cluster, use, refused } of clusters) {
      if (own || clusterId === undefined) continue;
      found.set(clusterId, {
        name: cluster,
        useReason: use.level === 'none' ? '' : use.reason,
        unknown: mesh.unknownBackendsOf(cluster, name),
        refused: refused.examples
          .filter(({ key }) => key.includes('/services/') && key.endsWith(`/${name}`))
          .map(({ message }) => message),
      });
    }
    return found;
  };
}

function usedAddresses({ frontends }: ServiceFacts): number {
  const held = frontends.filter(({ heldBy }) => heldBy === undefined);
  return new Set(held.flatMap(({ row }) => row.backends.map(({ address }) => address))).size;
}

function nodeNameOf({ tunnelEndpoint }: IpcacheEntry, nodes: InspectSources['nodes']): string {
  return tunnelEndpoint === undefined ? '' : (nodes.of(tunnelEndpoint)?.name ?? '');
}

/** Cluster of an identity that a pod or machine may have; undefined: a reserved or local one. */
function clusterIdOf(identity: number, max: MaxConnectedClusters): number | undefined {
  const isLocal = localIdentityScope(identity) !== undefined;
  if (isLocal || identity < MINIMUM_ALLOCATED_IDENTITY) return undefined;
  return clusterIdOfIdentity(parseNumericIdentity(identity), max);
}

function clusterNames({ node, mesh }: InspectSources): (clusterId: number) => string {
  const names = new Map(mesh.status().clusters.map(({ clusterId, name }) => [clusterId, name]));
  return (clusterId) =>
    clusterId === node.clusterId
      ? node.clusterName
      : (names.get(clusterId) ?? `cluster id ${clusterId}`);
}

function namespaceOf(labels: Labels): string {
  return labels.find(({ key }) => key === NAMESPACE_LABEL)?.value ?? '';
}

/** As people select by: those of Kubernetes by their keys alone. */
function labelRecord(labels: Labels): LabelRecord {
  return Object.fromEntries(
    labels.map(({ source, key, value }) => [source === 'k8s' ? key : `${source}:${key}`, value]),
  );
}

function splitName(name: string): readonly [string, string] {
  const slash = name.indexOf('/');
  return [name.slice(0, slash), name.slice(slash + 1)];
}
