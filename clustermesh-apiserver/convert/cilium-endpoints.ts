/**
 * Addresses of a cluster that Cilium runs, as its own apiserver publishes them. A pod's endpoint is told by its
 * CiliumEndpoint, or by a CiliumEndpointSlice, or for a while by both: it is the same pod, so going from one to the other
 * changes nothing.
 */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import { parseIpPrefix } from '../../mesh/wire/ip.ts';
import type { IpIdentity } from '../../mesh/wire/ip-identity.ts';
import type { CiliumEndpointFacts } from '../sources/cilium-endpoint-object.ts';
import type { CiliumEndpointObject, CiliumEndpointSliceObject } from '../sources/objects.ts';
import { createAddressOwners } from './address-owners.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import type { RecordChange } from './records.ts';

/** Endpoints that Cilium tells. */
export interface CiliumEndpoints {
  takeEndpoint(object: CiliumEndpointObject, exists: boolean): void;
  takeSlice(object: CiliumEndpointSliceObject, exists: boolean): void;
  /** Touches every address of a namespace. */
  touchNamespace(name: string): void;
  /** Which pod holds an address. */
  holderOf(address: IpAddress): string | undefined;
  /** Records of what was touched, each made when it is asked for. */
  drain(): Iterable<RecordChange>;
}

/** Who tells of a pod: its own object, then slices in the order in which they came. */
type Tellers = Map<string, CiliumEndpointFacts>;

const OWN_OBJECT = '';

/** Makes the book of endpoints of an empty cluster. */
export function createCiliumEndpoints(options: {
  readonly isNamespaceGlobal: (name: string) => boolean;
}): CiliumEndpoints {
  const tellers: NestedMap<Tellers> = new Map();
  const slices = new Map<string, CiliumEndpointSliceObject>();
  const owners = createAddressOwners<IpAddress>();
  const touched = new Set<IpAddress>();

  const tellersOf = (path: string): Tellers | undefined => {
    const [namespace = '', name = ''] = path.split('/');
    return tellers.get(namespace)?.get(name);
  };
  const factsOf = (path: string): CiliumEndpointFacts | undefined => {
    const known = tellersOf(path);
    return known?.get(OWN_OBJECT) ?? known?.values().next().value;
  };
  /** Notes what a teller says of a pod now, undefined for nothing more. */
  const tell = (
    pod: { readonly namespace: string; readonly name: string },
    teller: string,
    facts: CiliumEndpointFacts | undefined,
  ): void => {
    const path = pathOf(pod);
    const before = factsOf(path);
    const known = tellersOf(path) ?? new Map<string, CiliumEndpointFacts>();
    if (facts === undefined) known.delete(teller);
    else known.set(teller, facts);
    const value = known.size === 0 ? undefined : known;
    setNested(tellers, pod.namespace, { inner: pod.name, value });
    const now = factsOf(path);
    for (const address of before?.addresses ?? []) {
      if (now?.addresses.includes(address) !== true) owners.release(address, path);
      touched.add(address);
    }
    for (const address of now?.addresses ?? []) {
      owners.claim(address, path);
      touched.add(address);
    }
  };
  const recordOf = (address: IpAddress): IpIdentity | undefined => {
    const path = owners.ownerOf(address);
    const facts = path === undefined ? undefined : factsOf(path);
    if (path === undefined || facts === undefined) return undefined;
    const [namespace = '', podName = ''] = path.split('/');
    if (!options.isNamespaceGlobal(namespace)) return undefined;
    return {
      prefix: parseIpPrefix(address),
      isCidr: false,
      hostIp: facts.hostIp,
      identity: facts.identity,
      encryptionKey: facts.encryptionKey,
      metadata: '',
      namespace: namespace === '' ? undefined : namespace,
      podName: podName === '' ? undefined : podName,
      serviceAccount: facts.serviceAccount,
      namedPorts: facts.namedPorts,
    };
  };

  return {
    takeEndpoint(object, exists) {
      tell(object, OWN_OBJECT, exists ? object : undefined);
    },
    takeSlice(object, exists) {
      const before = slices.get(object.name);
      const now = new Set(
        exists ? object.endpoints.map(({ podName }) => podIn(object, podName)) : [],
      );
      if (exists) slices.set(object.name, object);
      else slices.delete(object.name);
      // First what went, lest an address stays with a pod that gave it to another one of the same slice.
      for (const { podName } of before?.endpoints ?? []) {
        if (before === undefined || now.has(podIn(before, podName))) continue;
        tell({ namespace: before.endpointsNamespace, name: podName }, object.name, undefined);
      }
      if (!exists) return;
      for (const endpoint of object.endpoints) {
        const pod = { namespace: object.endpointsNamespace, name: endpoint.podName };
        tell(pod, object.name, endpoint);
      }
    },
    touchNamespace(name) {
      for (const pod of tellers.get(name)?.keys() ?? []) {
        for (const address of factsOf(`${name}/${pod}`)?.addresses ?? []) touched.add(address);
      }
    },
    holderOf: (address) => owners.ownerOf(address),
    *drain() {
      for (const address of touched) {
        touched.delete(address);
        yield { kind: 'ip', address, value: recordOf(address) };
      }
    },
  };
}

function podIn(slice: CiliumEndpointSliceObject, podName: string): string {
  return `${slice.endpointsNamespace}/${podName}`;
}
