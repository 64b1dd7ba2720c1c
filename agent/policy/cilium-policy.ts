import {
  CLUSTER_LABEL,
  NAMESPACE_LABEL,
  NAMESPACE_LABELS_PREFIX,
} from '../../mesh/wire/identity.ts';
import { egressProblem } from './network-policy.ts';
import type { ParseContext } from './parse.ts';
import { PolicyError } from './policy-error.ts';
import { parsePort } from './ports.ts';
import {
  ANY_PORT,
  entityPeers,
  type PeerMatch,
  type PolicyClause,
  type PolicyProblem,
  type PortMatch,
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

const SPEC_FIELDS = new Set([
  'endpointSelector',
  'ingress',
  'ingressDeny',
  'egress',
  'egressDeny',
  'enableDefaultDeny',
  'labels',
  'description',
]);
const RULE_FIELDS = new Set(['fromEndpoints', 'fromEntities', 'toPorts']);

/**
 * Parses one spec of a CiliumNetworkPolicy or, with an empty namespace, CiliumClusterwideNetworkPolicy (Cilium
 * `pkg/policy/api/rule.go`, `pkg/k8s/apis/cilium.io/utils`). A rule that cannot be enforced allows nothing and becomes
 * a problem; throws PolicyError only where the whole spec is beyond repair.
 */
export function parseCiliumSpec(
  spec: Readonly<Record<string, unknown>>,
  context: ParseContext & { readonly path: string },
): { clause: PolicyClause; problems: PolicyProblem[] } {
  const { path } = context;
  const problems: PolicyProblem[] = [];
  const selector = parseSelector(spec.endpointSelector, {
    path: `${path}.endpointSelector`,
    sourced: true,
  });
  const defaults = defaultDeny(spec.enableDefaultDeny, path);
  const isolating = isolatingFields(spec, path);
  problems.push(...isolating);

  const ingress = listAt(spec.ingress, `${path}.ingress`);
  const egress = listAt(spec.egress, `${path}.egress`);
  const egressDeny = listAt(spec.egressDeny, `${path}.egressDeny`);
  const hasEgress = egress.length > 0 || egressDeny.length > 0;
  if (hasEgress) problems.push(egressProblem(path));
  if (ingress.length === 0 && !hasEgress && isolating.length === 0) {
    throw new PolicyError('invalid', path, 'must have ingress or egress rules');
  }
  const rules: Rule[] = [];
  ingress.forEach((rule, index) => {
    try {
      rules.push(parseRule(rule, `${path}.ingress[${index}]`, context));
    } catch (error) {
      if (!(error instanceof PolicyError)) throw error;
      problems.push({ path: error.path, message: `${error.message}: the rule allows nothing` });
    }
  });
  const clause: PolicyClause = {
    subject: subjectOf(selector, context.namespace),
    ingressEnforced: ingress.length > 0 && defaults.ingress,
    egressEnforced: hasEgress && (defaults.egress || egressDeny.length > 0),
    isolates: isolating.length > 0,
    rules,
  };
  return { clause, problems };
}

/** Pods selected: of the policy's namespace, or of every one. Without a namespace label nothing is a pod. */
export function subjectOf(selector: Selector, namespace: string): Selector {
  return namespace === ''
    ? [...selector, requirePresence('k8s', NAMESPACE_LABEL)]
    : [...selector, requireLabel('k8s', NAMESPACE_LABEL, namespace)];
}

/** Parts that would narrow what is allowed, and cannot be enforced. */
function isolatingFields(spec: Readonly<Record<string, unknown>>, path: string): PolicyProblem[] {
  const problems: PolicyProblem[] = [];
  for (const [field, value] of Object.entries(spec)) {
    if (value === null || (Array.isArray(value) && value.length === 0)) continue;
    if (SPEC_FIELDS.has(field) && field !== 'ingressDeny') continue;
    problems.push({
      path: `${path}.${field}`,
      message: `${path}.${field} is not supported by this version: nothing may reach the pods selected`,
    });
  }
  return problems;
}

function defaultDeny(value: unknown, path: string): { ingress: boolean; egress: boolean } {
  if (value === undefined || value === null) return { ingress: true, egress: true };
  const object = recordAt(value, `${path}.enableDefaultDeny`);
  return { ingress: object.ingress !== false, egress: object.egress !== false };
}

function parseRule(value: unknown, path: string, context: ParseContext): Rule {
  const object = recordAt(value ?? {}, path);
  for (const [field, part] of Object.entries(object)) {
    if (RULE_FIELDS.has(field) || part === null) continue;
    throw new PolicyError('unsupported', `${path}.${field}`, 'is not supported by this version');
  }
  const { fromEndpoints, fromEntities, toPorts } = object;
  const ports = parsePorts(toPorts, `${path}.toPorts`);
  if (isAbsent(fromEndpoints) && isAbsent(fromEntities)) {
    // Without a from, ports are open to everybody; a wholly empty rule only turns enforcement on.
    const open = listAt(toPorts, `${path}.toPorts`).length > 0;
    return { peers: open ? [{ kind: 'any' }] : [], ports };
  }
  const peers: PeerMatch[] = [];
  listAt(fromEndpoints, `${path}.fromEndpoints`).forEach((item, index) => {
    const selector = parseSelector(item, {
      path: `${path}.fromEndpoints[${index}]`,
      sourced: true,
    });
    peers.push({ kind: 'selector', selector: limitPeer(selector, context) });
  });
  listAt(fromEntities, `${path}.fromEntities`).forEach((item, index) => {
    const local = [requireLabel('k8s', CLUSTER_LABEL, context.clusterName)];
    const found = typeof item === 'string' ? entityPeers(item, local) : undefined;
    if (found === undefined) {
      throw new PolicyError(
        'unsupported',
        `${path}.fromEntities[${index}]`,
        `is ${JSON.stringify(item)}, which is not supported by this version`,
      );
    }
    peers.push(...found);
  });
  return { peers, ports };
}

/** Adds what a selector of peers leaves unsaid: the namespace, and the own cluster. Not to reserved identities. */
function limitPeer(selector: Selector, context: ParseContext): Selector {
  if (selector.some(({ source }) => source === 'reserved')) return selector;
  const limited = [...selector];
  const namesNamespace =
    asksFor(selector, NAMESPACE_LABEL, 'k8s') ||
    selector.some(({ key }) => key.startsWith(NAMESPACE_LABELS_PREFIX));
  if (!asksFor(selector, NAMESPACE_LABEL, 'k8s')) {
    limited.push(
      context.namespace === '' || namesNamespace
        ? requirePresence('k8s', NAMESPACE_LABEL)
        : requireLabel('k8s', NAMESPACE_LABEL, context.namespace),
    );
  }
  if (context.defaultLocalCluster && !asksFor(selector, CLUSTER_LABEL, 'k8s')) {
    limited.push(requireLabel('k8s', CLUSTER_LABEL, context.clusterName));
  }
  return limited;
}

function parsePorts(value: unknown, path: string): PortMatch[] {
  const list = listAt(value, path);
  if (list.length === 0) return [ANY_PORT];
  return list.flatMap((item, index) => {
    const object = recordAt(item, `${path}[${index}]`);
    for (const [field, part] of Object.entries(object)) {
      if (field === 'ports' || part === null) continue;
      throw new PolicyError(
        'unsupported',
        `${path}[${index}].${field}`,
        'is not supported by this version',
      );
    }
    return listAt(object.ports, `${path}[${index}].ports`).flatMap((port, number) =>
      parsePort(port, { path: `${path}[${index}].ports[${number}]`, defaultProtocol: 'ANY' }),
    );
  });
}

/** To Cilium an empty list of sources is not the same as none: nobody, instead of everybody. */
function isAbsent(value: unknown): boolean {
  return value === undefined || value === null;
}
