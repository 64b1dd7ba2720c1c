/** Other sides that a set of rules cannot tell apart, found among all that are known without asking each rule about each. */
import type { Label } from '../../mesh/wire/identity.ts';
import { RESERVED_IDENTITIES } from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  ipFromBytes,
  ipToBytes,
  makePrefix,
  splitPrefix,
} from '../../mesh/wire/ip.ts';
import type { PeerRules, RowPeer } from './compile.ts';
import type { Direction } from './rule.ts';
import { ANY_SOURCE, type Requirement, type Selector, selectorMatches } from './selector.ts';
import { type Party, type PeerContext, peerMatches } from './sources-of-verdict.ts';

/** Those who act as one: no rule of either set tells them apart. */
export interface PartyClass {
  /** One of them. */
  readonly example: Party;
  /** How many identities there are of the kind. */
  readonly count: number;
  /** Numbers of the first of them. */
  readonly identities: readonly number[];
}

/** Everybody known, to be asked many times. */
export interface PeerIndex {
  /** Classes under the rules of these groups, addresses outside of the mesh included. Yields now and then. */
  classesOf(groups: readonly PeerRules[], direction: Direction): Generator<void, PartyClass[]>;
}

/** Identities that a class names. */
const MAX_NAMED = 5;
/** How many are looked at between two turns of others. */
const TURN = 2000;

/** Numbers of the first identities of a list. */
export function namedOf(parties: readonly Party[]): number[] {
  return parties.slice(0, MAX_NAMED).flatMap(identitiesOf);
}

/** Makes an index. What rules refer to may differ between `contexts`: parties are alike that are in each of them. */
export function* createPeerIndex(
  peers: readonly Party[],
  contexts: readonly PeerContext[],
): Generator<void, PeerIndex> {
  /** Numbers of the parties with a label, by key and value. */
  const byLabel = new Map<string, number[]>();
  for (const [number, { labels }] of peers.entries()) {
    for (const label of labels) {
      const key = labelKey(label);
      const found = byLabel.get(key);
      if (found === undefined) byLabel.set(key, [number]);
      else if (found.at(-1) !== number) found.push(number);
    }
    if (number % TURN === 0) yield;
  }
  const distinct = [...new Set(contexts)];
  const known = new Map<string, readonly (readonly number[])[]>();

  const bySelector = (selector: Selector): number[] => {
    const candidates = selector.flatMap((requirement) => {
      const found = candidatesOf(requirement, byLabel);
      return found === undefined ? [] : [found];
    });
    const [fewest = peers.keys()] = candidates.sort((a, b) => a.length - b.length);
    return [...new Set(fewest)].filter((number) =>
      selectorMatches(selector, peers[number]?.labels ?? []),
    );
  };
  const scan = (match: RowPeer, context: PeerContext): number[] =>
    [...peers.keys()].filter((number) => {
      const peer = peers[number];
      return peer !== undefined && peerMatches(match, peer, context);
    });
  /** Who is meant, in each context. */
  const membersOf = ({ key, peer }: PeerRules): readonly (readonly number[])[] => {
    const before = known.get(key);
    if (before !== undefined) return before;
    const members =
      peer.kind === 'selector'
        ? [bySelector(peer.selector)]
        : distinct.map((context) => scan(peer, context));
    known.set(key, members);
    return members;
  };

  return {
    *classesOf(groups, direction) {
      const telling = [
        ...new Map(
          groups
            // What everybody is in tells nobody apart.
            .filter(({ peer }) => peer.kind !== 'any' && peer.kind !== 'named-ports')
            .map((group) => [group.key, group]),
        ).values(),
      ];
      const usesNames =
        direction === 'egress' &&
        groups.some(({ rules }) =>
          rules.some(({ rule }) => rule.ports.some(({ kind }) => kind === 'named')),
        );
      const marks = new Map<number, string>();
      for (const [index, group] of telling.entries()) {
        for (const [place, members] of membersOf(group).entries()) {
          for (const number of members) {
            marks.set(number, `${marks.get(number) ?? ''}${index}.${place},`);
          }
        }
        yield;
      }
      const classes = new Map<string, { example: Party; count: number; identities: number[] }>();
      const put = (peer: Party, mark: string): void => {
        const ports =
          usesNames && peer.namedPorts.length > 0 ? JSON.stringify(peer.namedPorts) : '';
        // The own node is let in by another rule, and whoever is outside of the mesh is told by address.
        const kind = peer.identity === RESERVED_IDENTITIES.host ? 'host' : peer.kind;
        const key = `${kind}/${mark}/${ports}`;
        const found = classes.get(key);
        if (found === undefined) {
          classes.set(key, { example: peer, count: 1, identities: identitiesOf(peer) });
          return;
        }
        found.count += 1;
        if (found.identities.length < MAX_NAMED) found.identities.push(...identitiesOf(peer));
      };
      for (const [number, peer] of peers.entries()) {
        put(peer, marks.get(number) ?? '');
        if (number % TURN === 0) yield;
      }
      const matches = telling.map(({ peer }) => peer);
      for (const peer of outsiders(matches, distinct)) {
        const bits = matches.flatMap((match) =>
          distinct.map((context) => Number(peerMatches(match, peer, context))),
        );
        put(peer, bits.join(''));
      }
      return [...classes.values()];
    },
  };
}

