/** The Service that stands for a multi-cluster service in this cluster; it gets the address, and is global. */
import type { DesiredObject } from '../applied-fields.ts';
import type { KubernetesObject } from '../kubernetes-object.ts';
import { derivedServiceName } from './derived-name.ts';
import type { IpFamily } from './ip-families.ts';
import {
  GLOBAL_SERVICE_ANNOTATION,
  MCS_SERVICE_NAME_LABEL,
  SUPPORTED_IP_FAMILIES_ANNOTATION,
  SYNC_SLICES_ANNOTATION,
} from './mcs-names.ts';
import type { MergedExports } from './merge-exports.ts';

/** What a derived Service is made of. */
export interface DerivedServiceInput {
  readonly merged: MergedExports;
  /** Families that are usable here, in the order of the exports. */
  readonly families: readonly IpFamily[];
  /** `apiVersion` and object it belongs to. */
  readonly owner: { readonly apiVersion: string; readonly object: KubernetesObject };
  /** Whether peers' backends are written as EndpointSlices of a Service with an address too, where the exports do not say. */
  readonly syncSlices: boolean;
  /** Leaves out what an older API server may not know; default: all is set. */
  readonly plain?: boolean;
}

/**
 * The derived Service, to be applied. It has no selector: its endpoints are mirrored from the exported Service, and come from peers.
 * It asks for all families, since those of a Service cannot change at will; which are used is said by an annotation.
 */
export function desiredDerivedService(input: DerivedServiceInput): DesiredObject {
  const { merged, families, owner, plain = false } = input;
  const { namespace, name, uid } = owner.object;
  const isHeadless = merged.type === 'Headless';
  return {
    metadata: {
      name: derivedServiceName(namespace, name),
      namespace,
      labels: { ...merged.labels, [MCS_SERVICE_NAME_LABEL]: name },
      annotations: {
        ...(input.syncSlices && !isHeadless ? { [SYNC_SLICES_ANNOTATION]: 'true' } : {}),
        ...merged.annotations,
        [SUPPORTED_IP_FAMILIES_ANNOTATION]: families.join(','),
        [GLOBAL_SERVICE_ANNOTATION]: 'true',
      },
      ownerReferences: [
        {
          apiVersion: owner.apiVersion,
          kind: 'ServiceImport',
          name,
          uid,
          controller: true,
          blockOwnerDeletion: true,
        },
      ],
    },
    spec: {
      type: 'ClusterIP',
      ...(isHeadless ? { clusterIP: 'None' } : {}),
      ipFamilyPolicy: 'PreferDualStack',
      ports: merged.ports.map(({ name: portName, protocol, port, appProtocol }) => ({
        ...(portName === '' ? {} : { name: portName }),
        protocol,
        port,
        ...(appProtocol === undefined || plain ? {} : { appProtocol }),
      })),
      internalTrafficPolicy: merged.internalTrafficPolicy ?? 'Cluster',
      ...(merged.trafficDistribution === undefined || plain
        ? {}
        : { trafficDistribution: merged.trafficDistribution }),
      ...(isHeadless ? {} : affinity(merged)),
    },
  };
}

function affinity({ sessionAffinity, affinitySeconds }: MergedExports): object {
  if (sessionAffinity === 'None' || affinitySeconds === undefined) return { sessionAffinity };
  return {
    sessionAffinity,
    sessionAffinityConfig: { clientIP: { timeoutSeconds: affinitySeconds } },
  };
}

/** Whether a Service of the derived name was made for a multi-cluster service, and not by somebody for other ends. */
export function isDerivedService(service: KubernetesObject, importName: string): boolean {
  return (
    service.owners.some(({ kind, name }) => kind === 'ServiceImport' && name === importName) ||
    service.labels[MCS_SERVICE_NAME_LABEL] === importName
  );
}
