/** Network interfaces as iproute2 tells them (`ip -json`). */
import { type IpAddress, parseIpAddress } from '../../mesh/wire/ip.ts';

/** An interface of one network namespace. */
export interface Link {
  readonly ifindex: number;
  readonly ifname: string;
  /** MAC address; empty where it has none. */
  readonly address: string;
  /** Index of the other end, in its own namespace; undefined where there is none, or it is in the same namespace. */
  readonly linkIndex: number | undefined;
  /** Number of the network namespace that the other end is in, as this one knows it; undefined where there is none. */
  readonly linkNamespace: number | undefined;
  /** Addresses of global scope; none where only links were asked for. */
  readonly addresses: readonly IpAddress[];
}

type Fields = Readonly<Record<string, unknown>>;

/** Parses the output of `ip -json link show` or `ip -json address show`. Entries that are no interfaces are left out. */
export function parseLinks(text: string): Link[] {
  const parsed: unknown = JSON.parse(text.trim() === '' ? '[]' : text);
  return listOf(parsed).flatMap(parseLink);
}

function parseLink(object: Fields): Link[] {
  const { ifindex, ifname, address, link_index: linkIndex, link_netnsid: namespace } = object;
  if (typeof ifindex !== 'number' || typeof ifname !== 'string') return [];
  return [
    {
      ifindex,
      ifname,
      address: typeof address === 'string' ? address : '',
      linkIndex: typeof linkIndex === 'number' ? linkIndex : undefined,
      linkNamespace: typeof namespace === 'number' ? namespace : undefined,
      addresses: listOf(object.addr_info).flatMap(parseGlobalAddress),
    },
  ];
}

function parseGlobalAddress({ local, scope }: Fields): IpAddress[] {
  if (scope !== 'global' || typeof local !== 'string') return [];
  try {
    return [parseIpAddress(local)];
  } catch {
    // Such as an IPv4-mapped one: nothing that an endpoint can have.
    return [];
  }
}

function listOf(value: unknown): Fields[] {
  return Array.isArray(value)
    ? value.filter((entry): entry is Fields => typeof entry === 'object' && entry !== null)
    : [];
}
