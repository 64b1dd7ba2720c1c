import {
  CLUSTER_LABEL,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
} from '../../mesh/wire/identity.ts';
import type { ParseContext } from './parse.ts';
import { PolicyError } from './policy-error.ts';
import { parsePort } from './ports.ts';
import {
  ANY_PORT,
  type PeerMatch,
  type PolicyClause,
  type PolicyProblem,
  type Rule,
} from './rule.ts';
import {
  asksFor,
  listAt,
  parseSelector,
  recordAt,
  requireLabel,
  requirePresence,
  type Selector,
} from './selector.ts';

const SPEC_FIELDS = new Set(['podSelector', 'policyTypes', 'ingress', 'egress']);
const RULE_FIELDS = new Set(['from', 'ports']);
const PEER_FIELDS = new Set(['podSelector', 'namespaceSelector']);

/**
 * Parses the spec of a `networking.k8s.io/v1` NetworkPolicy. A rule that cannot be enforced allows nothing and becomes
 * a problem; throws PolicyError only where the whole spec is beyond repair.
 */
export function parseNetworkPolicySpec(
  spec: Readonly<Record<string, unknown>>,
  context: ParseContext,
): { clause: PolicyClause; problems: PolicyProblem[] } {
  const problems: PolicyProblem[] = [];
  const subject = [
    ...parseSelector(spec.podSelector ?? {}, { path: 'spec.podSelector', sourced: false }),
    requireLabel('k8s', NAMESPACE_LABEL, context.namespace),
  ];
  let isolates = false;
  for (const field of Object.keys(spec)) {
    if (SPEC_FIELDS.has(field)) continue;
    isolates = true;
    problems.push({
      path: `spec.${field}`,
      message: `spec.${field} is not supported by this version: nothing may reach the pods selected`,
    });
  }
  const types = listAt(spec.policyTypes, 'spec.policyTypes');
  const egress = listAt(spec.egress, 'spec.egress');
  const ingressEnforced = types.length === 0 || types.includes('Ingress');
  const egressEnforced = types.includes('Egress') || (types.length === 0 && egress.length > 0);
  const rules: Rule[] = [];
  if (ingressEnforced) {
    listAt(spec.ingress, 'spec.ingress').forEach((rule, index) => {
      try {
        rules.push(parseRule(rule, `spec.ingress[${index}]`, context));
      } catch (error) {
        if (!(error instanceof PolicyError)) throw error;
        problems.push({ path: error.path, message: `${error.message}: the rule allows nothing` });
      }
    });
  }
  if (egressEnforced) problems.push(egressProblem('spec'));
  return { clause: { subject, ingressEnforced, egressEnforced, isolates, rules }, problems };
}

/** What a policy with egress rules is told. */
export function egressProblem(path: string): PolicyProblem {
  return {
    path: `${path}.egress`,
    message: `${path}.egress is not supported by this version: nothing may leave the pods selected, take egress out of the policy to lift that`,
  };
}

function parseRule(value: unknown, path: string, context: ParseContext): Rule {
  const object = recordAt(value ?? {}, path);
  refuseOthers(object, RULE_FIELDS, path);
  const from = listAt(object.from, `${path}.from`);
  const ports = listAt(object.ports, `${path}.ports`);
  return {
    peers:
      from.length === 0
        ? [{ kind: 'any' }]
        : from.map((peer, index) => parsePeer(peer, `${path}.from[${index}]`, context)),
    ports:
      ports.length === 0
        ? [ANY_PORT]
        : ports.flatMap((port, index) =>
            parsePort(port, { path: `${path}.ports[${index}]`, defaultProtocol: 'TCP' }),
          ),
  };
}

function parsePeer(value: unknown, path: string, context: ParseContext): PeerMatch {
  const object = recordAt(value, path);
  refuseOthers(object, PEER_FIELDS, path);
  const { podSelector, namespaceSelector } = object;
  if (podSelector === undefined && namespaceSelector === undefined) {
    throw new PolicyError('invalid', path, 'must have a podSelector or a namespaceSelector');
  }
  const pods = parseSelector(podSelector ?? {}, { path: `${path}.podSelector`, sourced: false });
  return {
    kind: 'selector',
    selector: [...pods, ...namespaces(namespaceSelector, path, context), ...cluster(pods, context)],
  };
}

function namespaces(value: unknown, path: string, context: ParseContext): Selector {
  if (value === undefined || value === null) {
    return [requireLabel('k8s', NAMESPACE_LABEL, context.namespace)];
  }
  const selector = parseSelector(value, {
    path: `${path}.namespaceSelector`,
    sourced: false,
    keyPrefix: NAMESPACE_LABELS_PREFIX,
  });
  // An empty one means every namespace: whatever is in one.
  return [...selector, requirePresence('k8s', NAMESPACE_LABEL)];
}

function cluster(pods: Selector, context: ParseContext): Selector {
  if (!context.defaultLocalCluster || asksFor(pods, CLUSTER_LABEL, 'k8s')) return [];
  return [requireLabel('k8s', CLUSTER_LABEL, context.clusterName)];
}

function refuseOthers(
  object: Readonly<Record<string, unknown>>,
  known: ReadonlySet<string>,
  path: string,
): void {
  for (const [field, value] of Object.entries(object)) {
    if (known.has(field) || value === null) continue;
    throw new PolicyError('unsupported', `${path}.${field}`, 'is not supported by this version');
  }
}
