/** A view of a mesh that nobody runs: policies and pods as files have them, for simulations without an agent. */
import { CLUSTER_LABEL, encodeLabels, findLabel, type Labels } from '../../mesh/wire/identity.ts';
import {
  type ClusterName,
  clusterIdOfIdentity,
  MINIMUM_ALLOCATED_IDENTITY,
  makeIdentity,
  type NumericIdentity,
  parseClusterId,
  parseNumericIdentity,
  RESERVED_IDENTITIES,
} from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { parseCidrGroup } from './cidr-group.ts';
import { parsePolicy } from './parse.ts';
import type { NamedPorts } from './peer-sets.ts';
import { createVerdictContext } from './sources-of-verdict-context.ts';
import { TraceError } from './trace-error.ts';
import type { PolicyView } from './trace-view.ts';

/** A pod, or many with the same labels. */
export interface OfflinePod {
  /** Those of its identity: with `CLUSTER_LABEL`, and as a rule its namespace. */
  readonly labels: Labels;
  readonly namedPorts: NamedPorts;
}

/** What files hold. */
export interface OfflineMesh {
  /** Whose policies they are. */
  readonly cluster: ClusterName;
  readonly policies: readonly LocalPolicy[];
  readonly pods: readonly OfflinePod[];
  /** A selector of peers without a cluster label means the own cluster. */
  readonly defaultLocalCluster: boolean;
}

const MAX_CLUSTERS = 255;
const NOT_HERE = 'files';

/**
 * Makes the view. Identities get numbers as an apiserver would give them, in the order of the pods. Throws
 * TraceError for a pod without a cluster, and WireError for more clusters or identities than a mesh can have.
 */
export function createOfflineView(mesh: OfflineMesh): PolicyView {
  const { cluster, pods, defaultLocalCluster } = mesh;
  const options = { clusterName: cluster, defaultLocalCluster };
  const groups = mesh.policies.filter(({ kind }) => kind === 'CiliumCIDRGroup').map(parseCidrGroup);
  const origins = new Map(
    mesh.policies
      .filter(({ kind }) => kind !== 'CiliumCIDRGroup')
      .map((policy) => [parsePolicy(policy, options), policy.origin]),
  );
  const identities = reservedLabels();
  const namedPorts = new Map<number, NamedPorts>();
  const clusters = numberIdentities(pods, { own: cluster, identities, namedPorts });

  return {
    ...createVerdictContext({
      mode: 'default',
      allowLocalhost: true,
      groups: () => groups,
      services: () => [],
      identityOf: () => undefined,
    }),
    cluster,
    clusterId: 1,
    node: NOT_HERE,
    nodeIps: [],
    auditMode: false,
    routingMode: undefined,
    policies: [...origins.keys()],
    endpoints: [],
    entriesOf: () => new Map(),
    originOf: (policy) => origins.get(policy),
    clusterName: (clusterId) => clusters[clusterId - 1],
    clusterIdOf: (identity) => clusterIdOfIdentity(parseNumericIdentity(identity), MAX_CLUSTERS),
    identities: () => identities,
    labelsOf: (identity) => identities.get(identity),
    addressRow: () => undefined,
    namedPortsOf: (identity) => namedPorts.get(identity) ?? [],
    nodeLabelsOf: () => [],
    nodes: () => [],
    groups: () => groups,
    services: () => [],
    frontends: () => [],
  };
}

/** Identities that every mesh has. */
function reservedLabels(): Map<number, Labels> {
  return new Map(
    Object.entries(RESERVED_IDENTITIES)
      .filter(([, identity]) => identity !== RESERVED_IDENTITIES.unknown)
      .map(([name, identity]) => [identity, [{ source: 'reserved', key: name, value: '' }]]),
  );
}

/** Gives pods identities, those of the same labels one. Returns the names of the clusters in the order of their ids from 1. */
function numberIdentities(
  pods: readonly OfflinePod[],
  known: {
    readonly own: ClusterName;
    readonly identities: Map<number, Labels>;
    readonly namedPorts: Map<number, NamedPorts>;
  },
): readonly string[] {
  const clusters: string[] = [known.own];
  const numbers = new Map<string, NumericIdentity>();
  const counts = new Map<number, number>();
  for (const { labels, namedPorts } of pods) {
    const name = findLabel(labels, CLUSTER_LABEL)?.value;
    if (name === undefined) {
      throw new TraceError(
        'bad-question',
        `an endpoint has no label ${CLUSTER_LABEL}: ${encodeLabels(labels)}`,
      );
    }
    if (!clusters.includes(name)) clusters.push(name);
    const text = encodeLabels(labels);
    let identity = numbers.get(text);
    if (identity === undefined) {
      const clusterId = parseClusterId(clusters.indexOf(name) + 1, MAX_CLUSTERS);
      const count = counts.get(clusterId) ?? 0;
      counts.set(clusterId, count + 1);
      identity = makeIdentity(clusterId, MINIMUM_ALLOCATED_IDENTITY + count, MAX_CLUSTERS);
      numbers.set(text, identity);
      known.identities.set(identity, labels);
    }
    const before = known.namedPorts.get(identity) ?? [];
    const more = namedPorts.filter(
      (port) => !before.some((one) => JSON.stringify(one) === JSON.stringify(port)),
    );
    known.namedPorts.set(identity, [...before, ...more]);
  }
  return clusters;
}
