/**
 * Addresses of a cluster whose pods are its endpoints: of each pod those that it holds, with the labels of its identity; and of
 * each machine the same.
 */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { type IpAddress, type IpPrefix, ipFamily, prefixContains } from '../../mesh/wire/ip.ts';
import type { PodObject } from '../sources/objects.ts';
import { createAddressOwners } from './address-owners.ts';
import type { LabelFilter } from './label-filter.ts';
import {
  MACHINE_SERVICE_ACCOUNT,
  type Machine,
  type MachineEndpoint,
  machineEndpointPath,
  machinePath,
} from './machine.ts';
import type { Namespaces } from './namespaces.ts';
import { type NestedMap, pathOf, setNested } from './nested-map.ts';
import { createLabelSets, type IdentitySubject, podIdentityLabels } from './pod-labels.ts';
import type { EndpointRecord, RecordChange } from './records.ts';

/** Endpoints that are pods or machines. */
export interface PodEndpoints {
  take(pod: PodObject, exists: boolean): void;
  /** Takes a machine, or undefined for one that is gone. */
  setMachine(name: string, machine: Machine | undefined): void;
  /** Touches every address of a namespace. */
  touchNamespace(name: string): void;
  /** Who holds an address, in words: `pod demo/web`, `machine db`. */
  holderOf(address: IpAddress): string | undefined;
  /** A machine whose address lies in a network, in words. */
  machineWithin(network: IpPrefix): string | undefined;
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
  const machines = new Map<string, Machine>();
  const owners = createAddressOwners<IpAddress>();
  const labelSets = createLabelSets();
  const touched = new Set<IpAddress>();

  const podAt = (path: string): PodObject | undefined => {
    const [namespace = '', name = ''] = path.split('/');
    return pods.get(namespace)?.get(name);
  };
  /** A machine, and the endpoint behind it that is meant, if one is. */
  const machineAt = (
    path: string,
  ): { readonly machine: Machine; readonly endpoint: MachineEndpoint | undefined } | undefined => {
    const [none, name = '', behind] = path.split('/');
    const machine = none === '' ? machines.get(name) : undefined;
    if (machine === undefined) return undefined;
    const endpoint = machine.endpoints?.find((one) => one.name === behind);
    return behind !== undefined && endpoint === undefined ? undefined : { machine, endpoint };
  };
  const labelsOf = (subject: IdentitySubject): Labels =>
    labelSets.intern(
      podIdentityLabels(subject, {
        namespaceLabels: namespaces.labelsOf(subject.namespace),
        cluster,
        filter: labelFilter,
      }),
    );
  const recordOf = (address: IpAddress): EndpointRecord | undefined => {
    const owner = owners.ownerOf(address) ?? '';
    const found = machineAt(owner);
    if (found !== undefined) {
      const { machine, endpoint } = found;
      const { namespace, name } = machine;
      const serviceAccount = MACHINE_SERVICE_ACCOUNT;
      const { labels } = endpoint ?? machine;
      return {
        address,
        // A machine is its own host, so that readers send to it what they send to nodes for pods.
        hostIp: endpoint === undefined ? address : hostOf(machine, address),
        isLocal: !namespaces.isGlobal(namespace),
        labels: labelsOf({ namespace, labels, serviceAccount }),
        namespace,
        podName: endpoint === undefined ? name : `${name}.${endpoint.name}`,
        serviceAccount,
        namedPorts: undefined,
      };
    }
    const pod = podAt(owner);
    if (pod === undefined) return undefined;
    const named = pod.ports.filter((port) => port.name !== '');
    return {
      address,
      hostIp: pod.hostIp ?? null,
      isLocal: !namespaces.isGlobal(pod.namespace),
      labels: labelsOf(pod),
      namespace: pod.namespace,
      podName: pod.name,
      serviceAccount: pod.serviceAccount,
      namedPorts:
        named.length === 0 ? undefined : [...named].sort((a, b) => (a.name < b.name ? -1 : 1)),
    };
  };
  /** What a claimant held before and holds now. */
  const setHeld = (
    id: string,
    {
      before,
      after,
    }: { readonly before: readonly IpAddress[]; readonly after: readonly IpAddress[] },
  ): void => {
    for (const address of before) {
      // What it keeps it does not let go of: another claimant would come first.
      if (!after.includes(address)) owners.release(address, id);
      touched.add(address);
    }
    for (const address of after) {
      owners.claim(address, id);
      touched.add(address);
    }
  };

  return {
    take(pod, exists) {
      const id = pathOf(pod);
      const before = addressesOf(podAt(id));
      setNested(pods, pod.namespace, { inner: pod.name, value: exists ? pod : undefined });
      setHeld(id, { before, after: exists ? addressesOf(pod) : [] });
    },
    setMachine(name, machine) {
      const former = machines.get(name);
      if (machine === undefined) machines.delete(name);
      else machines.set(name, machine);
      const [before, after] = [heldBy(former), heldBy(machine)];
      for (const path of new Set([...before.keys(), ...after.keys()])) {
        setHeld(path, { before: before.get(path) ?? [], after: after.get(path) ?? [] });
      }
    },
    touchNamespace(name) {
      for (const pod of pods.get(name)?.values() ?? []) {
        for (const address of addressesOf(pod)) touched.add(address);
      }
      for (const machine of machines.values()) {
        if (machine.namespace !== name) continue;
        for (const address of [...heldBy(machine).values()].flat()) touched.add(address);
      }
    },
    holderOf(address) {
      const owner = owners.ownerOf(address);
      return owner === undefined ? undefined : holderText(owner);
    },
    machineWithin(network) {
      for (const machine of machines.values()) {
        for (const [path, addresses] of heldBy(machine)) {
          if (addresses.some((address) => prefixContains(network, address)))
            return holderText(path);
        }
      }
      return undefined;
    },
    *drain() {
      for (const address of touched) {
        touched.delete(address);
        yield { kind: 'endpoint', address, value: recordOf(address) };
      }
    },
  };
}

/** Who holds an address, by its name among the claimants. */
function holderText(path: string): string {
  return path.startsWith('/') ? `machine ${path.slice(1)}` : `pod ${path}`;
}

/** What a machine holds, itself and by its endpoints. */
function heldBy(machine: Machine | undefined): ReadonlyMap<string, readonly IpAddress[]> {
  if (machine === undefined) return new Map();
  const { name, addresses, endpoints = [] } = machine;
  return new Map([
    [machinePath(name), addresses],
    ...endpoints.map(
      (endpoint) => [machineEndpointPath(name, endpoint.name), endpoint.addresses] as const,
    ),
  ]);
}

/** Address at which an endpoint's machine takes its packets: of the same family if it has one. */
function hostOf({ addresses }: Machine, address: IpAddress): IpAddress | null {
  const same = addresses.find((one) => ipFamily(one) === ipFamily(address));
  return same ?? addresses[0] ?? null;
}

/** Addresses that a pod holds: none on the host's network, none before it has one, and none when it has finished. */
function addressesOf(pod: PodObject | undefined): readonly IpAddress[] {
  return pod === undefined || pod.hostNetwork || pod.finished ? [] : pod.ips;
}
