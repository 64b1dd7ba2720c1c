/**
 * What a machine that is its own firewall lets through whatever its policies say. The measure: whatever would fail only when
 * nobody tries the firewall out any more (a lease, a name or a clock that runs out), and what keeps a way in to mend it. The
 * kernel's part of it is `is_fixed()` of `bpf/lib/firewall.h`; a test sends a packet for each row.
 */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { FirewallCall } from '../datapath/firewall.ts';

/** By which port operators come in unless somebody says otherwise. */
export const DEFAULT_ADMIN_PORTS: readonly number[] = [22];
/** How many of them there may be. */
export const MOST_ADMIN_PORTS = 8;

/** What differs from machine to machine. */
export interface FixedPlaces {
  readonly adminPorts: readonly number[];
  /** Where the agent calls its cluster. */
  readonly servers: readonly { readonly address: IpAddress; readonly port: number }[];
  /** Whom the machine asks for names. */
  readonly resolvers: readonly IpAddress[];
}

/** A row of the list. */
export interface FixedRule {
  readonly name: string;
  /** What passes, in words. */
  readonly passes: string;
  readonly why: string;
  /** Calls by address and port that the kernel is told of. Absent: it knows by itself. */
  readonly calls?: (places: FixedPlaces) => readonly FirewallCall[];
}

const DNS = 53;
const NTP = 123;

/** All of it. */
export const FIXED_RULES: readonly FixedRule[] = [
  {
    name: 'loopback',
    passes: 'everything over the loopback device',
    why: 'it never leaves the machine',
  },
  {
    name: 'not-ip',
    passes: 'ARP and whatever else is neither IPv4 nor IPv6',
    why: 'policies speak of addresses; without ARP the machine reaches nobody',
  },
  {
    name: 'ssh',
    passes: 'TCP to the admin ports of the machine (22, or those of --admin-port), and its answers',
    why: 'the way in to mend a policy; sessions from before are kept by it, too',
    calls: ({ adminPorts }) =>
      adminPorts.map((port) => ({ peer: undefined, port, protocol: 'TCP', direction: 'ingress' })),
  },
  {
    name: 'cluster',
    passes: "TCP from the machine to the addresses and ports of its cluster's registry and etcd",
    why: 'a policy comes from there, and so does the one that mends it',
    calls: ({ servers }) =>
      servers.map(({ address, port }) => ({
        peer: address,
        port,
        protocol: 'TCP',
        direction: 'egress',
      })),
  },
  {
    name: 'mesh-services',
    passes: 'TCP from the machine to nodes of the mesh, by the ports of the mesh itself',
    why: 'as without the firewall: health of nodes, and servers that move',
  },
  {
    name: 'tunnel',
    passes: 'the tunnel (UDP 8472, or --tunnel-port) to and from hosts of the mesh',
    why: 'what is in it is judged where it goes in, and where it comes out',
  },
  {
    name: 'dns',
    passes: 'UDP and TCP 53 from the machine to the resolvers that it uses',
    why: 'the registry may be called by name; names that are cached fail only after the trial',
    calls: ({ resolvers }) =>
      resolvers.flatMap((peer) =>
        (['UDP', 'TCP'] as const).map((protocol) => ({
          peer,
          port: DNS,
          protocol,
          direction: 'egress',
        })),
      ),
  },
  {
    name: 'ntp',
    passes: 'UDP 123 from the machine',
    why: 'a clock that is wrong ends certificates, weeks after the trial; servers of a pool change',
    calls: () => [{ peer: undefined, port: NTP, protocol: 'UDP', direction: 'egress' }],
  },
  {
    name: 'dhcp',
    passes: 'the client of DHCP and DHCPv6 (UDP 68 to 67 and 546 to 547, and back)',
    why: 'a lease ends hours after the trial, and the address with it',
  },
  {
    name: 'neighbours',
    passes: 'ICMPv6 neighbour discovery and router advertisements, MLD; IGMP',
    why: 'without it the machine has no IPv6 on its link, and switches forget who listens',
  },
  {
    name: 'path-mtu',
    passes: '"fragmentation needed" of ICMP and "packet too big" of ICMPv6',
    why: 'connections would hang for want of them, long ones first',
  },
  {
    name: 'errors',
    passes: 'other ICMP errors, about flows that were let through',
    why: 'who calls in vain is told so at once',
  },
];

/** Calls by address and port that are to be open, each once. */
export function fixedCalls(places: FixedPlaces): FirewallCall[] {
  const calls = FIXED_RULES.flatMap((rule) => rule.calls?.(places) ?? []);
  return [...new Map(calls.map((call) => [JSON.stringify(call), call])).values()];
}

/** A call in words: `egress TCP 192.0.2.7:2379`, `ingress TCP 22`. */
export function callText({ peer, port, protocol, direction }: FirewallCall): string {
  const to = peer?.includes(':')
    ? `[${peer}]:${port}`
    : peer === undefined
      ? port
      : `${peer}:${port}`;
  return `${direction} ${protocol} ${to}`;
}
