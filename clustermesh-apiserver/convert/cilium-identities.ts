/** Identities that Cilium has allocated, as its own apiserver publishes them. */
import { type Labels, NAMESPACE_LABEL, sortLabels } from '../../mesh/wire/identity.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import type { CiliumIdentityObject } from '../sources/objects.ts';
import { type NestedMap, setNested } from './nested-map.ts';
import type { RecordChange } from './records.ts';

/** Identities that Cilium tells. */
export interface CiliumIdentities {
  take(object: CiliumIdentityObject, exists: boolean): void;
  /** Touches every identity of a namespace. */
  touchNamespace(name: string): void;
  /** Records of what was touched, each made when it is asked for. */
  drain(): Iterable<RecordChange>;
}

/** Makes the book of identities of an empty cluster. */
export function createCiliumIdentities(options: {
  readonly isNamespaceGlobal: (name: string) => boolean;
}): CiliumIdentities {
  const identities = new Map<NumericIdentity, CiliumIdentityObject>();
  const byNamespace: NestedMap<CiliumIdentityObject> = new Map();
  const touched = new Set<NumericIdentity>();

  const recordOf = (id: NumericIdentity): RecordChange => {
    const object = identities.get(id);
    const namespace = object === undefined ? '' : namespaceOf(object);
    const isWanted =
      object !== undefined && namespace !== '' && options.isNamespaceGlobal(namespace);
    return { kind: 'identity', id, value: isWanted ? readLabels(object) : undefined };
  };

  return {
    take(object, exists) {
      const { id, name: inner } = object;
      const before = identities.get(id);
      if (before !== undefined) {
        setNested(byNamespace, namespaceOf(before), { inner, value: undefined });
      }
      if (exists) identities.set(id, object);
      else identities.delete(id);
      if (exists) setNested(byNamespace, namespaceOf(object), { inner, value: object });
      touched.add(id);
    },
    touchNamespace(name) {
      for (const { id } of byNamespace.get(name)?.values() ?? []) touched.add(id);
    },
    *drain() {
      for (const id of touched) {
        touched.delete(id);
        yield recordOf(id);
      }
    },
  };
}

/** The namespace of the pods behind an identity; empty for one that has none, which is not published. */
function namespaceOf(object: CiliumIdentityObject): string {
  return object.securityLabels[`k8s:${NAMESPACE_LABEL}`] ?? '';
}

/** Labels as `pkg/labels.Map2Labels` reads them: the source before the first colon, one label for each key. */
function readLabels(object: CiliumIdentityObject): Labels {
  const labels = new Map<string, Labels[number]>();
  for (const [name, value] of Object.entries(object.securityLabels)) {
    const colon = name.indexOf(':');
    const key = colon === -1 ? name : name.slice(colon + 1);
    labels.set(key, { source: colon <= 0 ? 'unspec' : name.slice(0, colon), key, value });
  }
  return sortLabels([...labels.values()]);
}