/** Parties that may meet a requirement; undefined: any may. */
function candidatesOf(
  { key, operator, values }: Requirement,
  byLabel: ReadonlyMap<string, readonly number[]>,
): readonly number[] | undefined {
  if (operator !== 'In') return undefined;
  return values.flatMap((value) => byLabel.get(labelKey({ source: ANY_SOURCE, key, value })) ?? []);
}

/** Sources are compared later: few keys have two. */
function labelKey({ key, value }: Label): string {
  return `${key}=${value}`;
}

/**
 * Addresses outside of the mesh: for each family one in no network that a rule names, and one in each part of the
 * networks that no rule divides. Such a part begins where a network begins, or behind the end of one.
 */
function outsiders(matches: readonly RowPeer[], contexts: readonly PeerContext[]): Party[] {
  const prefixes = matches.flatMap((match): readonly IpPrefix[] => {
    if (match.kind === 'cidr') return [match.prefix, ...match.except];
    if (match.kind === 'cidr-group') {
      return [...contexts.flatMap((context) => context.cidrsOf(match.group)), ...match.except];
    }
    if (match.kind !== 'service') return [];
    return contexts.flatMap((context) =>
      [...context.backendsOf(match.service).addresses].map((address) =>
        makePrefix(address, ipFamily(address) === 4 ? 32 : 128),
      ),
    );
  });
  const addresses = new Set(
    prefixes.flatMap((prefix) => {
      const { address } = splitPrefix(prefix);
      const next = addressBehind(prefix);
      return next === undefined ? [address] : [address, next];
    }),
  );
  return [
    outsider('world-ipv4', undefined),
    outsider('world-ipv6', undefined),
    ...[...addresses].map((address) =>
      outsider(ipFamily(address) === 4 ? 'world-ipv4' : 'world-ipv6', address),
    ),
  ];
}

function outsider(name: 'world-ipv4' | 'world-ipv6', address: IpAddress | undefined): Party {
  return {
    identity: RESERVED_IDENTITIES[name],
    labels: [{ source: 'reserved', key: name, value: '' }],
    kind: 'world',
    address,
    nodeLabels: [],
    namedPorts: [],
  };
}

/** First address behind a network; undefined: it is the last one of its family. */
function addressBehind(prefix: IpPrefix): IpAddress | undefined {
  const { address, length } = splitPrefix(prefix);
  const bytes = ipToBytes(address);
  const size = BigInt(bytes.length * 8);
  const value = BigInt(`0x${Buffer.from(bytes).toString('hex')}`) + (1n << (size - BigInt(length)));
  if (value >= 1n << size) return undefined;
  const digits = value.toString(16).padStart(bytes.length * 2, '0');
  return ipFromBytes(Buffer.from(digits, 'hex'));
}

function identitiesOf(party: Party): number[] {
  return party.kind === 'world' || party.identity === 0 ? [] : [party.identity];
}
