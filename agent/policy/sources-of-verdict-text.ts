/** Rules as text for people. */

import { RESERVED_IDENTITIES } from '../../mesh/wire/ids.ts';
import type { PeerMatch, PortMatch, Rule } from './rule.ts';
import { ANY_SOURCE, type Requirement, type Selector } from './selector.ts';
import { protocolName } from './trace-port.ts';

/** `from app=web to 80/TCP`. */
export function ruleText(rule: Rule): string {
  const peers =
    rule.peers.length === 0 ? 'nobody' : [...new Set(rule.peers.map(peerText))].join(' or ');
  const side = rule.direction === 'ingress' ? 'from' : 'to';
  const ports = [...new Set(portTexts(rule.ports))];
  const requires =
    rule.requires.length === 0
      ? ''
      : `, of peers that also have ${rule.requires.map(selectorText).join(' and ')}`;
  return `${side} ${peers}${ports.length === 0 ? '' : ` on ${ports.join(', ')}`}${requires}`;
}

/** Whom a part of a rule names. */
export function peerText(match: PeerMatch): string {
  switch (match.kind) {
    case 'any':
      return 'anybody';
    case 'reserved':
      return match.identities.map(reservedText).join(', ');
    case 'world':
      return match.family === undefined ? 'world' : `world (IPv${match.family})`;
    case 'selector':
      return selectorText(match.selector);
    case 'nodes':
      return `nodes with ${selectorText(match.selector)}`;
    case 'cidr':
      return `${match.prefix}${exceptText(match.except)}`;
    case 'cidr-group':
      return 'name' in match.group
        ? `CIDR group ${match.group.name}${exceptText(match.except)}`
        : `CIDR groups with ${selectorText(match.group.selector)}${exceptText(match.except)}`;
    case 'service': {
      const { service } = match;
      if ('name' in service) return `backends of Service ${service.namespace}/${service.name}`;
      const where = service.namespace === undefined ? '' : ` of ${service.namespace}`;
      return `backends of Services${where} with ${selectorText(service.selector)}`;
    }
    default:
      return match satisfies never;
  }
}

/** Ports as `80/TCP`, `1024-2047/UDP`, `http`; blocks that follow each other are joined. None: every port. */
function portTexts(ports: readonly PortMatch[]): string[] {
  const texts: string[] = [];
  const ranges: { protocol: number; first: number; last: number }[] = [];
  for (const match of ports) {
    if (match.kind === 'named') {
      texts.push(
        match.protocol === 0
          ? `port ${match.name}`
          : `port ${match.name}/${protocolName(match.protocol)}`,
      );
      continue;
    }
    if (match.protocol === 0) return [];
    const first = match.portPrefixBits === 0 ? 0 : match.port;
    const last = first + 2 ** (16 - match.portPrefixBits) - 1;
    const before = ranges.at(-1);
    if (before?.protocol === match.protocol && before.last + 1 === first) before.last = last;
    else ranges.push({ protocol: match.protocol, first, last });
  }
  return [...texts, ...ranges.map(rangeText)];
}

/** `80/TCP`, `8000-8999/TCP`, `any port/TCP`; of ICMP the type. */
export function rangeText(range: {
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
}): string {
  const name = protocolName(range.protocol);
  if (range.first === 0 && range.last >= 65_535) return `any ${name}`;
  return range.first === range.last
    ? `${range.first}/${name}`
    : `${range.first}-${range.last}/${name}`;
}

/** `app=web, tier in (a, b), !legacy`; empty: `any endpoint`. */
export function selectorText(selector: Selector): string {
  return selector.length === 0 ? 'any endpoint' : selector.map(requirementText).join(' ');
}

function requirementText({ source, key, operator, values }: Requirement): string {
  const name = source === ANY_SOURCE || source === 'k8s' ? key : `${source}:${key}`;
  switch (operator) {
    case 'In':
      if (values.length === 1) return values[0] === '' ? name : `${name}=${values[0]}`;
      return `${name} in (${values.join(', ')})`;
    case 'NotIn':
      return values.length === 1
        ? `${name}!=${values[0]}`
        : `${name} not in (${values.join(', ')})`;
    case 'Exists':
      return `${name} (any value)`;
    case 'DoesNotExist':
      return `no ${name}`;
    default:
      return operator satisfies never;
  }
}

function reservedText(identity: number): string {
  const found = Object.entries(RESERVED_IDENTITIES).find(([, number]) => number === identity);
  return found?.[0] ?? `identity ${identity}`;
}

function exceptText(except: readonly string[]): string {
  return except.length === 0 ? '' : ` except ${except.join(', ')}`;
}
