/** Addresses of a cluster whose pods are its endpoints: of each pod those that it holds, with the labels of its identity. */
import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { PodObject } from '../sources/objects.ts';
import { createAddressOwners } from './address-owners.ts';
import type { LabelFilter } from './label-filter.ts';
import type { Namespaces } from './namespaces.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import { createLabelSets, podIdentityLabels } from './pod-labels.ts';
import type { EndpointRecord, RecordChange } from './records.ts';

/** Endpoints that are pods. */
export interface PodEndpoints {
  take(pod: PodObject, exists: boolean): void;
  /** Touches every address of a namespace. */
  touchNamespace(name: string): void;
  /** Which pod holds an address. */
  holderOf(address: IpAddress): string | undefined;
  /** Records of what was touched, each made when it is asked for. */
  drain(): Iterable<RecordChange>;
}

/** Makes the book of pods of an empty cluster. */
export function createPodEndpoints(options: {
  readonly cluster: ClusterName;
  readonly namespaces: Pick<Namespaces, 'labelsOf' | 'isGlobal'>;
  readonly labelFilter: LabelFilter;
}): PodEndpoints {
  const { cluster, namespaces, labelFilter } = options;
  const pods: NestedMap<PodObject> = new Map();
  const owners = createAddressOwners<IpAddress>();
  const labelSets = createLabelSets();
  const touched = new Set<IpAddress>();

  const podAt = (path: string): PodObject | undefined => {
    const [namespace = '', name = ''] = path.split('/');
    return pods.get(namespace)?.get(name);
  };
  const recordOf = (address: IpAddress): EndpointRecord | undefined => {
    const pod = podAt(owners.ownerOf(address) ?? '');
    if (pod === undefined) return undefined;
    const named = pod.ports.filter((port) => port.name !== '');
    const labels = podIdentityLabels(pod, {
      namespaceLabels: namespaces.labelsOf(pod.namespace),
      cluster,
      filter: labelFilter,
    });
    return {
      address,
      hostIp: pod.hostIp ?? null,
      isLocal: !namespaces.isGlobal(pod.namespace),
      labels: labelSets.intern(labels),
      namespace: pod.namespace,
      podName: pod.name,
      serviceAccount: pod.serviceAccount,
      namedPorts:
        named.length === 0 ? undefined : [...named].sort((a, b) => (a.name < b.name ? -1 : 1)),
    };
  };

  return {
    take(pod, exists) {
      const id = pathOf(pod);
      const before = podAt(id);
      const held = exists ? addressesOf(pod) : [];
      for (const address of addressesOf(before)) {
        // What it keeps it does not let go of: another claimant would come first.
        if (!held.includes(address)) owners.release(address, id);
        touched.add(address);
      }
      setNested(pods, pod.namespace, { inner: pod.name, value: exists ? pod : undefined });
      for (const address of held) {
        owners.claim(address, id);
        touched.add(address);
      }
    },
    touchNamespace(name) {
      for (const pod of pods.get(name)?.values() ?? []) {
        for (const address of addressesOf(pod)) touched.add(address);
      }
    },
    holderOf: (address) => owners.ownerOf(address),
    *drain() {
      for (const address of touched) {
        touched.delete(address);
        yield { kind: 'endpoint', address, value: recordOf(address) };
      }
    },
  };
}

/** Addresses that a pod holds: none on the host's network, none before it has one, and none when it has finished. */
function addressesOf(pod: PodObject | undefined): readonly IpAddress[] {
  return pod === undefined || pod.hostNetwork || pod.finished ? [] : pod.ips;
}
