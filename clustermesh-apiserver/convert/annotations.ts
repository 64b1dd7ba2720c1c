/** The annotations of a Service that make it global, and of a Namespace (`pkg/annotation` in Cilium), with their older names. */
import {
  LB_ALGORITHMS,
  type LbAlgorithm,
  SERVICE_AFFINITIES,
  type ServiceAffinity,
} from '../../mesh/wire/local-service.ts';
import type { AnnotationWarning } from './annotation-warning.ts';
import {
  HEALTH_CHECK_ANNOTATION,
  type HealthCheckSetting,
  parseHealthCheck,
} from './health-check.ts';
import { findMeantName } from './near-names.ts';

/** A warning before it is known which object it is about. */
export type ValueWarning = Omit<AnnotationWarning, 'object'>;

/** What a Service's annotations say; `warnings` are for the one who wrote them. */
export interface GlobalServiceSettings {
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: ServiceAffinity;
  /** Whether other clusters' backends are written into this cluster as EndpointSlices. */
  readonly syncEndpointSlices: boolean;
  /** How backends are picked, global or not; undefined: as the agent does by default. */
  readonly algorithm: LbAlgorithm | undefined;
  /** How its machines are checked, global or not. */
  readonly healthCheck: HealthCheckSetting;
  readonly warnings: readonly ValueWarning[];
}

type Annotations = Readonly<Record<string, string>>;

const NAMES = {
  global: ['service.cilium.io/global', 'io.cilium/global-service'],
  shared: ['service.cilium.io/shared', 'io.cilium/shared-service'],
  affinity: ['service.cilium.io/affinity', 'io.cilium/service-affinity'],
  syncEndpointSlices: ['service.cilium.io/global-sync-endpoint-slices'],
  algorithm: ['service.cilium.io/lb-algorithm'],
  healthCheck: [HEALTH_CHECK_ANNOTATION],
} as const;
const GLOBAL_NAMESPACE = ['clustermesh.cilium.io/global'] as const;
const SERVICE_NAMES: readonly string[] = Object.values(NAMES).flat();

/**
 * Reads the annotations of a Service. All but the algorithm and the health check count only for a global one. A word that is not known counts as
 * false, and as no affinity: an unknown affinity must not keep traffic from any backend.
 */
export function readGlobalServiceSettings(
  annotations: Annotations,
  service: { readonly headless: boolean } = { headless: false },
): GlobalServiceSettings {
  const warnings = warnOfNames(annotations, SERVICE_NAMES);
  const global = readBoolean(annotations, NAMES.global, { otherwise: false, warnings });
  const algorithm = readAlgorithm(annotations, warnings);
  const healthCheck = readHealthCheck(annotations, warnings);
  if (!global) {
    return {
      global,
      shared: false,
      affinity: 'none',
      syncEndpointSlices: false,
      algorithm,
      healthCheck,
      warnings,
    };
  }
  return {
    global,
    shared: readBoolean(annotations, NAMES.shared, { otherwise: true, warnings }),
    affinity: readAffinity(annotations, warnings),
    syncEndpointSlices: readBoolean(annotations, NAMES.syncEndpointSlices, {
      otherwise: service.headless,
      warnings,
    }),
    algorithm,
    healthCheck,
    warnings,
  };
}

/**
 * Whether a Namespace is known to the mesh, by its annotation or else by default. A word that is not known counts as the
 * default, so that a slip withdraws nothing from peers; with `asCilium` it counts as false.
 */
export function readGlobalNamespace(
  annotations: Annotations,
  otherwise: boolean,
  options: { readonly asCilium: boolean } = { asCilium: false },
): { readonly global: boolean; readonly warnings: readonly ValueWarning[] } {
  const warnings = warnOfNames(annotations, GLOBAL_NAMESPACE);
  const unknown = options.asCilium ? false : otherwise;
  const global = readBoolean(annotations, GLOBAL_NAMESPACE, { otherwise, unknown, warnings });
  return { global, warnings };
}

/** What is called almost like one of `names` counts for nothing, and nobody would notice. */
function warnOfNames(annotations: Annotations, names: readonly string[]): ValueWarning[] {
  const warnings: ValueWarning[] = [];
  for (const [annotation, value] of Object.entries(annotations)) {
    const meant = findMeantName(annotation, names);
    if (meant === undefined) continue;
    const expected = `the name ${meant}`;
    const reason = 'UnknownAnnotationName';
    warnings.push({ reason, annotation, value, countsAs: 'nothing', expected });
  }
  return warnings;
}

function readBoolean(
  annotations: Annotations,
  names: readonly string[],
  options: { otherwise: boolean; unknown?: boolean; warnings: ValueWarning[] },
): boolean {
  const found = lookUp(annotations, names);
  if (found === undefined) return options.otherwise;
  const { name: annotation, value } = found;
  const text = value.toLowerCase();
  if (text === 'true' || text === 'false') return text === 'true';
  const { unknown = false, warnings } = options;
  warnings.push({
    reason: 'UnknownAnnotationValue',
    annotation,
    value,
    countsAs: String(unknown),
    expected: 'true or false',
  });
  return unknown;
}

function readAffinity(annotations: Annotations, warnings: ValueWarning[]): ServiceAffinity {
  const found = lookUp(annotations, NAMES.affinity);
  if (found === undefined || found.value === '') return 'none';
  const affinity = SERVICE_AFFINITIES.find((candidate) => candidate === found.value.toLowerCase());
  if (affinity === undefined) {
    const { name: annotation, value } = found;
    warnings.push({
      reason: 'UnknownAnnotationValue',
      annotation,
      value,
      countsAs: 'none',
      expected: 'none, local or remote',
    });
  }
  return affinity ?? 'none';
}

function readAlgorithm(
  annotations: Annotations,
  warnings: ValueWarning[],
): LbAlgorithm | undefined {
  const found = lookUp(annotations, NAMES.algorithm);
  if (found === undefined || found.value === '') return undefined;
  const { name: annotation, value } = found;
  const algorithm = LB_ALGORITHMS.find((candidate) => candidate === value.toLowerCase());
  if (algorithm === undefined) {
    warnings.push({
      reason: 'UnknownAnnotationValue',
      annotation,
      value,
      countsAs: "the agents' default",
      expected: LB_ALGORITHMS.join(' or '),
    });
  }
  return algorithm;
}

/** A slip must not let traffic go where nothing was checked: so it counts as if nothing was said. */
function readHealthCheck(annotations: Annotations, warnings: ValueWarning[]): HealthCheckSetting {
  const found = lookUp(annotations, NAMES.healthCheck);
  if (found === undefined || found.value === '') return { kind: 'target' };
  const { name: annotation, value } = found;
  const setting = parseHealthCheck(value);
  if (setting === undefined) {
    warnings.push({
      reason: 'UnknownAnnotationValue',
      annotation,
      value,
      countsAs: 'tcp',
      expected: 'tcp, tcp:<port> or http:<port>/<path>',
    });
  }
  return setting ?? { kind: 'target' };
}

/** The new name first, then the old one. */
function lookUp(
  annotations: Annotations,
  names: readonly string[],
): { name: string; value: string } | undefined {
  for (const name of names) {
    const value = annotations[name];
    if (value !== undefined) return { name, value };
  }
  return undefined;
}
