/** Which identities the other sides of rules are at present: of all clusters, of addresses outside, of nodes. */
import type { Labels } from '../../mesh/wire/identity.ts';
import { MINIMUM_ALLOCATED_IDENTITY, reservedIdentity } from '../../mesh/wire/ids.ts';
import {
  type IpAddress,
  type IpPrefix,
  ipFamily,
  makePrefix,
  parseIpPrefix,
} from '../../mesh/wire/ip.ts';
import { peerKey, type RowPeer } from './compile.ts';
import { createLocalIdentities, type LocalIdentities } from './local-identities.ts';
import { createNodeIdentities, type NodeIdentities } from './node-identities.ts';
import { createPrefixSet, numberPrefix, type PrefixNumber, type PrefixSet } from './prefix-set.ts';
import { selectorMatches } from './selector.ts';
import { createSelectorCache, type SelectorHandle } from './selector-cache.ts';

/** Named ports as rules need them: by name, then protocol (IANA number). */
export type NamedPorts = readonly {
  readonly name: string;
  readonly protocol: number;
  readonly port: number;
}[];

/** Prefixes that rules name together. */
export interface CidrPrefixes {
  readonly labels: Labels;
  /** Undefined: the group cannot be read and never could. Nobody is allowed by it, and whom it denies is everybody outside. */
  readonly prefixes: readonly IpPrefix[] | undefined;
}

/** A Service of the own cluster, as far as `toServices` needs it. */
export interface ServicePeer {
  readonly namespace: string;
  readonly name: string;
  readonly labels: Labels;
  /** Addresses of its backends. */
  readonly addresses: readonly IpAddress[];
}

/** Is told when what it uses changes. */
export interface PeerUser {
  /** An identity came to a set that is used, or left it, or its named ports changed. */
  changed(identity: number): void;
}

/** Other sides that somebody uses. */
export interface PeerSet {
  readonly key: string;
  readonly identities: ReadonlySet<number>;
}

/** Everything that decides who the other sides of rules are. No clock, no socket: the time is told where it counts. */
export interface PeerSets {
  setIdentity(identity: number, labels: Labels | undefined): void;
  labelsOf(identity: number): Labels | undefined;
  /** Undefined: none are known any more. */
  setNamedPorts(identity: number, ports: NamedPorts | undefined): void;
  namedPortsOf(identity: number): NamedPorts | undefined;
  setCidrGroup(name: string, group: CidrPrefixes | undefined): void;
  /** `key`: `namespace/name`. */
  setService(key: string, service: ServicePeer | undefined): void;
  /** Somebody else may have an address now. */
  touchAddress(prefix: IpPrefix): void;
  /** Uses a set; as often as that is done, it must be released by the same user. Brought up to date by `refresh`. */
  acquire(peer: RowPeer, user: PeerUser): PeerSet;
  release(set: PeerSet, user: PeerUser, now: number): void;
  /**
   * Brings up to date what is not at once: sets that groups, Services and labels of nodes make. `now`: monotonic
   * milliseconds; `preferredOf`: identity that a previous process gave a node. Tells users of what changes.
   */
  refresh(now: number, preferredOf?: (node: string) => number | undefined): void;
  /** Whether `refresh` has anything to do. */
  readonly isStale: boolean;
  /** Every identity with labels, those included that this node gives for itself. */
  identities(): Iterable<readonly [number, Labels]>;
  services(): Iterable<ServicePeer>;
  readonly cidrs: LocalIdentities;
  readonly nodes: NodeIdentities;
  /** Identities known, without reserved ones and those that this node makes for itself. */
  readonly identityCount: number;
}

interface Entry extends PeerSet {
  readonly peer: RowPeer;
  /** Those in `identities` that are put there by hand; a selector's are the cache's. */
  readonly own: Set<number>;
  /** How often each one uses it. */
  readonly users: Map<PeerUser, number>;
  readonly handle: SelectorHandle | undefined;
  /** Of addresses: which ones. */
  addresses: { readonly include: PrefixSet; readonly except: PrefixSet } | undefined;
  /** Prefixes that have an identity for its sake. */
  held: readonly IpPrefix[];
  /** Addresses of Services: it matters who has them. */
  watched: readonly IpPrefix[];
}

