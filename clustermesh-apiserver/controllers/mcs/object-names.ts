/** What Kubernetes takes for names, labels and annotations: what a peer exported is checked before it is written here. */

const LABEL_TEXT = /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const SUBDOMAIN = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const MAX_SUBDOMAIN = 253;
/** Kubernetes allows 256 KiB of annotations an object; ours need some of it. */
const MAX_ANNOTATION_BYTES = 200 * 1024;
/** Labels are indexed everywhere; nobody needs more. */
const MAX_LABELS = 128;

/** Whether a text is a name such as `example.com/part-of` or `app`. */
export function isQualifiedName(text: string): boolean {
  const slash = text.indexOf('/');
  const prefix = slash === -1 ? undefined : text.slice(0, slash);
  if (prefix !== undefined && (prefix.length > MAX_SUBDOMAIN || !SUBDOMAIN.test(prefix))) {
    return false;
  }
  return LABEL_TEXT.test(slash === -1 ? text : text.slice(slash + 1));
}

/** Whether a text may be the value of a label. */
export function isLabelValue(text: string): boolean {
  return text === '' || LABEL_TEXT.test(text);
}

/** Whether a text may be the name of a port: a DNS label. */
export function isDnsLabel(text: string): boolean {
  return DNS_LABEL.test(text);
}

/** The labels that Kubernetes takes, and the names of those it would refuse. */
export function usableLabels(labels: Readonly<Record<string, string>>): UsableEntries {
  return usable(labels, (key, value, taken) => {
    return taken < MAX_LABELS && isQualifiedName(key) && isLabelValue(value);
  });
}

/** The annotations that Kubernetes takes, and the names of those it would refuse. */
export function usableAnnotations(annotations: Readonly<Record<string, string>>): UsableEntries {
  let bytes = 0;
  return usable(annotations, (key, value) => {
    if (!isQualifiedName(key.toLowerCase())) return false;
    const size = Buffer.byteLength(key) + Buffer.byteLength(value);
    if (bytes + size > MAX_ANNOTATION_BYTES) return false;
    bytes += size;
    return true;
  });
}

/** Entries of a map that can be written, in the order of their names. */
export interface UsableEntries {
  readonly entries: Readonly<Record<string, string>>;
  readonly refused: readonly string[];
}

function usable(
  map: Readonly<Record<string, string>>,
  isUsable: (key: string, value: string, taken: number) => boolean,
): UsableEntries {
  const entries: [string, string][] = [];
  const refused: string[] = [];
  for (const [key, value] of Object.entries(map).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (isUsable(key, value, entries.length)) entries.push([key, value]);
    else refused.push(key);
  }
  return { entries: Object.fromEntries(entries), refused };
}
