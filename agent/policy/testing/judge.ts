import { labelsFromRecord } from '../../../mesh/wire/identity.ts';
import { parseClusterName } from '../../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../../mesh/wire/local-policy.ts';
import type { PolicyEntry } from '../../datapath/desired.ts';
import { compileEndpoint, policyRows, selectorsOf } from '../compile.ts';
import { parsePolicy } from '../parse.ts';
import { createSelectorCache } from '../selector-cache.ts';

export const NAMESPACE = 'io.kubernetes.pod.namespace';
/** The label of an identity's cluster. */
export const CLUSTER = 'io.cilium.k8s.policy.cluster';
export const TEAM = 'io.cilium.k8s.namespace.labels.team';

/** Identities by a name to read tests with: pods of two clusters and two namespaces. */
const PODS: Readonly<Record<string, { id: number; labels: Record<string, string> }>> = {
  server: {
    id: 65_540,
    labels: { app: 'server', [NAMESPACE]: 'demo', [CLUSTER]: 'alpha', [TEAM]: 'red' },
  },
  client: {
    id: 65_541,
    labels: { app: 'client', [NAMESPACE]: 'demo', [CLUSTER]: 'alpha', [TEAM]: 'red' },
  },
  other: {
    id: 65_542,
    labels: { app: 'client', [NAMESPACE]: 'other', [CLUSTER]: 'alpha', [TEAM]: 'blue' },
  },
  remoteClient: {
    id: 131_073,
    labels: { app: 'client', [NAMESPACE]: 'demo', [CLUSTER]: 'beta', [TEAM]: 'red' },
  },
  remoteOther: {
    id: 131_074,
    labels: { app: 'client', [NAMESPACE]: 'other', [CLUSTER]: 'beta', [TEAM]: 'blue' },
  },
};
const NAMES = new Map<number, string>([
  [0, 'any'],
  [1, 'host'],
  [2, 'world'],
  [4, 'health'],
  [6, 'remote-node'],
  ...Object.entries(PODS).map(([name, { id }]) => [id, name] as const),
]);

/** What a set of policies comes to for one pod. */
export interface Outcome {
  readonly enforced: boolean;
  readonly egressEnforced: boolean;
  /** `who protocol/port/bits`, sorted. */
  readonly rows: readonly string[];
  readonly problems: readonly string[];
}

/** Parses and compiles policies for a pod, `server` by default, in a world of five pods. */
export function judge(
  policies: readonly Partial<LocalPolicy>[],
  options: { pod?: string; defaultLocalCluster?: boolean } = {},
): Outcome {
  const cache = createSelectorCache();
  for (const { id, labels } of Object.values(PODS)) cache.setIdentity(id, labelsFromRecord(labels));
  const parsed = policies.map((policy) =>
    parsePolicy(
      {
        kind: 'CiliumNetworkPolicy',
        namespace: 'demo',
        name: 'p',
        generation: 1,
        manifest: {},
        ...policy,
      },
      {
        clusterName: parseClusterName('alpha'),
        defaultLocalCluster: options.defaultLocalCluster ?? true,
      },
    ),
  );
  cache.setSelectors(selectorsOf(parsed));
  const pod = PODS[options.pod ?? 'server'];
  const compiled = compileEndpoint(labelsFromRecord(pod?.labels ?? {}), parsed);
  return {
    enforced: compiled.ingressEnforced,
    egressEnforced: compiled.egressEnforced,
    rows: policyRows(7, compiled, cache.matches).map(rowText).sort(),
    problems: parsed.flatMap(({ problems }) => problems.map(({ message }) => message)),
  };
}

function rowText(row: PolicyEntry): string {
  return `${NAMES.get(row.identity) ?? row.identity} ${row.protocol}/${row.port}/${row.portPrefixBits}`;
}

/** A CiliumNetworkPolicy about the server with these ingress rules. */
export const cnp = (...ingress: unknown[]): Partial<LocalPolicy> => ({
  manifest: { spec: { endpointSelector: { matchLabels: { app: 'server' } }, ingress } },
});
/** A NetworkPolicy about the server. */
export const np = (spec: Record<string, unknown>): Partial<LocalPolicy> => ({
  kind: 'NetworkPolicy',
  manifest: { spec: { podSelector: { matchLabels: { app: 'server' } }, ...spec } },
});
/** The same, clusterwide. */
export const ccnp = (...ingress: unknown[]): Partial<LocalPolicy> => ({
  kind: 'CiliumClusterwideNetworkPolicy',
  namespace: '',
  ...cnp(...ingress),
});
