import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { limitSubject } from './cilium-selectors.ts';
import { parseCiliumSpec } from './cilium-spec.ts';
import { isAbsent, listAt, recordAt } from './manifest-field.ts';
import { parseNetworkPolicySpec } from './network-policy.ts';
import type { ParseContext } from './parse-context.ts';
import type { ParsedPolicy, PolicyClause } from './rule.ts';
import { isolatedClause, type ParsedClause } from './rule-gather.ts';

/** More specs in one policy would only be an attempt to exhaust memory. */
const MAX_SPECS = 1_000;

/**
 * Parses a policy as its user wrote it. Never throws: what cannot be read or is not supported is listed in `problems`,
 * and never opens anything. A policy that cannot be read at all selects every pod of its namespace and allows nothing. A
 * CiliumCIDRGroup has no rules: `parseCidrGroup` reads it.
 */
export function parsePolicy(
  policy: LocalPolicy,
  options: { clusterName: ClusterName; defaultLocalCluster: boolean },
): ParsedPolicy {
  const { kind, name, generation } = policy;
  const context: ParseContext = {
    clusterName: options.clusterName,
    namespace: namespaceOf(policy),
    defaultLocalCluster: options.defaultLocalCluster,
  };
  const parsed = kind === 'CiliumCIDRGroup' ? [] : parseSpecs(policy, context);
  return {
    kind,
    namespace: context.namespace,
    name,
    generation,
    clauses: parsed.map(({ clause }) => clause),
    problems: parsed.flatMap(({ problems }) => problems),
  };
}

/** Without one an object is in `default`, as everywhere in Kubernetes; it must not become clusterwide by that. */
function namespaceOf({ kind, namespace }: LocalPolicy): string {
  const isNamespaced = kind === 'NetworkPolicy' || kind === 'CiliumNetworkPolicy';
  return isNamespaced ? namespace || 'default' : '';
}

function parseSpecs(policy: LocalPolicy, context: ParseContext): ParsedClause[] {
  try {
    return specsOf(policy).map(({ path, value }) => parseSpec(policy, { ...context, path }, value));
  } catch (error) {
    return [isolatedClause(widestSubject(undefined, context), error, [])];
  }
}

/** `spec`, and in Cilium's kinds `specs` as well. */
function specsOf(policy: LocalPolicy): { path: string; value: unknown }[] {
  const manifest = recordAt(policy.manifest, 'the manifest');
  const specs = policy.kind === 'NetworkPolicy' ? [] : listAt(manifest.specs, 'specs', MAX_SPECS);
  const found = specs.map((value, index) => ({ path: `specs[${index}]`, value }));
  const { spec } = manifest;
  return isAbsent(spec) && found.length > 0 ? found : [{ path: 'spec', value: spec }, ...found];
}

function parseSpec(
  policy: LocalPolicy,
  context: ParseContext & { readonly path: string },
  value: unknown,
): ParsedClause {
  try {
    const spec = recordAt(value, context.path);
    return policy.kind === 'NetworkPolicy'
      ? parseNetworkPolicySpec(spec, context)
      : parseCiliumSpec(spec, context);
  } catch (error) {
    return isolatedClause(widestSubject(value, context), error, []);
  }
}

/** Everybody whom a spec may be about that does not say it readably. */
function widestSubject(value: unknown, { namespace }: ParseContext): PolicyClause['subject'] {
  return namespace === '' && isAboutNodes(value)
    ? { kind: 'nodes', selector: [] }
    : { kind: 'pods', selector: limitSubject([], namespace) };
}

function isAboutNodes(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return (
    'nodeSelector' in value &&
    !isAbsent(value.nodeSelector) &&
    !('endpointSelector' in value && !isAbsent(value.endpointSelector))
  );
}
