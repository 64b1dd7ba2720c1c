/** The annotations of a Service that make it global (`pkg/annotation` in Cilium), with their older names. */
import { SERVICE_AFFINITIES, type ServiceAffinity } from '../../mesh/wire/local-service.ts';

/** What a Service's annotations say; `warnings` are for the one who wrote them. */
export interface GlobalServiceSettings {
  readonly global: boolean;
  readonly shared: boolean;
  readonly affinity: ServiceAffinity;
  readonly warnings: readonly string[];
}

type Annotations = Readonly<Record<string, string>>;

const NAMES = {
  global: ['service.cilium.io/global', 'io.cilium/global-service'],
  shared: ['service.cilium.io/shared', 'io.cilium/shared-service'],
  affinity: ['service.cilium.io/affinity', 'io.cilium/service-affinity'],
} as const;

/** Reads the annotations. `shared` and `affinity` count only for a global service; an unknown affinity is `none`. */
export function readGlobalServiceSettings(annotations: Annotations): GlobalServiceSettings {
  const warnings: string[] = [];
  const global = readBoolean(annotations, NAMES.global, { otherwise: false, warnings });
  if (!global) return { global, shared: false, affinity: 'none', warnings };
  const shared = readBoolean(annotations, NAMES.shared, { otherwise: true, warnings });
  return { global, shared, affinity: readAffinity(annotations, warnings), warnings };
}

function readBoolean(
  annotations: Annotations,
  names: readonly string[],
  options: { otherwise: boolean; warnings: string[] },
): boolean {
  const found = lookUp(annotations, names);
  if (found === undefined) return options.otherwise;
  const text = found.value.toLowerCase();
  if (text !== 'true' && text !== 'false') {
    options.warnings.push(
      `annotation ${found.name}: ${JSON.stringify(found.value)} counts as false, expected true or false`,
    );
  }
  return text === 'true';
}

function readAffinity(annotations: Annotations, warnings: string[]): ServiceAffinity {
  const found = lookUp(annotations, NAMES.affinity);
  if (found === undefined || found.value === '') return 'none';
  const affinity = SERVICE_AFFINITIES.find((candidate) => candidate === found.value.toLowerCase());
  if (affinity === undefined) {
    warnings.push(
      `annotation ${found.name}: ${JSON.stringify(found.value)} counts as none, expected none, local or remote`,
    );
  }
  return affinity ?? 'none';
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
