import type { Labels } from '../../mesh/wire/identity.ts';
import type { PolicyEntry } from '../datapath/desired.ts';
import type { ParsedPolicy, PeerMatch, PolicyClause, PortMatch, Rule } from './rule.ts';
import { type Selector, selectorKey, selectorMatches } from './selector.ts';

/** What all policies together say about one endpoint, before it is known which identities exist. */
export interface EndpointPolicy {
  readonly ingressEnforced: boolean;
  readonly egressEnforced: boolean;
  /** Ports open to identities named outright; 0 is anybody. */
  readonly fixed: ReadonlyMap<number, readonly PortMatch[]>;
  /** Ports open to whatever a selector matches, by the selector's key. */
  readonly selected: ReadonlyMap<
    string,
    { readonly selector: Selector; readonly ports: readonly PortMatch[] }
  >;
  /** Policies that select the endpoint, as `kind namespace/name`. */
  readonly policies: readonly string[];
}

/** Says which identities a selector matches now. */
export type SelectorMatches = (selectorKey: string) => ReadonlySet<number>;

const ANYBODY = 0;

/** Nobody knows yet who the endpoint is: nothing may reach it but its own node, as with Cilium's `reserved:init`. */
export const UNKNOWN_ENDPOINT_POLICY: EndpointPolicy = {
  ingressEnforced: true,
  egressEnforced: false,
  fixed: new Map(),
  selected: new Map(),
  policies: [],
};

/** Gathers what every policy says about an endpoint with these labels. */
export function compileEndpoint(labels: Labels, policies: Iterable<ParsedPolicy>): EndpointPolicy {
  const fixed = new Map<number, PortMatch[]>();
  const selected = new Map<string, { selector: Selector; ports: PortMatch[] }>();
  const names: string[] = [];
  let ingressEnforced = false;
  let egressEnforced = false;
  let isolated = false;
  for (const policy of policies) {
    const clauses = policy.clauses.filter(({ subject }) => selectorMatches(subject, labels));
    if (clauses.length > 0) names.push(policyName(policy));
    for (const clause of clauses) {
      ingressEnforced ||= clause.ingressEnforced || clause.isolates;
      egressEnforced ||= clause.egressEnforced;
      isolated ||= clause.isolates;
      for (const rule of clause.rules) addRule(rule, fixed, selected);
    }
  }
  if (isolated) {
    fixed.clear();
    selected.clear();
  }
  return { ingressEnforced, egressEnforced, fixed, selected, policies: names };
}

/** Every row of an endpoint. */
export function policyRows(
  endpointId: number,
  policy: EndpointPolicy,
  matches: SelectorMatches,
): PolicyEntry[] {
  if (!policy.ingressEnforced) return [];
  const rows = new Map<string, PolicyEntry>();
  const add = (identity: number, ports: readonly PortMatch[]): void => {
    for (const port of ports) {
      rows.set(`${identity}/${portKey(port)}`, policyRow(endpointId, identity, port));
    }
  };
  for (const [identity, ports] of policy.fixed) add(identity, ports);
  for (const [key, { ports }] of policy.selected) {
    for (const identity of matches(key)) add(identity, ports);
  }
  return [...rows.values()];
}

/** Ports of an endpoint that one identity may reach, and those that it may not but that some rule opens to others. */
export function policyRowsOf(
  identity: number,
  policy: EndpointPolicy,
  matches: SelectorMatches,
): { readonly open: readonly PortMatch[]; readonly closed: readonly PortMatch[] } {
  if (!policy.ingressEnforced) return { open: [], closed: [] };
  const open = new Map<string, PortMatch>();
  const closed = new Map<string, PortMatch>();
  for (const port of policy.fixed.get(identity) ?? []) open.set(portKey(port), port);
  for (const [key, { ports }] of policy.selected) {
    const target = matches(key).has(identity) ? open : closed;
    for (const port of ports) target.set(portKey(port), port);
  }
  for (const key of open.keys()) closed.delete(key);
  return { open: [...open.values()], closed: [...closed.values()] };
}

/** The row that lets an identity reach a port of an endpoint. */
export function policyRow(endpointId: number, identity: number, port: PortMatch): PolicyEntry {
  return { endpointId, direction: 'ingress', identity, ...port, verdict: 'allow' };
}

/** Whether some selector could open this row, were the labels of its identity known. */
export function mayOpen(policy: EndpointPolicy, row: PolicyEntry): boolean {
  if (!policy.ingressEnforced || row.direction !== 'ingress' || row.verdict !== 'allow')
    return false;
  const wanted = portKey(row);
  for (const { ports } of policy.selected.values()) {
    if (ports.some((port) => portKey(port) === wanted)) return true;
  }
  return false;
}

/** Selectors of peers that policies use, whomever they select. */
export function selectorsOf(policies: Iterable<ParsedPolicy>): Map<string, Selector> {
  const selectors = new Map<string, Selector>();
  for (const { clauses } of policies) {
    for (const { rules } of clauses) {
      for (const peer of rules.flatMap(({ peers }) => peers)) {
        if (peer.kind === 'selector') selectors.set(selectorKey(peer.selector), peer.selector);
      }
    }
  }
  return selectors;
}

/** Name of a policy for people. */
export function policyName(policy: Pick<ParsedPolicy, 'kind' | 'namespace' | 'name'>): string {
  const { kind, namespace, name } = policy;
  return `${kind} ${namespace === '' ? name : `${namespace}/${name}`}`;
}

/** Whether a policy has a clause about an endpoint with these labels. */
export function selectsEndpoint(clauses: readonly PolicyClause[], labels: Labels): boolean {
  return clauses.some(({ subject }) => selectorMatches(subject, labels));
}

function addRule(
  rule: Rule,
  fixed: Map<number, PortMatch[]>,
  selected: Map<string, { selector: Selector; ports: PortMatch[] }>,
): void {
  for (const peer of rule.peers) {
    for (const identity of fixedIdentities(peer)) {
      const ports = fixed.get(identity) ?? [];
      fixed.set(identity, ports);
      addPorts(ports, rule.ports);
    }
    if (peer.kind === 'selector') {
      const key = selectorKey(peer.selector);
      const entry = selected.get(key) ?? { selector: peer.selector, ports: [] };
      selected.set(key, entry);
      addPorts(entry.ports, rule.ports);
    }
  }
}

function fixedIdentities(peer: PeerMatch): readonly number[] {
  switch (peer.kind) {
    case 'any':
      return [ANYBODY];
    case 'reserved':
      return peer.identities;
    case 'selector':
      return [];
    default:
      return peer satisfies never;
  }
}

function addPorts(ports: PortMatch[], more: readonly PortMatch[]): void {
  for (const port of more) {
    if (!ports.some((known) => portKey(known) === portKey(port))) ports.push(port);
  }
}

function portKey({ protocol, port, portPrefixBits }: PortMatch): string {
  return `${protocol}/${port}/${portPrefixBits}`;
}
