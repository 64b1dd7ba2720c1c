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
import type { PodObject } from '../sources/objects.ts';
import { DEFAULT_LABEL_FILTER, type LabelFilter } from './label-filter.ts';

/** What labels are called that say what the cluster knows of a pod, so that the pod itself may not say them. */
const CLUSTERS_OWN = /^io\.cilium\.k8s\./;

/** Whether a pod's own label is part of its identity. */
export function isIdentityLabel(key: string, filter: LabelFilter = DEFAULT_LABEL_FILTER): boolean {
  return !CLUSTERS_OWN.test(key) && filter.includes(key);
}

/** What an identity is of: a pod, or a machine that counts as one. */
export type IdentitySubject = Pick<PodObject, 'namespace' | 'labels' | 'serviceAccount'>;

/** Labels of the identity of a pod, sorted. A namespace without an object has no labels of its own but its name. */
export function podIdentityLabels(
  pod: IdentitySubject,
  options: {
    readonly namespaceLabels: Readonly<Record<string, string>> | undefined;
    readonly cluster: ClusterName;
    readonly filter?: LabelFilter;
  },
): Labels {
  const { cluster, filter = DEFAULT_LABEL_FILTER } = options;
  const record: Record<string, string> = {};
  for (const [key, value] of Object.entries(pod.labels))
    if (isIdentityLabel(key, filter)) record[key] = value;
  const given: Record<string, string> = {};
  const ofNamespace = { 'kubernetes.io/metadata.name': pod.namespace, ...options.namespaceLabels };
  for (const [key, value] of Object.entries(ofNamespace))
    given[NAMESPACE_LABELS_PREFIX + key] = value;
  // Last, so that a pod cannot claim another cluster, namespace or service account by a label of its own.
  given[NAMESPACE_LABEL] = pod.namespace;
  given[SERVICE_ACCOUNT_LABEL] = pod.serviceAccount;
  for (const [key, value] of Object.entries(given)) {
    if (filter.includes(key)) record[key] = value;
    else delete record[key];
  }
  // Readers refuse an identity without it.
  record[CLUSTER_LABEL] = cluster;
  return labelsFromRecord(record);
}

/** Gives equal sets of labels as one object: thousands of pods have few different sets. */
export interface LabelSets {
  intern(labels: Labels): Labels;
}

/** Sets remembered before all are forgotten; forgetting costs memory, and nothing else. */
const MAX_SETS = 50_000;

/** Makes an empty book of sets of labels. */
export function createLabelSets(): LabelSets {
  const sets = new Map<string, Labels>();
  return {
    intern(labels) {
      const text = labels.map(({ source, key, value }) => `${source}:${key}=${value}`).join(';');
      const known = sets.get(text);
      if (known !== undefined) return known;
      if (sets.size >= MAX_SETS) sets.clear();
      sets.set(text, labels);
      return labels;
    },
  };
}
