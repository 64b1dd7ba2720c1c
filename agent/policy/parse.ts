import type { ClusterName } from '../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import { parseCiliumSpec, subjectOf } from './cilium-policy.ts';
import { parseNetworkPolicySpec } from './network-policy.ts';
import { PolicyError } from './policy-error.ts';
import type { ParsedPolicy, PolicyClause, PolicyProblem } from './rule.ts';
import { listAt, recordAt } from './selector.ts';

/** What a selector leaves unsaid is taken from here. */
export interface ParseContext {
  readonly clusterName: ClusterName;
  /** Namespace of the policy, empty for a clusterwide one. */
  readonly namespace: string;
  /** A selector of peers that does not ask for a cluster means this one (Cilium >= 1.19: true). */
  readonly defaultLocalCluster: boolean;
}

/**
 * Parses a policy as its user wrote it. Never throws: what cannot be read or is not supported is listed in `problems`,
 * and never opens anything. A policy that cannot be read at all selects every pod of its namespace and allows nothing.
 */
export function parsePolicy(
  policy: LocalPolicy,
  options: { clusterName: ClusterName; defaultLocalCluster: boolean },
): ParsedPolicy {
  const clauses: PolicyClause[] = [];
  const problems: PolicyProblem[] = [];
  const context: ParseContext = {
    clusterName: options.clusterName,
    namespace: policy.kind === 'CiliumClusterwideNetworkPolicy' ? '' : policy.namespace,
    defaultLocalCluster: options.defaultLocalCluster,
  };
  for (const { path, value } of specsOf(policy, problems)) {
    try {
      const spec = recordAt(value, path);
      if (isAboutNodes(spec)) {
        problems.push({
          path: `${path}.nodeSelector`,
          message: `${path}.nodeSelector is not supported by this version: the policy is about nodes and has no effect`,
        });
        continue;
      }
      const parsed =
        policy.kind === 'NetworkPolicy'
          ? parseNetworkPolicySpec(spec, context)
          : parseCiliumSpec(spec, { ...context, path });
      clauses.push(parsed.clause);
      problems.push(...parsed.problems);
    } catch (error) {
      if (!(error instanceof PolicyError)) throw error;
      const whom = context.namespace === '' ? 'every pod' : `every pod of ${context.namespace}`;
      problems.push({
        path: error.path,
        message: `${error.message}: until it is corrected nothing may reach ${whom}`,
      });
      clauses.push(isolateAll(context.namespace));
    }
  }
  return {
    kind: policy.kind,
    namespace: context.namespace,
    name: policy.name,
    generation: policy.generation,
    clauses,
    problems,
  };
}

/** `spec`, and in Cilium's kinds `specs` as well. */
function specsOf(
  policy: LocalPolicy,
  problems: PolicyProblem[],
): { path: string; value: unknown }[] {
  const whole = { path: 'spec', value: undefined };
  try {
    const manifest = recordAt(policy.manifest, 'the manifest');
    const specs = policy.kind === 'NetworkPolicy' ? [] : listAt(manifest.specs, 'specs');
    const found = specs.map((value, index) => ({ path: `specs[${index}]`, value }));
    const { spec } = manifest;
    return spec === undefined && found.length > 0
      ? found
      : [{ path: 'spec', value: spec }, ...found];
  } catch (error) {
    if (!(error instanceof PolicyError)) throw error;
    problems.push({ path: error.path, message: error.message });
    return [whole];
  }
}

/** A host policy (a CiliumClusterwideNetworkPolicy may select nodes instead of pods). */
function isAboutNodes(spec: Readonly<Record<string, unknown>>): boolean {
  return (
    spec.nodeSelector !== undefined &&
    spec.nodeSelector !== null &&
    (spec.endpointSelector === undefined || spec.endpointSelector === null)
  );
}

function isolateAll(namespace: string): PolicyClause {
  return {
    subject: subjectOf([], namespace),
    ingressEnforced: true,
    egressEnforced: false,
    isolates: true,
    rules: [],
  };
}
