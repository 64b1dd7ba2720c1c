/** EndpointSlices that hold other clusters' backends: their marks, and their content as it is read and written. Pure. */
import { createHash } from 'node:crypto';
import type { ClusterName } from '../../mesh/wire/ids.ts';
import { PROTOCOLS, type Protocol } from '../../mesh/wire/service.ts';
import type { DesiredObject } from './applied-fields.ts';
import { type KubernetesObject, listOf, recordOf, textOf } from './kubernetes-object.ts';

/** Who writes these slices: Cilium's own word, so that its agents and ours know that the backends are not local. */
export const SLICE_MANAGER = 'endpointslice-mesh-controller.cilium.io';
export const MANAGED_BY_LABEL = 'endpointslice.kubernetes.io/managed-by';
export const SERVICE_NAME_LABEL = 'kubernetes.io/service-name';
export const SOURCE_CLUSTER_LABEL = 'multicluster.kubernetes.io/source-cluster';
const HEADLESS_LABEL = 'service.kubernetes.io/headless';

/** A family of addresses, in the words of `addressType` and of a Service's `ipFamilies`. */
export type AddressType = 'IPv4' | 'IPv6';

/** A port that all endpoints of a slice have. */
export interface SlicePort {
  /** Empty for a port without a name. */
  readonly name: string;
  readonly protocol: Protocol;
  readonly port: number;
}

/** An endpoint; whoever is published by its cluster can be used. */
export interface SliceEndpoint {
  readonly address: string;
  readonly hostname: string | undefined;
}

/** A slice as it stands in the API server. */
export interface MeshSlice {
  readonly object: KubernetesObject;
  readonly addressType: AddressType | undefined;
  readonly ports: readonly SlicePort[];
  /** In the order in which they stand there. */
  readonly endpoints: readonly SliceEndpoint[];
}

/** Whether a slice bears our marks. */
export function isMeshSlice({ labels }: Pick<KubernetesObject, 'labels'>): boolean {
  return (
    labels[MANAGED_BY_LABEL] === SLICE_MANAGER &&
    labels[SERVICE_NAME_LABEL] !== undefined &&
    labels[SOURCE_CLUSTER_LABEL] !== undefined
  );
}

/** What a slice is for: `namespace/service/cluster`, the key of its reconcile. */
export function sliceOwnerKey({ labels, namespace }: KubernetesObject): string {
  return `${namespace}/${labels[SERVICE_NAME_LABEL]}/${labels[SOURCE_CLUSTER_LABEL]}`;
}

/** Reads a slice that bears our marks. What somebody has put into it that we do not write is seen as a difference. */
export function readMeshSlice(object: KubernetesObject): MeshSlice {
  const { raw } = object;
  const addressType = textOf(raw, 'addressType');
  return {
    object,
    addressType: addressType === 'IPv4' || addressType === 'IPv6' ? addressType : undefined,
    ports: listOf(raw.ports).flatMap(readPort),
    endpoints: listOf(raw.endpoints).flatMap(readEndpoint),
  };
}

/** What all slices of one Service and cluster have in common. */
export interface SliceOwner {
  /** The local Service. */
  readonly service: KubernetesObject;
  readonly cluster: ClusterName;
  readonly isHeadless: boolean;
}

/** Name of the `number`th slice of a family: the same in every replica and after every restart. */
export function sliceName(
  { service, cluster }: Pick<SliceOwner, 'service' | 'cluster'>,
  addressType: AddressType,
  number: number,
): string {
  const parts = [service.namespace, service.name, cluster, addressType, number];
  const hash = createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 10);
  return `${service.name}-${cluster}-${hash}`;
}

/** A slice as it should be. */
export function makeMeshSlice(
  owner: SliceOwner,
  content: {
    readonly name: string;
    readonly addressType: AddressType;
    readonly ports: readonly SlicePort[];
    readonly endpoints: readonly SliceEndpoint[];
  },
): DesiredObject {
  const { service, cluster, isHeadless } = owner;
  const { name, addressType, ports, endpoints } = content;
  return {
    metadata: {
      name,
      namespace: service.namespace,
      labels: {
        ...ownLabels(service),
        ...(isHeadless ? { [HEADLESS_LABEL]: '' } : {}),
        [SERVICE_NAME_LABEL]: service.name,
        [MANAGED_BY_LABEL]: SLICE_MANAGER,
        [SOURCE_CLUSTER_LABEL]: cluster,
      },
      ownerReferences: [
        {
          apiVersion: 'v1',
          kind: 'Service',
          name: service.name,
          uid: service.uid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    addressType,
    ports: ports.map(({ name: portName, protocol, port }) => ({ name: portName, protocol, port })),
    endpoints: endpoints.map(({ address, hostname }) => ({
      addresses: [address],
      conditions: { ready: true, serving: true, terminating: false },
      ...(hostname === undefined ? {} : { hostname }),
      nodeName: cluster,
    })),
  };
}

/** Labels of a Service go on to its slices, as Kubernetes' own controller has it, but for those that say what a slice is. */
function ownLabels(service: KubernetesObject): Readonly<Record<string, string>> {
  const reserved = [SERVICE_NAME_LABEL, MANAGED_BY_LABEL, SOURCE_CLUSTER_LABEL, HEADLESS_LABEL];
  return Object.fromEntries(
    Object.entries(service.labels).filter(([name]) => !reserved.includes(name)),
  );
}

function readPort(value: unknown): SlicePort[] {
  const fields = recordOf(value);
  const protocol = PROTOCOLS.find((word) => word === (textOf(fields, 'protocol') || 'TCP'));
  const port = fields?.port;
  if (protocol === undefined || typeof port !== 'number') return [];
  return [{ name: textOf(fields, 'name'), protocol, port }];
}

function readEndpoint(value: unknown): SliceEndpoint[] {
  const fields = recordOf(value);
  const [address] = listOf(fields?.addresses);
  if (typeof address !== 'string') return [];
  return [{ address, hostname: textOf(fields, 'hostname') || undefined }];
}
