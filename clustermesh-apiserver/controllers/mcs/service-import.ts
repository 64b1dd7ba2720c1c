/** The ServiceImport of a multi-cluster service. */
import type { DesiredObject } from '../applied-fields.ts';
import type { Condition, StoredCondition } from './condition.ts';
import { derivedServiceName } from './derived-name.ts';
import { familyOfAddress, type IpFamily } from './ip-families.ts';
import {
  DERIVED_SERVICE_ANNOTATION,
  SUPPORTED_IP_FAMILIES_ANNOTATION,
  SYNC_SLICES_ANNOTATION,
} from './mcs-names.ts';
import type { McsService } from './mcs-objects.ts';
import type { ServedApi } from './mcs-schema.ts';
import type { MergedExports } from './merge-exports.ts';

/** What a ServiceImport is made of. */
export interface ImportInput {
  readonly namespace: string;
  readonly name: string;
  readonly merged: MergedExports;
  /** Families that are usable here, in the order of the exports. */
  readonly families: readonly IpFamily[];
  /** The derived Service, once it is there and of the right kind. */
  readonly derived: McsService | undefined;
  /** Version of the API and the fields it has: what it does not have is left out. */
  readonly served: ServedApi;
}

/** The ServiceImport without its status, to be applied. */
export function desiredImport(input: ImportInput): DesiredObject {
  const { namespace, name, merged, families, derived, served } = input;
  const ips = clusterSetIps(input);
  const usedFamilies = families.length > 0 ? families : (merged.ipFamilies ?? []);
  const spec: Readonly<Record<string, unknown>> = {
    type: merged.type,
    ports: merged.ports.map(({ name: portName, protocol, port, appProtocol }) => ({
      ...(portName === '' ? {} : { name: portName }),
      protocol,
      port,
      ...(appProtocol === undefined ? {} : { appProtocol }),
    })),
    sessionAffinity: merged.sessionAffinity,
    ...(ips.length === 0 ? {} : { ips }),
    ...(usedFamilies.length === 0 ? {} : { ipFamilies: usedFamilies }),
    ...(merged.affinitySeconds === undefined
      ? {}
      : { sessionAffinityConfig: { clientIP: { timeoutSeconds: merged.affinitySeconds } } }),
    ...(merged.internalTrafficPolicy === undefined
      ? {}
      : { internalTrafficPolicy: merged.internalTrafficPolicy }),
    ...(merged.trafficDistribution === undefined
      ? {}
      : { trafficDistribution: merged.trafficDistribution }),
  };
  return {
    metadata: {
      name,
      namespace,
      labels: merged.labels,
      annotations: {
        ...merged.annotations,
        [SUPPORTED_IP_FAMILIES_ANNOTATION]: families.join(','),
        ...(derived === undefined
          ? {}
          : { [DERIVED_SERVICE_ANNOTATION]: derivedServiceName(namespace, name) }),
      },
    },
    spec: Object.fromEntries(
      Object.entries(spec).filter(([field]) => served.importSpecFields.has(field)),
    ),
  };
}

/** Addresses of the service here: one for each usable family, in their order; none for a headless one. */
export function clusterSetIps({
  merged,
  families,
  derived,
}: Pick<ImportInput, 'merged' | 'families' | 'derived'>): readonly string[] {
  if (merged.type === 'Headless' || derived === undefined) return [];
  return families.flatMap((family) =>
    derived.service.clusterIps.filter((address) => familyOfAddress(address) === family).slice(0, 1),
  );
}

/** Whether peers' backends are written as EndpointSlices of this service. */
export function syncsSlices(merged: MergedExports, syncSlices: boolean): boolean {
  const said = merged.annotations[SYNC_SLICES_ANNOTATION];
  if (said !== undefined) return said.toLowerCase() === 'true';
  return merged.type === 'Headless' || syncSlices;
}

/** How an import stands. */
export type ImportVerdict =
  | { readonly kind: 'ready' }
  /** The derived Service is not there yet. */
  | { readonly kind: 'pending' }
  | { readonly kind: 'namespace-not-global' }
  /** No family of the exports is usable here. */
  | { readonly kind: 'no-family'; readonly exported: readonly IpFamily[] }
  /** A Service of the derived name is somebody else's. */
  | { readonly kind: 'name-taken'; readonly service: string }
  /** The API server refuses the derived Service. */
  | { readonly kind: 'refused'; readonly message: string };

/** Conditions of an import: `Ready`. */
export function importConditions(verdict: ImportVerdict): readonly Condition[] {
  switch (verdict.kind) {
    case 'ready':
      return [
        { type: 'Ready', status: 'True', reason: 'Ready', message: 'the service can be used' },
      ];
    case 'pending':
      return notReady('Pending', 'waiting for the derived Service and its address');
    case 'namespace-not-global':
      return notReady(
        'NamespaceNotGlobal',
        'the namespace is not global: annotation clustermesh.cilium.io/global decides',
      );
    case 'no-family':
      return notReady(
        'IPFamilyNotSupported',
        `this cluster has none of the exported address families ${verdict.exported.join(', ')}`,
      );
    case 'name-taken':
      return notReady(
        'DerivedServiceNameTaken',
        `Service ${verdict.service} belongs to somebody else: delete or rename it`,
      );
    case 'refused':
      return notReady('DerivedServiceRefused', verdict.message);
    default:
      verdict satisfies never;
      return [];
  }
}

/** The status of an import, to be stored. */
export function desiredImportStatus(
  merged: MergedExports,
  options: {
    readonly conditions: readonly StoredCondition[];
    readonly sliceObjects: boolean;
    readonly served: ServedApi;
  },
): Readonly<Record<string, unknown>> {
  const { conditions, sliceObjects, served } = options;
  const status: Readonly<Record<string, unknown>> = {
    clusters: merged.clusters.map((cluster) => ({ cluster })),
    conditions,
    endpointSliceObjects: sliceObjects ? 'Present' : 'Absent',
  };
  return Object.fromEntries(
    Object.entries(status).filter(([field]) => served.importStatusFields.has(field)),
  );
}

function notReady(reason: string, message: string): readonly Condition[] {
  return [{ type: 'Ready', status: 'False', reason, message }];
}
