/** Labels of a pod's identity: those of the pod and its namespace that policies may rely on, and what Cilium adds. */
import {
  CLUSTER_LABEL,
  type Labels,
  labelsFromRecord,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
  SERVICE_ACCOUNT_LABEL,
} from '../../mesh/wire/identity.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { NamespaceObject, PodObject } from '../sources/objects.ts';

/**
 * Keys that begin like one of these name a single pod, revision or node, and would give each an identity of its own. They are
 * Cilium's default label filter (`pkg/labelsfilter`), which matches from the beginning of the key.
 */
const IRRELEVANT: readonly RegExp[] = [
  /^io\.kubernetes/,
  /^kubernetes\.io/,
  /^.*beta\.kubernetes\.io/,
  /^k8s\.io/,
  /^pod-template-generation/,
  /^pod-template-hash/,
  /^controller-revision-hash/,
  /^annotation\./,
  /^controller-uid/,
  /^batch\.kubernetes\.io\/(controller-uid|job-completion-index)/,
  /^etcd_node/,
  /^statefulset\.kubernetes\.io\/pod-name/,
  /^apps\.kubernetes\.io\/pod-index/,
  // Not in Cilium's list: these say what the cluster knows of a pod, so the pod itself may not say them.
  /^io\.cilium\.k8s\./,
];

/** Whether a pod's label is part of its identity. */
export function isIdentityLabel(key: string): boolean {
  return !IRRELEVANT.some((pattern) => pattern.test(key));
}

/** Labels of the identity of a pod, sorted. A namespace without an object has no labels of its own but its name. */
export function podIdentityLabels(
  pod: PodObject,
  namespace: NamespaceObject | undefined,
  cluster: ClusterName,
): Labels {
  const record: Record<string, string> = {};
  for (const [key, value] of Object.entries(pod.labels))
    if (isIdentityLabel(key)) record[key] = value;
  const namespaceLabels = { 'kubernetes.io/metadata.name': pod.namespace, ...namespace?.labels };
  for (const [key, value] of Object.entries(namespaceLabels))
    record[NAMESPACE_LABELS_PREFIX + key] = value;
  // Last, so that a pod cannot claim another cluster, namespace or service account by a label of its own.
  record[NAMESPACE_LABEL] = pod.namespace;
  record[SERVICE_ACCOUNT_LABEL] = pod.serviceAccount;
  record[CLUSTER_LABEL] = cluster;
  return labelsFromRecord(record);
}
