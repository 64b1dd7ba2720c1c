/** Ports by name, as endpoints of all clusters announce them with their addresses. */
import type { IpPrefix } from '../../mesh/wire/ip.ts';
import type { NamedPort } from '../../mesh/wire/ip-identity.ts';
import { protocolNumber } from '../../mesh/wire/maps.ts';
import { PROTOCOLS } from '../../mesh/wire/service.ts';
import type { NamedPorts } from './peer-sets.ts';

/** Named ports of addresses, and those of all addresses of an identity together. */
export interface NamedPortBook {
  /**
   * What a cluster says of an address now. `ports` undefined or empty: nothing. Of two clusters that say something, the
   * first one counts. Returns the identities whose ports changed by it: at most the one that the address had and the one
   * that it has.
   */
  set(clusterId: number, prefix: IpPrefix, said: PortsSaid | undefined): readonly number[];
  /** Equal objects for equal ports; undefined: none. */
  ofIdentity(identity: number): NamedPorts | undefined;
  ofAddress(prefix: IpPrefix): NamedPorts | undefined;
}

/** Who has an address, and the ports declared there. */
export interface PortsSaid {
  readonly identity: number;
  readonly ports: readonly NamedPort[] | undefined;
}

interface Known {
  readonly clusterId: number;
  readonly identity: number;
  readonly shared: Shared;
}

interface Shared {
  readonly text: string;
  readonly ports: NamedPorts;
}

const NOBODY: readonly number[] = [];

/** Makes an empty one. Most addresses have one of few lists, which are kept once. */
export function createNamedPortBook(): NamedPortBook {
  const byAddress = new Map<IpPrefix, Known>();
  /** Lists that the addresses of an identity have, and how many have each. */
  const byIdentity = new Map<number, Map<Shared, number>>();
  const unions = new Map<number, NamedPorts>();
  const lists = new Map<string, Shared>();

  const share = (ports: NamedPorts): Shared => {
    const text = JSON.stringify(ports);
    const known = lists.get(text);
    if (known !== undefined) return known;
    const shared = { text, ports };
    lists.set(text, shared);
    return shared;
  };
  const count = (identity: number, shared: Shared, difference: 1 | -1): boolean => {
    const counts = byIdentity.get(identity) ?? new Map<Shared, number>();
    byIdentity.set(identity, counts);
    const number = (counts.get(shared) ?? 0) + difference;
    if (number > 0) counts.set(shared, number);
    else counts.delete(shared);
    // A list that some of its addresses have already, or still, adds and takes nothing.
    if (number !== (difference === 1 ? 1 : 0)) return false;
    if (counts.size === 0) {
      byIdentity.delete(identity);
      unions.delete(identity);
    } else unions.set(identity, unionOf([...counts.keys()]));
    return true;
  };
  const unionOf = (all: readonly Shared[]): NamedPorts => {
    const [first, ...others] = all;
    if (first === undefined || others.length === 0) return first?.ports ?? [];
    return share(sortedPorts(all.flatMap(({ ports }) => ports))).ports;
  };

  return {
    set(clusterId, prefix, said) {
      const before = byAddress.get(prefix);
      if (before !== undefined && before.clusterId !== clusterId) return NOBODY;
      const ports = said === undefined ? [] : readPorts(said.ports);
      if (before === undefined && ports.length === 0) return NOBODY;
      const changed: number[] = [];
      if (before !== undefined) {
        const { identity, shared } = before;
        byAddress.delete(prefix);
        if (count(identity, shared, -1)) changed.push(identity);
      }
      if (said !== undefined && ports.length > 0) {
        const shared = share(ports);
        byAddress.set(prefix, { clusterId, identity: said.identity, shared });
        if (count(said.identity, shared, 1)) changed.push(said.identity);
      }
      return changed;
    },
    ofIdentity: (identity) => unions.get(identity),
    ofAddress: (prefix) => byAddress.get(prefix)?.shared.ports,
  };
}

/** Ports with a name and a protocol that is known. */
function readPorts(ports: readonly NamedPort[] | undefined): NamedPorts {
  if (ports === undefined) return [];
  return sortedPorts(
    ports.flatMap(({ name, port, protocol: text }) => {
      const protocol = PROTOCOLS.find((known) => known === text);
      return name === '' || port === 0 || protocol === undefined
        ? []
        : [{ name, protocol: protocolNumber(protocol), port }];
    }),
  );
}

function sortedPorts(ports: NamedPorts): NamedPorts {
  const byText = new Map(ports.map((port) => [`${port.name}/${port.protocol}/${port.port}`, port]));
  return [...byText].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, port]) => port);
}
