/** Labels that the cluster's side may give to a machine. Pure. */

const MAX_LABELS = 64;
const NAME = /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const PREFIX = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;
/** What the cluster itself says of a pod or machine: its namespace, its cluster, its service account. */
const CLUSTERS_OWN = /^(io\.kubernetes\.|io\.cilium\.)/;

/** What is wrong with a set of labels, for people; undefined: nothing. Form as in Kubernetes. */
export function findBadLabel(labels: Readonly<Record<string, string>>): string | undefined {
  const entries = Object.entries(labels);
  if (entries.length > MAX_LABELS) return `expected at most ${MAX_LABELS}, not ${entries.length}`;
  for (const [key, value] of entries) {
    const shown = JSON.stringify(key.slice(0, 80));
    if (!isLabelKey(key)) return `${shown} is no key of a label`;
    if (CLUSTERS_OWN.test(key)) return `${shown} is for the cluster to say, and cannot be given`;
    if (!isLabelValue(value)) {
      return `${shown} has a value that no label can have: expected at most 63 of letters, digits, "-", "_" and "."`;
    }
  }
  return undefined;
}

/** Whether a text is a label's key: a name, with or without the prefix of a domain before it. */
export function isLabelKey(key: string): boolean {
  const [first = '', second, ...rest] = key.split('/');
  if (rest.length > 0) return false;
  return second === undefined ? NAME.test(first) : PREFIX.test(first) && NAME.test(second);
}

function isLabelValue(value: string): boolean {
  return value === '' || NAME.test(value);
}
