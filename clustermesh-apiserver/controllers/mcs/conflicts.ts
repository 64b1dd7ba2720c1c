/** What the clusters that export one service do not agree on, and whose word counts. */
import type { ServiceExport } from '../../../mesh/wire/service-export.ts';
import type { MergedFamilies } from './ip-families.ts';
import type { MergedPorts } from './merge-ports.ts';

/** Reasons of a `Conflict` condition, the one that counts first. Words of the Multi-Cluster Services API. */
const CONFLICT_REASONS = [
  'PortConflict',
  'IPFamilyConflict',
  'TypeConflict',
  'SessionAffinityConflict',
  'SessionAffinityConfigConflict',
  'AnnotationsConflict',
  'LabelsConflict',
  'InternalTrafficPolicyConflict',
  'TrafficDistributionConflict',
] as const;

/** A disagreement, for the `Conflict` condition of every export of the service. */
export interface Conflict {
  /** The first that applies. */
  readonly reason: (typeof CONFLICT_REASONS)[number];
  /** All that apply, each with how many clusters disagree, the value that is used and whose it is. */
  readonly message: string;
}

/** A field of which the oldest export's value is used. */
interface Field {
  readonly reason: Conflict['reason'];
  readonly name: string;
  /** Text of the value; two clusters agree if their texts are equal. */
  readonly valueOf: (exported: ServiceExport) => string;
}

const FIELDS: readonly Field[] = [
  { reason: 'TypeConflict', name: 'type', valueOf: ({ type }) => type },
  {
    reason: 'SessionAffinityConflict',
    name: 'sessionAffinity',
    valueOf: ({ sessionAffinity }) => sessionAffinity,
  },
  {
    reason: 'SessionAffinityConfigConflict',
    name: 'sessionAffinityConfig.clientIP.timeoutSeconds',
    valueOf: (exported) => String(affinityTimeout(exported) ?? 'none'),
  },
  {
    reason: 'AnnotationsConflict',
    name: 'exported annotations',
    valueOf: ({ annotations }) => mapText(annotations),
  },
  { reason: 'LabelsConflict', name: 'exported labels', valueOf: ({ labels }) => mapText(labels) },
  {
    reason: 'InternalTrafficPolicyConflict',
    name: 'internalTrafficPolicy',
    // Kubernetes' own default, which clusters of older versions do not say.
    valueOf: ({ internalTrafficPolicy }) => internalTrafficPolicy ?? 'Cluster',
  },
  {
    reason: 'TrafficDistributionConflict',
    name: 'trafficDistribution',
    valueOf: ({ trafficDistribution }) => trafficDistribution ?? 'none',
  },
];

const MAX_MESSAGE = 4096;
/** Of a value or a list in a message; a condition is read in a terminal. */
const MAX_VALUE = 200;

/** Seconds for which a client keeps its backend, undefined when none are said. */
export function affinityTimeout(exported: ServiceExport): number | undefined {
  return exported.sessionAffinityConfig?.clientIp?.timeoutSeconds;
}

/** The disagreement among exports given oldest first; undefined when there is none. */
export function findConflict(
  exports: readonly ServiceExport[],
  merged: { readonly ports: MergedPorts; readonly families: MergedFamilies },
): Conflict | undefined {
  const [oldest] = exports;
  if (oldest === undefined || exports.length < 2) return undefined;
  const found: { reason: Conflict['reason']; message: string }[] = [];
  const count = (clusters: number): string => `${clusters} of ${exports.length} clusters disagree`;
  const { ports, families } = merged;
  if (ports.disagreeing.length > 0) {
    const notes = ports.notes.length === 0 ? '' : `; ${cut(ports.notes.join('; '))}`;
    found.push({
      reason: 'PortConflict',
      message: `ports: ${count(ports.disagreeing.length)} (${cut(ports.disagreeing.join(', '))}), the union of all is used, oldest first from cluster ${oldest.cluster}${notes}.`,
    });
  }
  if (families.disagreeing.length > 0) {
    found.push({
      reason: 'IPFamilyConflict',
      message: `ipFamilies: ${count(families.disagreeing.length)} (${cut(families.disagreeing.join(', '))}) and have none in common with the others, ${(families.families ?? []).join(' and ')} used from cluster ${oldest.cluster}.`,
    });
  }
  for (const field of FIELDS) {
    const used = field.valueOf(oldest);
    const others = exports.filter((exported) => field.valueOf(exported) !== used).length;
    if (others === 0) continue;
    found.push({
      reason: field.reason,
      message: `${field.name}: ${count(others)}, ${cut(used)} is used from cluster ${oldest.cluster}, the oldest export.`,
    });
  }
  const [first] = found;
  if (first === undefined) return undefined;
  return {
    reason: first.reason,
    message: cut(found.map(({ message }) => message).join(' '), MAX_MESSAGE),
  };
}

function mapText(map: Readonly<Record<string, string>> | undefined): string {
  return JSON.stringify(
    Object.fromEntries(Object.entries(map ?? {}).sort(([a], [b]) => (a < b ? -1 : 1))),
  );
}

function cut(text: string, most = MAX_VALUE): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}
