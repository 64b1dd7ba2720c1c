/** What is to be made of one multi-cluster service in this cluster, from what is known of it. Pure. */
import type { ClusterName } from '../../../mesh/wire/ids.ts';
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';
import { convertServiceExport } from '../../convert/service-export.ts';
import type { ExportVerdict } from './export-conditions.ts';
import { type IpFamily, supportedFamilies } from './ip-families.ts';
import { DERIVED_SERVICE_ANNOTATION } from './mcs-names.ts';
import type { ExportObject, ImportObject, McsService } from './mcs-objects.ts';
import { type MergedExports, mergeExports } from './merge-exports.ts';

/** Everything known of one `namespace/name`. */
export interface ServiceFacts {
  readonly cluster: ClusterName;
  readonly isNamespaceGlobal: boolean;
  readonly exported: ExportObject | undefined;
  /** Text: there is one, and this is why it cannot be used. */
  readonly service: McsService | string | undefined;
  /** Exports by peers. */
  readonly remote: ReadonlyMap<ClusterName, ServiceExport>;
  /** Configured peers of which not everything was read yet; undefined: it is not known which peers there are. */
  readonly unread: readonly ClusterName[] | undefined;
  /** The import as it stands. */
  readonly current: ImportObject | undefined;
  /** Families of this cluster. */
  readonly localFamilies: readonly IpFamily[];
}

/** What is to be done with the import and all that hangs on it. */
export type ImportPlan =
  /** Nobody exports it, and there is no import that is ours. */
  | { readonly kind: 'none' }
  /**
   * A cluster that the import names has not been read since this process began: what it exports is not known, so the import stays
   * as it is. A restart must not take away what works.
   */
  | { readonly kind: 'hold'; readonly peers: readonly string[] }
  /** Nobody exports it any more. */
  | { readonly kind: 'delete' }
  | {
      readonly kind: 'apply';
      readonly merged: MergedExports;
      /** Families that are usable here; empty: none is. */
      readonly families: readonly IpFamily[];
      /** Whether there is to be a derived Service. */
      readonly isUsable: boolean;
    };

/** What is to be done. */
export interface ServicePlan {
  /** Of the own export; undefined: there is none. */
  readonly verdict: ExportVerdict | undefined;
  /** Whether this cluster's endpoints are part of the service. */
  readonly isExported: boolean;
  readonly import: ImportPlan;
}

/** Decides. */
export function planService(facts: ServiceFacts): ServicePlan {
  const own = ownExport(facts);
  const exports = [...facts.remote.values(), ...(own.record === undefined ? [] : [own.record])];
  const merged = mergeExports(exports);
  const waitingFor = heldBy(facts);
  const plan = { isExported: own.record !== undefined };
  if (waitingFor.length > 0) {
    return {
      ...plan,
      verdict: own.verdict ?? (own.record && { kind: 'waiting', peers: waitingFor }),
      import: { kind: 'hold', peers: waitingFor },
    };
  }
  return {
    ...plan,
    verdict: own.verdict ?? (own.record && verdictOf(merged, facts.unread)),
    import: importPlan(merged, facts),
  };
}

/** The own record, or why there is none. */
function ownExport({ exported, service, cluster, isNamespaceGlobal }: ServiceFacts): {
  readonly record?: ServiceExport;
  readonly verdict?: ExportVerdict;
} {
  if (exported === undefined || exported.object.isLeaving) return {};
  if (!isNamespaceGlobal) return { verdict: { kind: 'namespace-not-global' } };
  if (typeof service === 'string') return { verdict: { kind: 'unusable', message: service } };
  if (service === undefined || service.object.isLeaving) return { verdict: { kind: 'no-service' } };
  const record = convertServiceExport(exported.exported, service.service, cluster);
  if (record !== undefined) return { record };
  return { verdict: { kind: 'invalid-type', type: service.service.type } };
}

/** Conflicts are known when all peers were read; until then only that there is one already. */
function verdictOf(
  merged: MergedExports | undefined,
  unread: readonly ClusterName[] | undefined,
): ExportVerdict {
  const conflict = merged?.conflict;
  if (conflict === undefined && unread !== undefined && unread.length > 0) {
    return { kind: 'waiting', peers: unread };
  }
  return { kind: 'exported', conflict };
}

/** Clusters that the import names and that were not read yet. */
function heldBy({ cluster, current, unread, remote }: ServiceFacts): readonly string[] {
  if (current === undefined || current.object.isLeaving) return [];
  return current.clusters.filter(
    (name) =>
      name !== cluster &&
      ![...remote.keys()].some((known) => known === name) &&
      (unread === undefined || unread.some((peer) => peer === name)),
  );
}

function importPlan(
  merged: MergedExports | undefined,
  { current, isNamespaceGlobal, localFamilies }: ServiceFacts,
): ImportPlan {
  if (merged === undefined) {
    return current !== undefined && !current.object.isLeaving && isManagedImport(current)
      ? { kind: 'delete' }
      : { kind: 'none' };
  }
  const families = supportedFamilies(merged.ipFamilies, localFamilies);
  return { kind: 'apply', merged, families, isUsable: isNamespaceGlobal && families.length > 0 };
}

/** Whether an import was made by a controller such as this one, and not by somebody for other ends. */
export function isManagedImport({ object, clusters }: ImportObject): boolean {
  return DERIVED_SERVICE_ANNOTATION in object.annotations || clusters.length > 0;
}
