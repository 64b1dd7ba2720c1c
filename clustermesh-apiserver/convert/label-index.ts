/**
 * Objects of a kind by what a Service may select them by. Only namespaces that have been asked for are indexed: most have no
 * Service that needs it.
 */
import { type NestedMap, pathOf, setNested } from './nested-map.ts';

/** Something in a namespace that has labels. */
export interface Labelled {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** What selects. */
export interface Selecting {
  readonly namespace: string;
  readonly selector: Readonly<Record<string, string>>;
}

/** Objects of one kind. */
export interface LabelIndex<T extends Labelled> {
  /** Takes an object; returns the one that it replaces. */
  take(object: T, exists: boolean): T | undefined;
  /** Those that are selected; none by an empty selector. */
  select(service: Selecting): readonly T[];
}

/** Makes an empty index. */
export function createLabelIndex<T extends Labelled>(): LabelIndex<T> {
  const objects = new Map<string, T>();
  const byNamespace: NestedMap<T> = new Map();
  /** Of a namespace, by `key=value`. */
  const indexes = new Map<string, Map<string, Set<T>>>();

  const indexOf = (namespace: string): Map<string, Set<T>> => {
    const known = indexes.get(namespace);
    if (known !== undefined) return known;
    const index = new Map<string, Set<T>>();
    for (const object of byNamespace.get(namespace)?.values() ?? []) add(index, object);
    indexes.set(namespace, index);
    return index;
  };
  return {
    take(object, exists) {
      const id = pathOf(object);
      const before = objects.get(id);
      const index = indexes.get(object.namespace);
      if (exists) objects.set(id, object);
      else objects.delete(id);
      setNested(byNamespace, object.namespace, { inner: id, value: exists ? object : undefined });
      if (index !== undefined) {
        if (before !== undefined) remove(index, before);
        if (exists) add(index, object);
        if (index.size === 0) indexes.delete(object.namespace);
      }
      return before;
    },
    select(service) {
      const pairs = pairsOf(service);
      if (pairs.length === 0) return [];
      const index = indexOf(service.namespace);
      let fewest: ReadonlySet<T> | undefined;
      for (const pair of pairs) {
        const candidates = index.get(pair);
        if (candidates === undefined) return [];
        if (fewest === undefined || candidates.size < fewest.size) fewest = candidates;
      }
      return [...(fewest ?? [])].filter((object) => isSelected(service, object));
    },
  };
}

/** What a Service asks for, each as `key=value`. */
export function pairsOf({ selector }: Pick<Selecting, 'selector'>): string[] {
  return Object.entries(selector).map(([key, value]) => `${key}=${value}`);
}

/** Whether a selector selects an object of the same namespace. An empty one selects nothing. */
export function isSelected(
  { selector }: Pick<Selecting, 'selector'>,
  { labels }: Pick<Labelled, 'labels'>,
): boolean {
  const wanted = Object.entries(selector);
  return wanted.length > 0 && wanted.every(([key, value]) => labels[key] === value);
}

function add<T extends Labelled>(index: Map<string, Set<T>>, object: T): void {
  for (const [key, value] of Object.entries(object.labels)) {
    const pair = `${key}=${value}`;
    const known = index.get(pair);
    if (known === undefined) index.set(pair, new Set([object]));
    else known.add(object);
  }
}

function remove<T extends Labelled>(index: Map<string, Set<T>>, object: T): void {
  for (const [key, value] of Object.entries(object.labels)) {
    const pair = `${key}=${value}`;
    const known = index.get(pair);
    known?.delete(object);
    if (known?.size === 0) index.delete(pair);
  }
}
