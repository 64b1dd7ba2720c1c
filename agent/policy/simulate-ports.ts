/** Ports between which no rule can tell. */
import type { SourcedRule } from './compile.ts';
import type { NamedPorts } from './peer-sets.ts';
import type { PortMatch } from './rule.ts';
import { rangeText } from './sources-of-verdict-text.ts';
import { protocolOf } from './trace-port.ts';

/** Ports of a protocol, or types of its messages, both ends included. */
export interface PortAtom {
  /** IANA number. */
  readonly protocol: number;
  readonly first: number;
  readonly last: number;
}

const LAST_PORT = 65_535;
/** ICMP has types instead, of a byte. */
const LAST_TYPE = 255;
const ICMP = protocolOf('ICMP');
const ICMPV6 = protocolOf('ICMPv6');
/** Every protocol that a rule may name, and GRE, which stands for those that none may. */
const OTHER_PROTOCOL = 47;
const PROTOCOLS: readonly number[] = [6, 17, 132, 1, 58, OTHER_PROTOCOL];

/** Divides all ports where rules do. `owner`: whose names of ports count. */
export function atomsOf(
  rules: readonly SourcedRule[],
  owner: { readonly namedPorts: NamedPorts },
): PortAtom[] {
  const matches = rules.flatMap(({ rule }) => rule.ports);
  return PROTOCOLS.flatMap((protocol) => {
    const last = protocol === ICMP || protocol === ICMPV6 ? LAST_TYPE : LAST_PORT;
    const starts = new Set<number>([0]);
    for (const match of matches) {
      for (const { first, end } of boundsOf(match, { protocol, owner })) {
        starts.add(first);
        if (end <= last) starts.add(end);
      }
    }
    const sorted = [...starts].sort((a, b) => a - b);
    return sorted.map((first, index) => ({
      protocol,
      first,
      last: (sorted[index + 1] ?? last + 1) - 1,
    }));
  });
}

/** Atoms as text, neighbours joined: `80/TCP`, `any UDP`, `any other protocol`. */
export function rangeTexts(atoms: readonly PortAtom[]): string[] {
  const joined: { protocol: number; first: number; last: number }[] = [];
  for (const atom of atoms) {
    const before = joined.at(-1);
    if (before?.protocol === atom.protocol && before.last + 1 === atom.first) {
      before.last = atom.last;
    } else joined.push({ ...atom });
  }
  return joined.map((range) => {
    if (range.protocol === OTHER_PROTOCOL) return 'any other protocol';
    const isIcmp = range.protocol === ICMP || range.protocol === ICMPV6;
    return rangeText(isIcmp && range.last === LAST_TYPE ? { ...range, last: LAST_PORT } : range);
  });
}

function boundsOf(
  match: PortMatch,
  { protocol, owner }: { protocol: number; owner: { readonly namedPorts: NamedPorts } },
): { first: number; end: number }[] {
  if (match.kind === 'named') {
    return owner.namedPorts
      .filter((port) => port.name === match.name && port.protocol === protocol)
      .map(({ port }) => ({ first: port, end: port + 1 }));
  }
  if (match.protocol !== protocol || match.portPrefixBits === 0) return [];
  return [{ first: match.port, end: match.port + 2 ** (16 - match.portPrefixBits) }];
}
