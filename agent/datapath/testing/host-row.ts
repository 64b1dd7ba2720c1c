import { parseNumericIdentity } from '../../../mesh/wire/ids.ts';
import { HOST_ENDPOINT_ID } from '../../../mesh/wire/maps.ts';
import type { EndpointEntry } from '../desired.ts';

/** The row of a host that is judged, as the agent would write it: with no direction enforced unless `fields` say so. */
export function testHostRow(identity: number, fields: Partial<EndpointEntry> = {}): EndpointEntry {
  return {
    endpointId: HOST_ENDPOINT_ID,
    addresses: [],
    ifindex: 0,
    hostInterface: '',
    mac: '00:00:00:00:00:00',
    identity: parseNumericIdentity(identity),
    ingressEnforced: false,
    egressEnforced: false,
    audit: false,
    ...fields,
  };
}
