/** The exports of one service by several clusters as one multi-cluster service: the oldest export's word counts. */
import type { ClusterName } from '../../../mesh/wire/ids.ts';
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';
import { affinityTimeout, type Conflict, findConflict } from './conflicts.ts';
import { type IpFamily, mergeFamilies } from './ip-families.ts';
import { type ImportedPort, mergePorts } from './merge-ports.ts';
import { usableAnnotations, usableLabels } from './object-names.ts';

/** Kubernetes' bounds of a client's affinity, in seconds. */
const MAX_AFFINITY_SECONDS = 86_400;

/** A multi-cluster service, as all clusters that export it make it. */
export interface MergedExports {
  readonly type: ServiceExport['type'];
  readonly ports: readonly ImportedPort[];
  readonly sessionAffinity: ServiceExport['sessionAffinity'];
  /** Undefined: Kubernetes' default. */
  readonly affinitySeconds: number | undefined;
  readonly internalTrafficPolicy: ServiceExport['internalTrafficPolicy'];
  readonly trafficDistribution: ServiceExport['trafficDistribution'];
  /** Undefined: no cluster says any. */
  readonly ipFamilies: readonly IpFamily[] | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Clusters that export it, by name. */
  readonly clusters: readonly ClusterName[];
  readonly conflict: Conflict | undefined;
  /** What had to be left out though nobody disagrees: Kubernetes would refuse it. For people. */
  readonly refused: readonly string[];
}

/** Oldest first; of two as old the one whose cluster's name comes first. The same everywhere, so all clusters decide alike. */
export function byAge(a: ServiceExport, b: ServiceExport): number {
  return a.exportedAt - b.exportedAt || (a.cluster < b.cluster ? -1 : 1);
}

/** Merges the exports of one service, in any order, one for each cluster. Undefined when there are none. */
export function mergeExports(exports: readonly ServiceExport[]): MergedExports | undefined {
  const ordered = [...exports].sort(byAge);
  const [oldest] = ordered;
  if (oldest === undefined) return undefined;
  const ports = mergePorts(ordered);
  const families = mergeFamilies(ordered);
  const labels = usableLabels(oldest.labels ?? {});
  const annotations = usableAnnotations(oldest.annotations ?? {});
  return {
    type: oldest.type,
    ports: ports.ports,
    sessionAffinity: oldest.sessionAffinity,
    affinitySeconds: usableSeconds(affinityTimeout(oldest)),
    internalTrafficPolicy: oldest.internalTrafficPolicy,
    trafficDistribution: oldest.trafficDistribution,
    ipFamilies: families.families,
    labels: labels.entries,
    annotations: annotations.entries,
    clusters: ordered.map(({ cluster }) => cluster).sort(),
    conflict: findConflict(ordered, { ports, families }),
    refused: [
      ...labels.refused.map((key) => `label ${JSON.stringify(key)} of ${oldest.cluster}`),
      ...annotations.refused.map((key) => `annotation ${JSON.stringify(key)} of ${oldest.cluster}`),
      ...(exports.length === 1 ? ports.notes : []),
    ],
  };
}

function usableSeconds(seconds: number | undefined): number | undefined {
  return seconds !== undefined && seconds >= 1 && seconds <= MAX_AFFINITY_SECONDS
    ? seconds
    : undefined;
}
