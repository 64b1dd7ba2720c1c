import { parseClusterName } from '../../../mesh/wire/ids.ts';
import type { LocalPolicy } from '../../../mesh/wire/local-policy.ts';
import { parsePolicy } from '../parse.ts';
import type { ParsedPolicy, PeerMatch, PolicyClause, PortMatch, Rule } from '../rule.ts';
import type { Selector } from '../selector.ts';

/** Parses a policy of namespace `demo` in cluster `alpha`, a CiliumNetworkPolicy unless it is said. */
export function parse(
  policy: Partial<LocalPolicy>,
  options: { defaultLocalCluster?: boolean } = {},
): ParsedPolicy {
  const whole = { namespace: 'demo', name: 'p', generation: 1, manifest: {}, ...policy };
  return parsePolicy(
    { kind: 'CiliumNetworkPolicy', ...whole },
    {
      clusterName: parseClusterName('alpha'),
      defaultLocalCluster: options.defaultLocalCluster ?? true,
    },
  );
}

/** A CiliumNetworkPolicy about every pod of its namespace with this spec. */
export const cnpOf = (spec: Record<string, unknown>): Partial<LocalPolicy> => ({
  manifest: { spec: { endpointSelector: {}, ...spec } },
});
/** The same, clusterwide. */
export const ccnpOf = (spec: Record<string, unknown>): Partial<LocalPolicy> => ({
  kind: 'CiliumClusterwideNetworkPolicy',
  namespace: '',
  manifest: { spec },
});
/** A NetworkPolicy about every pod of its namespace with this spec. */
export const npOf = (spec: Record<string, unknown>): Partial<LocalPolicy> => ({
  kind: 'NetworkPolicy',
  manifest: { spec: { podSelector: {}, ...spec } },
});

/** Each rule of a policy on a line: `allow ingress from {k8s:app=web} on 6/80`. */
export function ruleLines(policy: ParsedPolicy): string[] {
  return policy.clauses.flatMap(({ rules }) => rules.map(ruleText));
}

/** Whom a clause is about, and what it closes: `pods {…} closes ingress egress`. */
export function clauseText(clause: PolicyClause): string {
  const { subject, ingressEnforced, egressEnforced, isolates } = clause;
  const closes = [ingressEnforced ? ' ingress' : '', egressEnforced ? ' egress' : ''].join('');
  const whom = `${subject.kind} ${selectorText(subject.selector)}`;
  return `${whom} closes${closes}${isolates ? ', isolated' : ''}`;
}

function ruleText({ direction, verdict, peers, ports, requires }: Rule): string {
  const word = direction === 'ingress' ? 'from' : 'to';
  const conditions = requires.map((selector) => ` if ${selectorText(selector)}`).join('');
  const whom = peers.map(peerText).join(', ') || 'nobody';
  return `${verdict} ${direction} ${word} ${whom} on ${ports.map(portText).join(' ') || 'nothing'}${conditions}`;
}

function peerText(peer: PeerMatch): string {
  switch (peer.kind) {
    case 'any':
      return 'any';
    case 'reserved':
      return peer.identities.map((identity) => `#${identity}`).join(' ');
    case 'world':
      return `world${peer.family ?? ''}`;
    case 'selector':
      return `${peer.ofEntity === true ? 'entity ' : ''}${selectorText(peer.selector)}`;
    case 'nodes':
      return `nodes ${selectorText(peer.selector)}`;
    case 'cidr':
      return [peer.prefix, ...peer.except.map((except) => `-${except}`)].join(' ');
    case 'cidr-group': {
      const { group, except } = peer;
      const name = 'name' in group ? group.name : selectorText(group.selector);
      return [`group ${name}`, ...except.map((prefix) => `-${prefix}`)].join(' ');
    }
    case 'service': {
      const { service } = peer;
      const name = 'name' in service ? service.name : selectorText(service.selector);
      return `service ${service.namespace ?? '*'}/${name}`;
    }
    default:
      return peer satisfies never;
  }
}

function portText(port: PortMatch): string {
  if (port.kind === 'named') return `${port.protocol}:${port.name}`;
  const { protocol, port: number, portPrefixBits } = port;
  if (portPrefixBits === 0) return protocol === 0 ? 'any' : `${protocol}/*`;
  return `${protocol}/${number}${portPrefixBits === 16 ? '' : `/${portPrefixBits}`}`;
}

const SHORT: Readonly<Record<string, string>> = {
  'io.kubernetes.pod.namespace': 'NAMESPACE',
  'io.cilium.k8s.policy.cluster': 'CLUSTER',
};

function selectorText(selector: Selector): string {
  const parts = selector.map(({ source, key, operator, values }) => {
    const name = `${source}:${SHORT[key] ?? key.replace('io.cilium.k8s.namespace.labels.', 'NS.')}`;
    if (operator === 'In' && values.length === 1) return `${name}=${values[0]}`;
    return [name, operator, values.join('|')].filter((part) => part !== '').join(' ');
  });
  return `{${parts.join(', ')}}`;
}
