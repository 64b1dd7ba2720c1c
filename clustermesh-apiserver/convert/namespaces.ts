/** Namespaces: what their labels add to identities, and whether the mesh may know what is in them. */
import type { NamespaceObject } from '../sources/objects.ts';
import { readGlobalNamespace, type ValueWarning } from './annotations.ts';

/** What a change of a Namespace touches. */
export interface NamespaceChange {
  readonly name: string;
  /** Identities of its pods are others now. */
  readonly isRelabelled: boolean;
  /** Everything in it is to be published from now on, or withdrawn. */
  readonly isSwitched: boolean;
  readonly warnings: readonly ValueWarning[];
}

/** The namespaces of a cluster. */
export interface Namespaces {
  take(object: NamespaceObject, exists: boolean): NamespaceChange;
  /** Labels of a namespace; undefined when there is no object of it. */
  labelsOf(name: string): Readonly<Record<string, string>> | undefined;
  /** Whether the mesh may know what is in a namespace (`pkg/clustermesh/namespace`). */
  isGlobal(name: string): boolean;
}

/** Options of `createNamespaces`. */
export interface NamespacesOptions {
  /** What a namespace is that says nothing. */
  readonly globalByDefault: boolean;
  /** Whether its words are read exactly as Cilium reads them. */
  readonly asCilium: boolean;
  /** What a namespace is that has no object: Cilium knows none of it, manifests need not describe one. */
  readonly globalWithoutObject: boolean;
}

/** Makes the book of namespaces of an empty cluster. */
export function createNamespaces(options: NamespacesOptions): Namespaces {
  const namespaces = new Map<string, { labels: NamespaceObject['labels']; global: boolean }>();
  const isGlobal = (name: string): boolean =>
    namespaces.get(name)?.global ?? options.globalWithoutObject;
  return {
    take(object, exists) {
      const { name, labels } = object;
      const before = { labels: namespaces.get(name)?.labels, global: isGlobal(name) };
      const said = readGlobalNamespace(object.annotations, options.globalByDefault, options);
      if (exists) namespaces.set(name, { labels, global: said.global });
      else namespaces.delete(name);
      return {
        name,
        isRelabelled: !areEqual(before.labels, exists ? labels : undefined),
        isSwitched: before.global !== isGlobal(name),
        warnings: exists ? said.warnings : [],
      };
    },
    labelsOf: (name) => namespaces.get(name)?.labels,
    isGlobal,
  };
}

type LabelRecord = Readonly<Record<string, string>> | undefined;

function areEqual(a: LabelRecord, b: LabelRecord): boolean {
  if (a === undefined || b === undefined) return a === b;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => a[key] === b[key]);
}
