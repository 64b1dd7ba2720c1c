/** Whether an object says already what would be applied to it. Pure. */
import { type JsonFields, listOf, recordOf, textOf } from './kubernetes-object.ts';

/** An object as it should be: the fields that we set, and no others. */
export interface DesiredObject {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string | undefined;
    readonly labels?: Readonly<Record<string, string>> | undefined;
    readonly annotations?: Readonly<Record<string, string>> | undefined;
    readonly ownerReferences?: readonly JsonFields[] | undefined;
    readonly finalizers?: readonly string[] | undefined;
  };
  /** `spec`, `status`, or the fields of a kind that has neither. */
  readonly [field: string]: unknown;
}

/**
 * Whether an object has every field of `desired` with its value, and no field that we set before and do not set now. The latter
 * is read from its `managedFields` (Kubernetes, `structured-merge-diff`, `fieldpath/serialize.go`).
 */
export function isApplied(
  desired: DesiredObject,
  observed: JsonFields,
  options: { readonly manager: string; readonly subresource?: string },
): boolean {
  if (!covers(observed, desired)) return false;
  const owned = ownedFields(observed, options);
  return owned === undefined || !ownsMore(owned, desired);
}

/** Whether `found` has all that `wanted` has. Lists are compared as wholes, their elements again by what is wanted. */
function covers(found: unknown, wanted: unknown): boolean {
  if (wanted === undefined) return true;
  if (Array.isArray(wanted)) {
    const list = listOf(found);
    return (
      list.length === wanted.length && wanted.every((item, index) => covers(list[index], item))
    );
  }
  const fields = recordOf(wanted);
  if (fields === undefined) return found === wanted;
  const others = recordOf(found);
  // The API server leaves out what is empty.
  if (others === undefined) return found === undefined && Object.keys(fields).length === 0;
  return Object.entries(fields).every(([name, value]) =>
    isEmptyList(value) ? listOf(others[name]).length === 0 : covers(others[name], value),
  );
}

function isEmptyList(value: unknown): boolean {
  return Array.isArray(value) && value.length === 0;
}

/** Our own part of an object's managed fields. */
function ownedFields(
  object: JsonFields,
  { manager, subresource = '' }: { manager: string; subresource?: string },
): JsonFields | undefined {
  for (const value of listOf(recordOf(object.metadata)?.managedFields)) {
    const entry = recordOf(value);
    if (textOf(entry, 'manager') !== manager || textOf(entry, 'operation') !== 'Apply') continue;
    if (textOf(entry, 'subresource') === subresource) return recordOf(entry?.fieldsV1);
  }
  return undefined;
}

/** Whether a set of owned fields has one that is not wanted. `f:` is a field, `k:` a list's element by keys, `v:` by value. */
function ownsMore(owned: JsonFields, wanted: unknown): boolean {
  return Object.entries(owned).some(([path, below]) => {
    const kind = path.slice(0, 2);
    const rest = path.slice(2);
    if (kind === 'f:') return ownsBelow(below, recordOf(wanted)?.[rest]);
    if (kind === 'k:') return ownsBelow(below, findByKeys(wanted, rest));
    if (kind === 'v:') return !listOf(wanted).some((item) => JSON.stringify(item) === rest);
    return false;
  });
}

function ownsBelow(below: unknown, wanted: unknown): boolean {
  if (wanted === undefined) return true;
  const fields = recordOf(below);
  // Without anything below, the field is owned as a whole, and was compared as one.
  return fields !== undefined && Object.keys(fields).length > 0 && ownsMore(fields, wanted);
}

/** Element of a list of objects that has these keys; a key that is not wanted explicitly may have its default. */
function findByKeys(wanted: unknown, text: string): unknown {
  const keys = Object.entries(recordOf(JSON.parse(text)) ?? {});
  return listOf(wanted).find((item) => {
    const fields = recordOf(item);
    return keys.every(([name, value]) => fields?.[name] === undefined || fields[name] === value);
  });
}
