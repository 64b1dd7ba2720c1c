/** The label string of an identity (`pkg/identity/key`, `pkg/labels`): `source:key=value;` sorted by key. */
import { checkSize, compareBytes, MAX_VALUE_BYTES } from './json.ts';
import { WireError } from './wire-error.ts';

/** A label with the source that says who gave it, `k8s` for those of Kubernetes objects. */
export interface Label {
  readonly source: string;
  readonly key: string;
  readonly value: string;
}

/** Labels sorted by key, which is the order on the wire. */
export type Labels = readonly Label[];

/** Label of every identity of a mesh: the cluster it belongs to. */
export const CLUSTER_LABEL = 'io.cilium.k8s.policy.cluster';
/** Label that names the namespace of a pod. */
export const NAMESPACE_LABEL = 'io.kubernetes.pod.namespace';
/** Label that names the service account of a pod. */
export const SERVICE_ACCOUNT_LABEL = 'io.cilium.k8s.policy.serviceaccount';
/** Labels of a pod's namespace stand behind this prefix among the pod's own. */
export const NAMESPACE_LABELS_PREFIX = 'io.cilium.k8s.namespace.labels.';

const SOURCE = /^[^$:;=][^:;=]*$/;
const KEY = /^[^=;]+$/;

/** Encodes labels; they are sorted here, so any order may come in. Throws WireError for what the form cannot carry. */
export function encodeLabels(labels: Labels): string {
  let text = '';
  for (const label of sortLabels(labels)) {
    // Source and key must be there, and what begins with "$" is read as the short form of a reserved label.
    if (!SOURCE.test(label.source) || !KEY.test(label.key) || label.value.includes(';')) {
      throw new WireError(
        'bad-value',
        `cannot encode label ${label.source}:${label.key}=${label.value}: expected a source without ":", "=" and "$" in front, a key without "=", and no ";", which have no escape`,
      );
    }
    text += `${label.source}:${label.key}=${label.value};`;
  }
  return text;
}

/** Decodes a label string. Throws WireError `bad-field` naming the label, `bad-value` or `too-large`. */
export function decodeLabels(value: Buffer | string, key: string): Labels {
  checkSize(value, key, MAX_VALUE_BYTES);
  const parts = value.toString().split(';');
  if (parts.pop() !== '') {
    throw new WireError('bad-value', `cannot parse ${key}: the label string does not end in ";"`, {
      key,
    });
  }
  return sortLabels(parts.map((part) => parseLabel(part, key)));
}

/** Labels of a record such as a pod's `metadata.labels`. */
export function labelsFromRecord(record: Readonly<Record<string, string>>, source = 'k8s'): Labels {
  return sortLabels(Object.entries(record).map(([key, value]) => ({ source, key, value })));
}

/** First label with that key. */
export function findLabel(labels: Labels, key: string): Label | undefined {
  return labels.find((label) => label.key === key);
}

/** Sorts by key, then source: two sources may carry the same key. */
export function sortLabels(labels: Labels): Labels {
  return [...labels].sort((a, b) => compareBytes(a.key, b.key) || compareBytes(a.source, b.source));
}

function parseLabel(text: string, key: string): Label {
  // `$x` is Cilium's short form of the reserved label x.
  const full = text.startsWith('$') ? `reserved:${text.slice(1)}` : text;
  const equals = full.indexOf('=');
  const name = equals === -1 ? full : full.slice(0, equals);
  const colon = name.indexOf(':');
  const label = {
    source: colon === -1 ? '' : name.slice(0, colon),
    key: colon === -1 ? name : name.slice(colon + 1),
    value: equals === -1 ? '' : full.slice(equals + 1),
  };
  if (label.source === '' || label.key === '') {
    throw new WireError(
      'bad-field',
      `cannot parse ${key}: label ${JSON.stringify(text.slice(0, 80))} is not of the form source:key=value`,
      { key, field: text.slice(0, 80) },
    );
  }
  return label;
}
