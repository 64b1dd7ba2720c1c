/** Label selectors of the oracle: one requirement after the other, compared as texts. */
import { CLUSTER_LABEL, type Labels, NAMESPACE_LABEL } from '../../../mesh/wire/identity.ts';

/** A label selector as it stands in a manifest; `{}` selects everything. */
export interface SelectorManifest {
  readonly matchLabels?: Readonly<Record<string, string>> | null;
  readonly matchExpressions?: readonly ExpressionManifest[] | null;
}

interface ExpressionManifest {
  readonly key: string;
  readonly operator: string;
  readonly values?: readonly string[] | null;
}

const SOURCE = /^(any|k8s|reserved|node|cidrgroup):/;

/** Whether labels meet every requirement of a selector. A key without a source means any source. */
export function selects(selector: SelectorManifest, labels: Labels): boolean {
  for (const [key, value] of Object.entries(selector.matchLabels ?? {})) {
    if (!valuesOf(labels, key).includes(value ?? '')) return false;
  }
  return (selector.matchExpressions ?? []).every(({ key, operator, values }) => {
    const found = valuesOf(labels, key);
    const listed = found.some((value) => (values ?? []).includes(value));
    if (operator === 'In') return listed;
    if (operator === 'NotIn') return !listed;
    if (operator === 'Exists') return found.length > 0;
    if (operator === 'DoesNotExist') return found.length === 0;
    throw new Error(`the oracle knows no operator ${operator}`);
  });
}

/** Keys that a selector says something about, without their source. */
export function keysOf(selector: SelectorManifest): string[] {
  return [
    ...Object.keys(selector.matchLabels ?? {}),
    ...(selector.matchExpressions ?? []).map(({ key }) => key),
  ].map((key) => key.replace(SOURCE, ''));
}

/** Whether a selector names a reserved label, which no rule about namespaces and clusters is added to. */
export function isReserved(selector: SelectorManifest): boolean {
  return [
    ...Object.keys(selector.matchLabels ?? {}),
    ...(selector.matchExpressions ?? []).map(({ key }) => key),
  ].some((key) => key.startsWith('reserved:'));
}

/** Whether labels are of a namespace, or with `undefined` of any at all. */
export function isOfNamespace(labels: Labels, namespace: string | undefined): boolean {
  const values = valuesOf(labels, NAMESPACE_LABEL);
  return namespace === undefined ? values.length > 0 : values.includes(namespace);
}

/** Whether labels are of a cluster. */
export function isOfCluster(labels: Labels, cluster: string): boolean {
  return valuesOf(labels, CLUSTER_LABEL).includes(cluster);
}

function valuesOf(labels: Labels, key: string): string[] {
  const source = SOURCE.exec(key)?.[1] ?? 'any';
  const name = key.replace(SOURCE, '');
  return labels
    .filter((label) => label.key === name && (source === 'any' || label.source === source))
    .map(({ value }) => value);
}
