/** Backends of a peer's service as an EndpointSlice can hold them. Pure. */
import { type IpAddress, ipFamily } from '../../mesh/wire/ip.ts';
import type { ClusterService, PortMap } from '../../mesh/wire/service.ts';
import type { AddressType, SliceEndpoint, SlicePort } from './slice-object.ts';

/** Endpoints of one family with the same ports: they can share slices. */
export interface EndpointGroup {
  readonly addressType: AddressType;
  /** Sorted by name. */
  readonly ports: readonly SlicePort[];
  /** By address, in the order of the addresses. */
  readonly endpoints: ReadonlyMap<string, SliceEndpoint>;
}

/** What can be written of a service, and what not. */
export interface SliceContent {
  readonly groups: readonly EndpointGroup[];
  /** What Kubernetes would refuse, with the reason: left out, so that the rest can be written. */
  readonly refused: readonly string[];
}

/** Names of hosts and of ports in an EndpointSlice. */
const DNS_LABEL = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;

/** Sorts the backends of a service into groups, for the families that the local Service has. */
export function groupEndpoints(
  service: ClusterService,
  families: readonly AddressType[],
): SliceContent {
  const refused = new Set<string>();
  const groups = new Map<
    string,
    { addressType: AddressType; ports: readonly SlicePort[]; endpoints: Map<string, SliceEndpoint> }
  >();
  for (const address of [...service.backends.keys()].sort()) {
    const addressType = ipFamily(address) === 4 ? 'IPv4' : 'IPv6';
    if (!families.includes(addressType)) continue;
    if (isSpecial(address)) {
      refused.add(`address ${address} is of a network that no endpoint may be in`);
      continue;
    }
    const ports = portsOf(service.backends.get(address) ?? new Map(), refused);
    const id = JSON.stringify([addressType, ports]);
    const group = groups.get(id) ?? { addressType, ports, endpoints: new Map() };
    groups.set(id, group);
    const hostname = hostnameOf(service.hostnames?.get(address), refused);
    group.endpoints.set(address, { address, hostname });
  }
  return { groups: [...groups.values()], refused: [...refused] };
}

function portsOf(ports: PortMap, refused: Set<string>): SlicePort[] {
  const list: SlicePort[] = [];
  for (const [name, { protocol, port }] of ports) {
    if (name !== '' && !DNS_LABEL.test(name)) refused.add(`port name "${name}" is no DNS label`);
    else if (port < 1) refused.add(`port ${port} of "${name}" is no port`);
    else list.push({ name, protocol, port });
  }
  return list.sort((a, b) => (a.name < b.name ? -1 : 1));
}

function hostnameOf(hostname: string | undefined, refused: Set<string>): string | undefined {
  if (hostname === undefined || hostname === '') return undefined;
  if (DNS_LABEL.test(hostname)) return hostname;
  refused.add(`hostname "${hostname}" is no DNS label`);
  return undefined;
}

/** Addresses that Kubernetes refuses in a slice (`ValidateEndpointIP`): one of them would keep all others from being written. */
function isSpecial(address: IpAddress): boolean {
  if (ipFamily(address) === 4) return /^(0\.0\.0\.0$|127\.|169\.254\.|224\.0\.0\.)/.test(address);
  return /^(::$|::1$|fe[89ab][0-9a-f]:|ff02:|::ffff:)/.test(address);
}
