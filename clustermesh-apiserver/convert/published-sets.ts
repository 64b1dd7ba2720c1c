/** What is published of a cluster, in sets that are complete or not each by itself, and what each is made of. */
import type { ClusterObjectKind } from '../sources/objects.ts';

/** Where a cluster's nodes, addresses and identities come from. */
export type ConversionMode =
  /** Its agents are ours, whatever its CNI: Nodes and Pods, and identities that we allocate. */
  | 'any-cni'
  /** Cilium runs it: its own objects, and the identities that it has allocated. */
  | 'cilium';

/** The sets: five of Cilium's format, and four for the cluster's own agents. */
export const PUBLISHED_SETS = [
  'nodes',
  'ips',
  'identities',
  'services',
  'serviceexports',
  'local-ips',
  'local-identities',
  'local-services',
  'local-policies',
] as const;
/** One of `PUBLISHED_SETS`. */
export type PublishedSet = (typeof PUBLISHED_SETS)[number];

/** What one set is made of. */
export interface SetNeeds {
  /** Kinds of which each object is a record: while one is missing the set has holes. */
  readonly subjects: readonly ClusterObjectKind[];
  /** Kinds that a record is made with: while one is missing every record may be wrong. */
  readonly ingredients: readonly ClusterObjectKind[];
}

const POLICIES: readonly ClusterObjectKind[] = [
  'NetworkPolicy',
  'CiliumNetworkPolicy',
  'CiliumClusterwideNetworkPolicy',
  'CiliumCIDRGroup',
];
/**
 * The own agents take the marker of `services` for that of what is theirs alone (`mesh/remote/cluster-reader.ts`), policies
 * too: of a cluster whose policies cannot be read they must not believe that it has none.
 */
const SERVICES: readonly ClusterObjectKind[] = ['Service', ...POLICIES];
const NODES_OF_ANY_CNI: SetNeeds = { subjects: ['Node'], ingredients: [] };
/**
 * Also of what namespaces that are not global hide: what is one set to the own agents is in two places, and the public one's
 * marker stands for both (`mesh/remote/cluster-reader.ts`). So both have the same needs, and are whole together.
 */
const PODS: SetNeeds = { subjects: ['Pod'], ingredients: ['Namespace'] };
/** Cilium's agents read Cilium's objects: nothing is kept for them, and what another mode left is swept. */
const NONE: SetNeeds = { subjects: [], ingredients: [] };
const COMMON = {
  serviceexports: { subjects: ['ServiceExport'], ingredients: ['Service', 'Namespace'] },
  'local-policies': { subjects: POLICIES, ingredients: [] },
} as const satisfies Partial<Record<PublishedSet, SetNeeds>>;

const NEEDS: Readonly<Record<ConversionMode, Readonly<Record<PublishedSet, SetNeeds>>>> = {
  'any-cni': {
    ...COMMON,
    nodes: NODES_OF_ANY_CNI,
    ips: PODS,
    identities: PODS,
    'local-ips': PODS,
    'local-identities': PODS,
    // Pods are the backends of a Service that has no slices.
    services: { subjects: SERVICES, ingredients: ['EndpointSlice', 'Namespace', 'Pod'] },
    'local-services': { subjects: ['Service'], ingredients: ['EndpointSlice', 'Namespace', 'Pod'] },
  },
  cilium: {
    ...COMMON,
    nodes: { subjects: ['CiliumNode'], ingredients: [] },
    ips: { subjects: ['CiliumEndpoint', 'CiliumEndpointSlice'], ingredients: ['Namespace'] },
    identities: { subjects: ['CiliumIdentity'], ingredients: ['Namespace'] },
    'local-ips': NONE,
    'local-identities': NONE,
    services: { subjects: SERVICES, ingredients: ['EndpointSlice', 'Namespace'] },
    'local-services': { subjects: ['Service'], ingredients: ['EndpointSlice', 'Namespace'] },
  },
};

/** What a set is made of in a mode. */
export function needsOf(set: PublishedSet, mode: ConversionMode): SetNeeds {
  return NEEDS[mode][set];
}

/** Kinds that a mode is made of; service exports only where the Multi-Cluster Services API is on. */
export function kindsOf(
  mode: ConversionMode,
  options: { readonly serviceExports?: boolean } = {},
): ClusterObjectKind[] {
  const kinds = new Set<ClusterObjectKind>();
  for (const set of PUBLISHED_SETS) {
    if (set === 'serviceexports' && options.serviceExports !== true) continue;
    const { subjects, ingredients } = needsOf(set, mode);
    for (const kind of [...subjects, ...ingredients]) kinds.add(kind);
  }
  return [...kinds];
}

/** Which kinds a source has told everything of, and what that completes. */
export interface Completeness {
  /** Notes that everything of `kinds` has been told. */
  add(kinds: readonly ClusterObjectKind[]): void;
  /** Kinds that a set waits for before it is whole. */
  outstanding(set: PublishedSet): readonly ClusterObjectKind[];
  /** Whether a single record of the set can be right. */
  canConvert(set: PublishedSet): boolean;
}

/** Makes a book of what has been told; kinds that are not among `awaited` are never waited for. */
export function createCompleteness(
  mode: ConversionMode,
  awaited: readonly ClusterObjectKind[],
): Completeness {
  const missing = new Set(awaited);
  return {
    add(kinds) {
      for (const kind of kinds) missing.delete(kind);
    },
    outstanding(set) {
      const { subjects, ingredients } = needsOf(set, mode);
      return [...subjects, ...ingredients].filter((kind) => missing.has(kind));
    },
    canConvert: (set) => needsOf(set, mode).ingredients.every((kind) => !missing.has(kind)),
  };
}
