/** A map of maps without empty ones. */
export type NestedMap<T> = Map<string, Map<string, T>>;

/** Sets or, with `value` undefined, removes an entry. */
export function setNested<T>(
  map: NestedMap<T>,
  outer: string,
  options: { readonly inner: string; readonly value: T | undefined },
): void {
  const nested = map.get(outer) ?? new Map<string, T>();
  if (options.value === undefined) nested.delete(options.inner);
  else nested.set(options.inner, options.value);
  if (nested.size === 0) map.delete(outer);
  else map.set(outer, nested);
}

/** Text that names a namespaced object among those of its kind. */
export function pathOf(object: { readonly namespace: string; readonly name: string }): string {
  return `${object.namespace}/${object.name}`;
}
