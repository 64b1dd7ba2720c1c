/** Objects of Kubernetes as controllers keep them: what every object has, checked, and the rest as it came. */

/** Under which everything that controllers write is kept in `managedFields`. */
export const FIELD_MANAGER = 'isthmus-clustermesh-apiserver';

/** A JSON object whose fields were not looked at. */
export type JsonFields = Readonly<Record<string, unknown>>;

/** Who an object belongs to. */
export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller: boolean;
}

/** An object that was read. */
export interface KubernetesObject {
  /** `namespace/name`; the name alone where there are no namespaces. */
  readonly key: string;
  readonly name: string;
  /** Empty for what lives in none. */
  readonly namespace: string;
  readonly uid: string;
  readonly resourceVersion: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly owners: readonly OwnerReference[];
  /** Milliseconds since 1970, whole seconds. */
  readonly createdAt: number;
  /** It waits for its finalizers, and is as good as gone. */
  readonly isLeaving: boolean;
  /** All of it, but for what its `managedFields` say of others than us: that is often more than the rest. */
  readonly raw: JsonFields;
}

/** Reads what every object has. Throws an Error that names what is missing. */
export function parseKubernetesObject(value: unknown): KubernetesObject {
  const raw = recordOf(value);
  const metadata = recordOf(raw?.metadata);
  if (raw === undefined || metadata === undefined) {
    throw new Error('cannot use object: it has no metadata, expected an object of Kubernetes');
  }
  const name = textOf(metadata, 'name');
  const namespace = textOf(metadata, 'namespace');
  const uid = textOf(metadata, 'uid');
  const resourceVersion = textOf(metadata, 'resourceVersion');
  if (name === '' || uid === '' || resourceVersion === '') {
    throw new Error(
      `cannot use object ${namespace}/${name}: name, uid or resourceVersion is missing`,
    );
  }
  const created = Date.parse(textOf(metadata, 'creationTimestamp'));
  return {
    key: objectKey(namespace, name),
    name,
    namespace,
    uid,
    resourceVersion,
    labels: textsOf(metadata.labels),
    annotations: textsOf(metadata.annotations),
    owners: listOf(metadata.ownerReferences).flatMap(ownerOf),
    createdAt: Number.isNaN(created) ? 0 : created,
    isLeaving: textOf(metadata, 'deletionTimestamp') !== '',
    raw: { ...raw, metadata: { ...metadata, managedFields: ownManagedFields(metadata) } },
  };
}

/** Key of an object: `namespace/name`, or the name alone. */
export function objectKey(namespace: string, name: string): string {
  return namespace === '' ? name : `${namespace}/${name}`;
}

/** Takes a key apart. */
export function splitObjectKey(key: string): { readonly namespace: string; readonly name: string } {
  const slash = key.indexOf('/');
  return slash === -1
    ? { namespace: '', name: key }
    : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** The fields of a JSON object; undefined for anything else. */
export function recordOf(value: unknown): JsonFields | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return undefined;
  return value as JsonFields;
}

/** A JSON array; empty for anything else. */
export function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A text field; empty when it is absent or no text. */
export function textOf(fields: JsonFields | undefined, name: string): string {
  const value = fields?.[name];
  return typeof value === 'string' ? value : '';
}

/** A map of texts, such as labels; what is no text is left out. */
export function textsOf(value: unknown): Readonly<Record<string, string>> {
  const texts: Record<string, string> = {};
  for (const [name, text] of Object.entries(recordOf(value) ?? {})) {
    if (typeof text === 'string') texts[name] = text;
  }
  return texts;
}

function ownManagedFields(metadata: JsonFields): readonly unknown[] {
  return listOf(metadata.managedFields).filter(
    (entry) => textOf(recordOf(entry), 'manager') === FIELD_MANAGER,
  );
}

function ownerOf(value: unknown): OwnerReference[] {
  const fields = recordOf(value);
  if (fields === undefined) return [];
  return [
    {
      apiVersion: textOf(fields, 'apiVersion'),
      kind: textOf(fields, 'kind'),
      name: textOf(fields, 'name'),
      uid: textOf(fields, 'uid'),
      controller: fields.controller === true,
    },
  ];
}
