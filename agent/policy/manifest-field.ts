/** Fields of a manifest as its author wrote it. Each reader throws PolicyError that names the field. */
import { PolicyError } from './policy-error.ts';

/** Most items of a list, where nothing else is said: longer ones would only be an attempt to exhaust memory. */
const MAX_ITEMS = 10_000;

/** An object of a manifest. */
export function recordAt(value: unknown, path: string): Readonly<Record<string, unknown>> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new PolicyError('invalid', path, 'must be an object');
  }
  return value as Readonly<Record<string, unknown>>;
}

/** A list of a manifest, empty where the field is absent. */
export function listAt(value: unknown, path: string, maxItems = MAX_ITEMS): readonly unknown[] {
  if (isAbsent(value)) return [];
  if (!Array.isArray(value)) throw new PolicyError('invalid', path, 'must be a list');
  checkSize(value.length, maxItems, path);
  return value;
}

/** Throws for a list that is too long. */
export function checkSize(items: number, maxItems: number, path: string): void {
  if (items <= maxItems) return;
  throw new PolicyError(
    'unsupported',
    path,
    `has ${items} items, and this version takes ${maxItems}: divide it`,
  );
}

/** A text that is not empty. */
export function textAt(value: unknown, path: string): string {
  if (typeof value === 'string' && value !== '') return value;
  throw new PolicyError('invalid', path, 'must be a text that is not empty');
}

/** Whether a field is not there: in Kubernetes' JSON null says the same. */
export function isAbsent(value: unknown): value is undefined | null {
  return value === undefined || value === null;
}

/** Throws for the first field that is there and not among those known. */
export function refuseOthers(
  object: Readonly<Record<string, unknown>>,
  known: ReadonlySet<string>,
  path: string,
): void {
  for (const [field, value] of Object.entries(object)) {
    if (known.has(field) || isAbsent(value)) continue;
    throw new PolicyError(
      'unsupported',
      fieldPath(path, field),
      'is not supported by this version',
    );
  }
}

/** Path of a field of an object. What outsiders made up as its name is cut short. */
export function fieldPath(path: string, field: string): string {
  return `${path}.${field.length > 100 ? `${field.slice(0, 100)}…` : field}`;
}
