/** The host as an endpoint: a machine all the time, a node as long as policies are about it. */
import { type NumericIdentity, reservedIdentity } from '../../mesh/wire/ids.ts';
import { HOST_ENDPOINT_ID } from '../../mesh/wire/maps.ts';
import type { EndpointEntry } from '../datapath/desired.ts';
import type { NodeContext } from '../merge/addresses.ts';
import type { LocalEndpoint } from './policy-state.ts';

/** Identity of a node to itself. */
export const HOST_IDENTITY: NumericIdentity = reservedIdentity('host');

/** The endpoint that stands for the host which an agent runs on. It has no interface. */
export function hostEndpoint(node: Pick<NodeContext, 'nodeIps' | 'hostEndpoint'>): LocalEndpoint {
  return {
    endpointId: HOST_ENDPOINT_ID,
    addresses: node.nodeIps,
    ifindex: 0,
    hostInterface: '',
    mac: '00:00:00:00:00:00',
    host: node.hostEndpoint ?? 'node',
  };
}

/** The part of a kernel row that says where an endpoint is. The host's stands under no address. */
export function placeOf({
  endpointId,
  addresses,
  ifindex,
  hostInterface,
  mac,
  host,
}: LocalEndpoint): Pick<
  EndpointEntry,
  'endpointId' | 'addresses' | 'ifindex' | 'hostInterface' | 'mac'
> {
  const places = host === undefined ? addresses : [];
  return { endpointId, addresses: places, ifindex, hostInterface, mac };
}
