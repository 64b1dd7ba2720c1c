/** Policies, identities and endpoints of a large mesh, the same ones each time. */
import { type Labels, labelsFromRecord } from '../mesh/wire/identity.ts';
import {
  type ClusterId,
  clusterLocalIdentityBits,
  type MaxConnectedClusters,
  makeIdentity,
  type NumericIdentity,
  parseClusterId,
} from '../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../mesh/wire/ip.ts';
import type { LocalPolicy } from '../mesh/wire/local-policy.ts';

/** How large it is. */
export interface PolicySizes {
  readonly policies: number;
  readonly clusters: number;
  /** Of each cluster. */
  readonly identities: number;
  readonly endpoints: number;
  readonly namespaces: number;
}

/** An identity of some cluster. */
export interface PlannedIdentity {
  readonly identity: NumericIdentity;
  readonly labels: Labels;
}

export const MAX_CLUSTERS: MaxConnectedClusters = 255;
/** Id and name of the cluster that the policies are of. */
export const OWN_ID = 1;
export const OWN_NAME = 'c1';

const FIRST_LOCAL = 256;
const TIERS = ['web', 'api', 'cache', 'queue', 'db'] as const;

/** Labels of a workload: what Kubernetes and Cilium give a pod of a common deployment. */
export function workloadLabels(clusterName: string, index: number, namespaces: number): Labels {
  const namespace = index % namespaces;
  const app = Math.floor(index / namespaces);
  return labelsFromRecord({
    app: `app-${app}`,
    tier: TIERS[app % TIERS.length] ?? 'web',
    'app.kubernetes.io/instance': `release-${namespace}-${app}`,
    'io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': `team-${namespace}`,
    'io.cilium.k8s.namespace.labels.stage': namespace % 2 === 0 ? 'production' : 'test',
    'io.cilium.k8s.policy.cluster': clusterName,
    'io.cilium.k8s.policy.serviceaccount': 'default',
    'io.kubernetes.pod.namespace': `team-${namespace}`,
  });
}

/** Every identity of every cluster, the own one first. */
export function* plannedIdentities(sizes: PolicySizes): Generator<PlannedIdentity> {
  for (let cluster = OWN_ID; cluster <= sizes.clusters; cluster += 1) {
    for (let index = 0; index < sizes.identities; index += 1) {
      yield {
        identity: identityOf(parseClusterId(cluster), index),
        labels: workloadLabels(`c${cluster}`, index, sizes.namespaces),
      };
    }
  }
}

/** Number of an identity. */
export function identityOf(cluster: ClusterId, index: number): NumericIdentity {
  const last = 2 ** clusterLocalIdentityBits(MAX_CLUSTERS) - 1;
  return makeIdentity(cluster, Math.min(last, FIRST_LOCAL + index), MAX_CLUSTERS);
}

/** Address of an endpoint of this node. */
export function endpointAddress(index: number): IpAddress {
  return parseIpAddress(`10.0.${index >> 8}.${index & 255}`);
}

/**
 * Policies as people write them, each about one workload: half of them let in callers of their own namespace, of another
 * one, and of their namespace in every cluster, by workload and by tier; the others limit what may be called, with networks
 * outside, DNS and denies.
 */
export function* plannedPolicies(sizes: PolicySizes): Generator<LocalPolicy> {
  const apps = Math.max(1, Math.ceil(sizes.identities / sizes.namespaces));
  for (let index = 0; index < sizes.policies; index += 1) {
    const namespace = index % sizes.namespaces;
    const app = Math.floor(index / sizes.namespaces) % apps;
    const rules =
      index % 2 === 0 ? ingressRules(index, namespace, app, apps) : egressRules(index, app, apps);
    yield {
      kind: 'CiliumNetworkPolicy',
      namespace: `team-${namespace}`,
      name: `policy-${index}`,
      generation: 1,
      manifest: {
        spec: { endpointSelector: { matchLabels: { app: `app-${app}` } }, ...rules },
      },
    };
  }
}

const ANY_CLUSTER = [{ key: 'io.cilium.k8s.policy.cluster', operator: 'Exists' }];
const tcp = (...ports: string[]) => [{ ports: ports.map((port) => ({ port, protocol: 'TCP' })) }];

function ingressRules(index: number, namespace: number, app: number, apps: number) {
  const caller = `app-${(app + 1) % apps}`;
  return {
    ingress: [
      { fromEndpoints: [{ matchLabels: { app: caller } }], toPorts: tcp('8080', '8443') },
      {
        fromEndpoints: [
          {
            matchLabels: {
              app: caller,
              'k8s:io.kubernetes.pod.namespace': `team-${namespace + 1}`,
            },
          },
        ],
        toPorts: tcp('9090'),
      },
      {
        fromEndpoints: [{ matchLabels: { app: `app-${app}` }, matchExpressions: ANY_CLUSTER }],
        toPorts: [{ ports: [{ port: '7000', endPort: 7003 + (index % 8), protocol: 'TCP' }] }],
      },
      {
        fromEndpoints: [
          {
            matchLabels: { tier: TIERS[index % TIERS.length] },
            matchExpressions: ANY_CLUSTER,
          },
        ],
        toPorts: tcp('443'),
      },
      { fromEntities: ['host', 'health'] },
    ],
  };
}

function egressRules(index: number, app: number, apps: number) {
  return {
    egress: [
      {
        toEndpoints: [
          { matchLabels: { app: `app-${(app + 2) % apps}` }, matchExpressions: ANY_CLUSTER },
        ],
        toPorts: tcp('8080'),
      },
      {
        toCIDRSet: [
          {
            cidr: `172.${16 + (index % 16)}.0.0/16`,
            except: [`172.${16 + (index % 16)}.${index % 250}.0/24`],
          },
        ],
        toPorts: tcp('5432'),
      },
      { toPorts: [{ ports: [{ port: '53', protocol: 'UDP' }] }] },
    ],
    egressDeny: [
      {
        toEndpoints: [
          {
            matchLabels: { tier: TIERS[index % TIERS.length] },
            matchExpressions: ANY_CLUSTER,
          },
        ],
        toPorts: tcp('22'),
      },
    ],
  };
}