const WORLD = reservedIdentity('world');
const WORLD_OF = { 4: reservedIdentity('world-ipv4'), 6: reservedIdentity('world-ipv6') } as const;
const ALL_WORLDS = [WORLD, WORLD_OF[4], WORLD_OF[6]] as const;
const REMOTE_NODE = reservedIdentity('remote-node');
/** Has an identity where a rule tells the families of the world apart: the kernel itself does not. */
const EVERYTHING = { 4: parseIpPrefix('0.0.0.0/0'), 6: parseIpPrefix('::/0') } as const;

/** Makes sets over nothing known yet. `holderOf`: identity of whoever in the mesh has an address; undefined: nobody. */
export function createPeerSets(options: {
  readonly holderOf: (prefix: IpPrefix) => number | undefined;
}): PeerSets {
  const cache = createSelectorCache();
  const entries = new Map<string, Entry>();
  const namedPorts = new Map<number, NamedPorts>();
  const groups = new Map<string, CidrPrefixes>();
  const services = new Map<string, ServicePeer>();
  /** Sets that depend on who has an address. */
  const watching = new Map<IpPrefix, Set<Entry>>();
  const cidrNumbers = new Map<number, PrefixNumber>();
  /** Sets of addresses, and those of nodes: of all others a new identity of that sort is none of their business. */
  const ofAddresses = new Set<Entry>();
  const ofNodes = new Set<Entry>();
  const stale = new Set<Entry>();
  const nodeIdentities = new Set<number>();

  const tell = (entry: Entry, identity: number): void => {
    for (const user of entry.users.keys()) user.changed(identity);
  };
  const join = (entry: Entry, identity: number, isIn: boolean): void => {
    if (isIn === entry.identities.has(identity)) return;
    if (isIn) entry.own.add(identity);
    else entry.own.delete(identity);
    tell(entry, identity);
  };
  const cidrs = createLocalIdentities('cidr', ({ key, identity }, isThere) => {
    const number = numberPrefix(parseIpPrefix(key));
    if (isThere) cidrNumbers.set(identity, number);
    else cidrNumbers.delete(identity);
    cache.setIdentity(identity, isThere ? cidrLabels(key) : undefined);
    for (const entry of ofAddresses) join(entry, identity, isThere && hasPrefix(entry, number));
  });
  const nodes = createNodeIdentities((identity, isThere) => {
    if (isThere) nodeIdentities.add(identity);
    else nodeIdentities.delete(identity);
    cache.setIdentity(identity, isThere ? NODE_LABELS : undefined);
    for (const entry of ofNodes) {
      if (entry.peer.kind === 'reserved') join(entry, identity, isThere);
      else stale.add(entry);
    }
  });

  /** Makes the set what it is to be by now, and tells of the difference. */
  const settle = (entry: Entry, wanted: ReadonlySet<number>): void => {
    for (const identity of entry.identities) {
      if (!wanted.has(identity)) join(entry, identity, false);
    }
    for (const identity of wanted) join(entry, identity, true);
  };
  const groupsOf = ({ group }: Extract<RowPeer, { group: unknown }>): CidrPrefixes[] => {
    if (!('name' in group)) {
      // Labels of what cannot be read are not known.
      return [...groups.values()].filter(
        ({ labels, prefixes }) => prefixes === undefined || selectorMatches(group.selector, labels),
      );
    }
    const found = groups.get(group.name);
    return found === undefined ? [] : [found];
  };
  const servicesOf = (peer: Extract<RowPeer, { kind: 'service' }>): ServicePeer[] => {
    const { service } = peer;
    if ('name' in service) {
      const found = services.get(`${service.namespace}/${service.name}`);
      return found === undefined ? [] : [found];
    }
    return [...services.values()].filter(
      ({ namespace, labels }) =>
        (service.namespace === undefined || service.namespace === namespace) &&
        selectorMatches(service.selector, labels),
    );
  };
  /** Which prefixes have to have an identity for a set, and which identities are in it besides theirs. */
  const plan = (
    entry: Entry,
  ): {
    include: IpPrefix[];
    except: readonly IpPrefix[];
    others: number[];
    watched: IpPrefix[];
  } => {
    const { peer } = entry;
    const nothing = { include: [], except: [], others: [], watched: [] };
    switch (peer.kind) {
      case 'cidr':
        return { ...nothing, include: [peer.prefix], except: peer.except };
      case 'cidr-group':
        return {
          ...nothing,
          include: groupsOf(peer).flatMap(({ prefixes }) => prefixes ?? []),
          except: peer.except,
        };
      case 'service': {
        const watched = servicesOf(peer).flatMap(({ addresses }) => addresses.map(wholePrefix));
        const holders = watched.map(options.holderOf);
        return {
          ...nothing,
          include: watched.filter((_, index) => holders[index] === undefined),
          others: holders.filter((identity): identity is number => isEndpoint(identity)),
          watched,
        };
      }
      case 'world':
        if (peer.family === undefined) {
          return { ...nothing, others: [...ALL_WORLDS] };
        }
        return {
          ...nothing,
          include: [EVERYTHING[peer.family]],
          others: [WORLD_OF[peer.family]],
        };
      case 'unreadable-group':
        return groupsOf(peer).some(({ prefixes }) => prefixes === undefined)
          ? { ...nothing, include: [EVERYTHING[4], EVERYTHING[6]], others: [...ALL_WORLDS] }
          : nothing;
      default:
        return nothing;
    }
  };
  const watchAddresses = (entry: Entry, prefixes: readonly IpPrefix[]): void => {
    for (const prefix of entry.watched) {
      const watchers = watching.get(prefix);
      watchers?.delete(entry);
      if (watchers?.size === 0) watching.delete(prefix);
    }
    entry.watched = prefixes;
    for (const prefix of prefixes) {
      watching.set(prefix, (watching.get(prefix) ?? new Set<Entry>()).add(entry));
    }
  };
  const renewAddresses = (entry: Entry, now: number): void => {
    const { include, except, others, watched } = plan(entry);
    const before = entry.held;
    entry.addresses =
      entry.peer.kind === 'world' && entry.peer.family === undefined
        ? undefined
        : { include: createPrefixSet(include), except: createPrefixSet(except) };
    entry.held = [...new Set([...include, ...except])];
    watchAddresses(entry, watched);
    // New identities tell this set, too; the rest of it comes after them.
    for (const prefix of entry.held) cidrs.hold(prefix);
    const wanted = new Set(others);
    for (const [identity, number] of cidrNumbers) {
      if (hasPrefix(entry, number)) wanted.add(identity);
    }
    settle(entry, wanted);
    for (const prefix of before) cidrs.release(prefix, now);
  };
  const renew = (entry: Entry, now: number): void => {
    switch (entry.peer.kind) {
      case 'nodes':
        settle(entry, new Set(nodes.identitiesOf(entry.peer.selector)));
        return;
      case 'cidr':
      case 'cidr-group':
      case 'unreadable-group':
      case 'service':
      case 'world':
        renewAddresses(entry, now);
        return;
      case 'reserved':
        settle(
          entry,
          new Set([...entry.peer.identities, ...(ofNodes.has(entry) ? nodeIdentities : [])]),
        );
        return;
      case 'named-ports':
        settle(entry, new Set(namedPorts.keys()));
        return;
      case 'any':
      case 'selector':
        return;
      default:
        entry.peer satisfies never;
    }
  };
  const open = (key: string, peer: RowPeer, now: number): Entry => {
    const users = new Map<PeerUser, number>();
    const handle =
      peer.kind === 'selector'
        ? cache.add(peer.selector, (identity) => {
            for (const user of users.keys()) user.changed(identity);
          })
        : undefined;
    const own = new Set<number>();
    const entry: Entry = {
      key,
      peer,
      own,
      identities: handle?.identities ?? own,
      users,
      handle,
      addresses: undefined,
      held: [],
      watched: [],
    };
    entries.set(key, entry);
    if (isOfAddresses(peer)) ofAddresses.add(entry);
    if (isOfNodes(peer)) ofNodes.add(entry);
    if (peer.kind === 'nodes') {
      nodes.addSelector(peer.selector);
      stale.add(entry);
    }
    renew(entry, now);
    return entry;
  };

  return {
    cidrs,
    nodes,
    setIdentity: (identity, labels) => cache.setIdentity(identity, labels),
    labelsOf: (identity) => cache.labelsOf(identity),
    namedPortsOf: (identity) => namedPorts.get(identity),
    setNamedPorts(identity, ports) {
      if (namedPorts.get(identity) === ports) return;
      if (ports === undefined) namedPorts.delete(identity);
      else namedPorts.set(identity, ports);
      const entry = entries.get('named-ports');
      if (entry === undefined) return;
      if (ports === undefined) entry.own.delete(identity);
      else entry.own.add(identity);
      tell(entry, identity);
    },
    setCidrGroup(name, group) {
      if (group === undefined) groups.delete(name);
      else groups.set(name, group);
      for (const entry of ofAddresses) if ('group' in entry.peer) stale.add(entry);
    },
    setService(key, service) {
      if (service === undefined) services.delete(key);
      else services.set(key, service);
      for (const entry of ofAddresses) {
        if (entry.peer.kind === 'service' && mayBeAbout(entry.peer, key)) stale.add(entry);
      }
    },
    touchAddress(prefix) {
      for (const entry of watching.get(prefix) ?? []) stale.add(entry);
    },
    acquire(peer, user) {
      const key = peerKey(peer);
      const entry = entries.get(key) ?? open(key, peer, 0);
      entry.users.set(user, (entry.users.get(user) ?? 0) + 1);
      return entry;
    },
    release({ key }, user, now) {
      const entry = entries.get(key);
      const count = entry?.users.get(user);
      if (entry === undefined || count === undefined) return;
      if (count > 1) {
        entry.users.set(user, count - 1);
        return;
      }
      entry.users.delete(user);
      if (entry.users.size > 0) return;
      entries.delete(key);
      ofAddresses.delete(entry);
      ofNodes.delete(entry);
      stale.delete(entry);
      entry.handle?.remove();
      if (entry.peer.kind === 'nodes') nodes.removeSelector(entry.peer.selector);
      watchAddresses(entry, []);
      for (const prefix of entry.held) cidrs.release(prefix, now);
    },
    refresh(now, preferredOf = () => undefined) {
      if (nodes.isStale) {
        nodes.refresh(now, preferredOf);
        for (const entry of ofNodes) if (entry.peer.kind === 'nodes') stale.add(entry);
      }
      for (const entry of stale) renew(entry, now);
      stale.clear();
      cidrs.expire(now);
      nodes.local.expire(now);
    },
    identities: () => cache.identities(),
    services: () => services.values(),
    get isStale() {
      return stale.size > 0 || nodes.isStale;
    },
    get identityCount() {
      return cache.identityCount;
    },
  };
}

