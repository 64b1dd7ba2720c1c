/** The spec of a `networking.k8s.io/v1` NetworkPolicy. */
import { NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX } from '../../mesh/wire/identity.ts';
import { excerpt } from '../../mesh/wire/wire-error.ts';
import { cidrPeer, parseCidr, parseExceptions } from './cidr-peer.ts';
import { limitCluster } from './cilium-selectors.ts';
import { isAbsent, listAt, recordAt, refuseOthers } from './manifest-field.ts';
import type { ParseContext } from './parse-context.ts';
import { PolicyError } from './policy-error.ts';
import { checkPortCount, parsePort } from './ports.ts';
import {
  ANY_PORT,
  type Direction,
  type PeerMatch,
  type PolicyClause,
  type PolicyProblem,
  type Rule,
} from './rule.ts';
import { createRuleGather, isolatedClause, type ParsedClause } from './rule-gather.ts';
import { parseSelector, requireLabel, requirePresence, type Selector } from './selector.ts';

const SPEC_FIELDS = new Set(['podSelector', 'policyTypes', 'ingress', 'egress']);
const RULE_FIELDS: Readonly<Record<Direction, ReadonlySet<string>>> = {
  ingress: new Set(['from', 'ports']),
  egress: new Set(['to', 'ports']),
};
const PEER_FIELDS = new Set(['podSelector', 'namespaceSelector', 'ipBlock']);
const IP_BLOCK_FIELDS = new Set(['cidr', 'except']);

/**
 * Parses the spec. A rule that cannot be enforced allows nothing and becomes a problem; throws PolicyError only where it
 * cannot be told whom the policy is about.
 */
export function parseNetworkPolicySpec(
  spec: Readonly<Record<string, unknown>>,
  context: ParseContext,
): ParsedClause {
  const problems: PolicyProblem[] = [];
  const pods = parseSelector(spec.podSelector ?? {}, { path: 'spec.podSelector', sourced: false });
  const subject: PolicyClause['subject'] = {
    kind: 'pods',
    selector: [...pods, requireLabel('k8s', NAMESPACE_LABEL, context.namespace)],
  };
  try {
    refuseOthers(spec, SPEC_FIELDS, 'spec');
    const types = parseTypes(spec);
    const gather = createRuleGather(subject.kind, problems);
    for (const direction of types) {
      listAt(spec[direction], `spec.${direction}`).forEach((rule, index) => {
        const place = { path: `spec.${direction}[${index}]`, direction, verdict: 'allow' } as const;
        gather.add(place, () => parseRule(rule, place, context));
      });
    }
    const clause: PolicyClause = {
      subject,
      ingressEnforced: types.has('ingress'),
      egressEnforced: types.has('egress'),
      isolates: false,
      rules: gather.rules,
    };
    return { clause, problems };
  } catch (error) {
    return isolatedClause(subject, error, problems);
  }
}

/** Directions that the policy is about. Without `policyTypes`: ingress, and egress if there are rules of it. */
function parseTypes(spec: Readonly<Record<string, unknown>>): ReadonlySet<Direction> {
  const types = listAt(spec.policyTypes, 'spec.policyTypes');
  if (types.length === 0) {
    const hasEgress = listAt(spec.egress, 'spec.egress').length > 0;
    return new Set<Direction>(hasEgress ? ['ingress', 'egress'] : ['ingress']);
  }
  return new Set(
    types.map((type, index): Direction => {
      if (type === 'Ingress') return 'ingress';
      if (type === 'Egress') return 'egress';
      throw new PolicyError(
        'invalid',
        `spec.policyTypes[${index}]`,
        `is ${excerpt(type)}: expected Ingress or Egress`,
      );
    }),
  );
}

function parseRule(
  value: unknown,
  place: Pick<Rule, 'path' | 'direction' | 'verdict'>,
  context: ParseContext,
): Rule {
  const { path, direction } = place;
  const object = recordAt(value ?? {}, path);
  refuseOthers(object, RULE_FIELDS[direction], path);
  const peersField = direction === 'ingress' ? 'from' : 'to';
  const peers = listAt(object[peersField], `${path}.${peersField}`);
  const ports = listAt(object.ports, `${path}.ports`);
  checkPortCount(ports.length, `${path}.ports`);
  return {
    ...place,
    // An empty list says the same as none: everybody, every port.
    peers:
      peers.length === 0
        ? [{ kind: 'any' }]
        : peers.map((peer, index) => parsePeer(peer, `${path}.${peersField}[${index}]`, context)),
    ports:
      ports.length === 0
        ? [ANY_PORT]
        : ports.flatMap((port, index) =>
            parsePort(port, { path: `${path}.ports[${index}]`, dialect: 'kubernetes' }),
          ),
    requires: [],
  };
}

function parsePeer(value: unknown, path: string, context: ParseContext): PeerMatch {
  const object = recordAt(value, path);
  refuseOthers(object, PEER_FIELDS, path);
  const { podSelector, namespaceSelector, ipBlock } = object;
  const selects = !isAbsent(podSelector) || !isAbsent(namespaceSelector);
  if (selects !== isAbsent(ipBlock)) {
    throw new PolicyError(
      'invalid',
      path,
      'must have either an ipBlock or a podSelector, a namespaceSelector or both of these',
    );
  }
  if (!selects) return parseIpBlock(ipBlock, `${path}.ipBlock`);
  const pods = parseSelector(podSelector ?? {}, { path: `${path}.podSelector`, sourced: false });
  const selector = [...pods, ...namespaces(namespaceSelector, path, context)];
  return { kind: 'selector', selector: limitCluster(selector, context) };
}

function parseIpBlock(value: unknown, path: string): PeerMatch {
  const object = recordAt(value, path);
  refuseOthers(object, IP_BLOCK_FIELDS, path);
  const prefix = parseCidr(object.cidr, `${path}.cidr`, { bareAddress: false });
  return cidrPeer(prefix, parseExceptions(object.except, `${path}.except`, prefix));
}

function namespaces(value: unknown, path: string, context: ParseContext): Selector {
  if (isAbsent(value)) return [requireLabel('k8s', NAMESPACE_LABEL, context.namespace)];
  const selector = parseSelector(value, {
    path: `${path}.namespaceSelector`,
    sourced: false,
    keyPrefix: NAMESPACE_LABELS_PREFIX,
  });
  // An empty one means every namespace: whatever is in one.
  return [...selector, requirePresence('k8s', NAMESPACE_LABEL)];
}
