import type { ClusterName } from '../../mesh/wire/ids.ts';

/** What a policy leaves unsaid is taken from here. */
export interface ParseContext {
  readonly clusterName: ClusterName;
  /** Namespace of the policy, empty for a clusterwide one. */
  readonly namespace: string;
  /** A selector of peers that does not ask for a cluster means this one (Cilium >= 1.19: true). */
  readonly defaultLocalCluster: boolean;
}