const NODE_LABELS: Labels = [{ source: 'reserved', key: 'remote-node', value: '' }];

/** Labels as Cilium gives them to such identities (`pkg/labels/cidr.go`). */
function cidrLabels(prefix: string): Labels {
  return [
    { source: 'cidr', key: prefix, value: '' },
    { source: 'reserved', key: 'world', value: '' },
  ];
}

function isOfAddresses({ kind }: RowPeer): boolean {
  switch (kind) {
    case 'cidr':
    case 'cidr-group':
    case 'unreadable-group':
    case 'service':
    case 'world':
      return true;
    case 'any':
    case 'named-ports':
    case 'reserved':
    case 'selector':
    case 'nodes':
      return false;
    default:
      return kind satisfies never;
  }
}

function isOfNodes(peer: RowPeer): boolean {
  if (peer.kind === 'reserved') return peer.identities.includes(REMOTE_NODE);
  return peer.kind === 'nodes';
}

/** Without addresses, a set is about the whole world. */
function hasPrefix({ addresses }: Entry, prefix: PrefixNumber): boolean {
  if (addresses === undefined) return true;
  return addresses.include.contains(prefix) && !addresses.except.contains(prefix);
}

function mayBeAbout({ service }: Extract<RowPeer, { kind: 'service' }>, key: string): boolean {
  return !('name' in service) || `${service.namespace}/${service.name}` === key;
}

/** Not a node, whose identity is that of all nodes. */
function isEndpoint(identity: number | undefined): boolean {
  return identity !== undefined && identity >= MINIMUM_ALLOCATED_IDENTITY;
}

function wholePrefix(address: IpAddress): IpPrefix {
  return makePrefix(address, ipFamily(address) === 4 ? 32 : 128);
}
