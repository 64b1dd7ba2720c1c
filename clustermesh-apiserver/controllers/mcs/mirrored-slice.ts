/** EndpointSlices of an exported Service, again for its derived Service: that has no selector of its own. */
import { createHash } from 'node:crypto';
import type { DesiredObject } from '../applied-fields.ts';
import type { KubernetesObject } from '../kubernetes-object.ts';
import type { IpFamily } from './ip-families.ts';
import {
  LOCAL_MIRROR_MANAGER,
  LOCAL_SLICE_LABEL,
  MANAGED_BY_LABEL,
  MCS_SERVICE_NAME_LABEL,
  MESH_SLICE_MANAGERS,
  SERVICE_NAME_LABEL,
  SOURCE_CLUSTER_LABEL,
} from './mcs-names.ts';
import type { McsService, SliceObject, WholeSlice } from './mcs-objects.ts';
import { isSamePort, protocolOf } from './merge-ports.ts';
import { isLabelValue } from './object-names.ts';

const MAX_NAME = 253;
const HEADLESS_LABEL = 'service.kubernetes.io/headless';

/** What slices are mirrored by. */
export interface MirrorInput {
  readonly cluster: string;
  /** The exported Service and all its slices. */
  readonly service: McsService;
  readonly slices: readonly WholeSlice[];
  readonly derived: McsService;
  /** Families that are usable here. */
  readonly families: readonly IpFamily[];
}

/** The slices of the derived Service that hold this cluster's endpoints, to be applied. */
export function mirroredSlices(input: MirrorInput): readonly DesiredObject[] {
  const taken = new Set<string>();
  const slices = [...input.slices].sort((a, b) => (a.object.name < b.object.name ? -1 : 1));
  return slices.flatMap((slice) => {
    if (!isMirrored(slice, input)) return [];
    const ports = mirroredPorts(slice, input);
    if (ports === undefined) return [];
    const name = mirroredName(slice.object, input, taken);
    taken.add(name);
    return [mirroredSlice(slice, { ...input, ports, name })];
  });
}

/** Whether a slice is one that this controller wrote. */
export function isLocalMirror(slice: Pick<SliceObject, 'labels'>): boolean {
  return slice.labels[MANAGED_BY_LABEL] === LOCAL_MIRROR_MANAGER;
}

function isMirrored({ object, addressType }: WholeSlice, { service, families }: MirrorInput) {
  const manager = object.labels[MANAGED_BY_LABEL] ?? '';
  return (
    object.labels[SERVICE_NAME_LABEL] === service.object.name &&
    // Other clusters' backends come to every cluster by themselves.
    !MESH_SLICE_MANAGERS.includes(manager) &&
    manager !== LOCAL_MIRROR_MANAGER &&
    !object.isLeaving &&
    families.some((family) => family === addressType)
  );
}

/**
 * The ports that are imported as this Service has them, under the imported names. A port on which the clusters disagree is left
 * out: its traffic is for those that agree. Undefined: there are ports, and none is left.
 */
function mirroredPorts(
  slice: WholeSlice,
  { service, derived }: MirrorInput,
): readonly object[] | undefined {
  const ports = slice.ports.flatMap(({ name, protocol, port, appProtocol }) => {
    const exported = service.service.ports.find((candidate) => candidate.name === name);
    const exportedAs = exported && protocolOf(exported);
    if (exported === undefined || exportedAs === undefined) return [];
    const imported = derived.service.ports.find((candidate) =>
      isSamePort(
        { port: candidate.port, protocol: protocolOf(candidate) ?? exportedAs },
        { port: exported.port, protocol: exportedAs },
      ),
    );
    if (imported === undefined) return [];
    return [
      {
        name: imported.name,
        protocol,
        ...(port === undefined ? {} : { port }),
        ...(appProtocol === undefined ? {} : { appProtocol }),
      },
    ];
  });
  return ports.length === 0 && slice.ports.length > 0 ? undefined : ports;
}

function mirroredSlice(
  slice: WholeSlice,
  options: MirrorInput & { readonly ports: readonly object[]; readonly name: string },
): DesiredObject {
  const { cluster, service, derived, ports, name } = options;
  return {
    metadata: {
      name,
      namespace: service.object.namespace,
      labels: {
        ...derived.object.labels,
        ...(derived.service.headless ? { [HEADLESS_LABEL]: '' } : {}),
        [MCS_SERVICE_NAME_LABEL]: service.object.name,
        [SERVICE_NAME_LABEL]: derived.object.name,
        [SOURCE_CLUSTER_LABEL]: cluster,
        [MANAGED_BY_LABEL]: LOCAL_MIRROR_MANAGER,
        [LOCAL_SLICE_LABEL]: labelOfName(slice.object.name),
      },
      ownerReferences: [ownerReference(derived.object)],
    },
    addressType: slice.addressType,
    endpoints: slice.endpoints,
    ports,
  };
}

/**
 * The derived Service's name and what the slice's name adds to its Service's, as Cilium names them; where that is no name or that of
 * another, a hash in its place.
 */
function mirroredName(
  { name }: KubernetesObject,
  { service, derived }: MirrorInput,
  taken: ReadonlySet<string>,
): string {
  const rest = name.startsWith(service.object.name) ? name.slice(service.object.name.length) : name;
  const suffix = rest.replace(/^[-.]+/, '');
  const full = suffix === '' ? derived.object.name : `${derived.object.name}-${suffix}`;
  const isUsable = full.length <= MAX_NAME && !taken.has(full);
  return isUsable ? full : `${derived.object.name}-${hashOf(name)}`;
}

/** A label's value has 63 characters at most, a slice's name 253. */
function labelOfName(name: string): string {
  return isLabelValue(name) ? name : `${name.slice(0, 40).replace(/[-.]+$/, '')}-${hashOf(name)}`;
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}

function ownerReference({ name, uid }: KubernetesObject): Readonly<Record<string, unknown>> {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    name,
    uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}
