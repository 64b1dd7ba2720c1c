/** One spec of a CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy (Cilium's `pkg/policy/api/rule.go`). */
import { NAMESPACE_LABEL } from '../../mesh/wire/identity.ts';
import { parseCiliumRule, type RulePlace } from './cilium-rule.ts';
import { isReserved, limitSubject } from './cilium-selectors.ts';
import { fieldPath, isAbsent, listAt, recordAt, refuseOthers } from './manifest-field.ts';
import type { ParseContext } from './parse-context.ts';
import { PolicyError } from './policy-error.ts';
import type { PolicyClause, PolicyProblem } from './rule.ts';
import { createRuleGather, isolatedClause, type ParsedClause } from './rule-gather.ts';
import { parseSelector, type Selector } from './selector.ts';

const FIELDS = new Set([
  'endpointSelector',
  'nodeSelector',
  'ingress',
  'ingressDeny',
  'egress',
  'egressDeny',
  'enableDefaultDeny',
  'labels',
  'description',
  'log',
]);
const DEFAULT_DENY_FIELDS = new Set(['ingress', 'egress']);
const LISTS = [
  { field: 'ingress', direction: 'ingress', verdict: 'allow' },
  { field: 'ingressDeny', direction: 'ingress', verdict: 'deny' },
  { field: 'egress', direction: 'egress', verdict: 'allow' },
  { field: 'egressDeny', direction: 'egress', verdict: 'deny' },
] as const;

/**
 * Parses one spec. A rule that cannot be enforced becomes a problem: an allow of it allows nothing, a deny of it denies
 * everything in its direction. Throws PolicyError only where it cannot be told whom the spec is about.
 */
export function parseCiliumSpec(
  spec: Readonly<Record<string, unknown>>,
  context: ParseContext & { readonly path: string },
): ParsedClause {
  const { path } = context;
  const problems: PolicyProblem[] = [];
  const subject = parseSubject(spec, context, problems);
  try {
    refuseOthers(spec, FIELDS, path);
    const defaults = parseDefaultDeny(spec.enableDefaultDeny, `${path}.enableDefaultDeny`);
    const gather = createRuleGather(subject.kind, problems);
    const counts = { ingress: 0, egress: 0 };
    for (const { field, direction, verdict } of LISTS) {
      listAt(spec[field], `${path}.${field}`).forEach((rule, index) => {
        const place: RulePlace = { path: `${path}.${field}[${index}]`, direction, verdict };
        gather.add(place, () => parseCiliumRule(rule, place, context));
        counts[direction] += 1;
      });
    }
    if (counts.ingress + counts.egress === 0) {
      throw new PolicyError('invalid', path, 'must have a rule for ingress or egress');
    }
    const clause: PolicyClause = {
      subject,
      ingressEnforced: counts.ingress > 0 && defaults.ingress,
      egressEnforced: counts.egress > 0 && defaults.egress,
      isolates: false,
      rules: gather.rules,
    };
    return { clause, problems };
  } catch (error) {
    return isolatedClause(subject, error, problems);
  }
}

function parseSubject(
  spec: Readonly<Record<string, unknown>>,
  context: ParseContext & { readonly path: string },
  problems: PolicyProblem[],
): PolicyClause['subject'] {
  const { path, namespace } = context;
  const { endpointSelector, nodeSelector } = spec;
  if (isAbsent(endpointSelector) === isAbsent(nodeSelector)) {
    const complaint =
      namespace === ''
        ? 'must have one of endpointSelector and nodeSelector'
        : 'must have an endpointSelector';
    throw new PolicyError(
      'invalid',
      isAbsent(nodeSelector) ? fieldPath(path, 'endpointSelector') : path,
      complaint,
    );
  }
  if (isAbsent(endpointSelector)) {
    const at = `${path}.nodeSelector`;
    if (namespace !== '') {
      throw new PolicyError(
        'invalid',
        at,
        'needs a CiliumClusterwideNetworkPolicy: nodes are in no namespace',
      );
    }
    return { kind: 'nodes', selector: parseSelector(nodeSelector, { path: at, sourced: true }) };
  }
  const at = `${path}.endpointSelector`;
  const selector = parseSelector(endpointSelector, { path: at, sourced: true });
  const own = ownNamespaceOnly(selector, { path: at, namespace, problems });
  if (isReserved(selector)) {
    problems.push({
      path: at,
      message: `${at} asks for a reserved label, which no pod has: the policy is about nobody`,
    });
  }
  return { kind: 'pods', selector: limitSubject(own, namespace) };
}

/**
 * A policy is about its own namespace even when its selector says another one: Cilium puts its own in the place of that
 * (`ParseToCiliumRule`), for the pods meant to be protected are rather these than none.
 */
function ownNamespaceOnly(
  selector: Selector,
  { path, namespace, problems }: { path: string; namespace: string; problems: PolicyProblem[] },
): Selector {
  if (namespace === '') return selector;
  const own = selector.filter(
    ({ source, key, operator, values }) =>
      source !== 'k8s' ||
      key !== NAMESPACE_LABEL ||
      operator !== 'In' ||
      values.includes(namespace),
  );
  if (own.length < selector.length) {
    problems.push({
      path,
      message: `${path} asks for another namespace than the policy's own, ${namespace}, which is meant instead: correct it, or move the policy`,
    });
  }
  return own;
}

function parseDefaultDeny(value: unknown, path: string): { ingress: boolean; egress: boolean } {
  if (isAbsent(value)) return { ingress: true, egress: true };
  const object = recordAt(value, path);
  refuseOthers(object, DEFAULT_DENY_FIELDS, path);
  const read = (field: 'ingress' | 'egress'): boolean => {
    const found = object[field] ?? true;
    if (typeof found === 'boolean') return found;
    throw new PolicyError('invalid', `${path}.${field}`, 'must be true or false');
  };
  return { ingress: read('ingress'), egress: read('egress') };
}
