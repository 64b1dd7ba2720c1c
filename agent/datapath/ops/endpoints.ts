import { parseNumericIdentity, reservedIdentity } from '../../../mesh/wire/ids.ts';
import { type IpAddress, parseIpAddress } from '../../../mesh/wire/ip.ts';
import {
  ADDRESS_SIZE,
  ENDPOINT,
  ENDPOINT_AUDIT,
  ENDPOINT_EGRESS_ENFORCED,
  ENDPOINT_INGRESS_ENFORCED,
  HOST_ENDPOINT_ID,
  readAddress,
  writeAddress,
} from '../../../mesh/wire/maps.ts';
import { raisePolicyRevision, writeHostJudged } from '../config.ts';
import { DatapathError } from '../datapath-error.ts';
import type { DatapathTable, EndpointEntry } from '../desired.ts';
import { createRowMap, type RowCodec, throwFirst } from '../map.ts';
import type { OpenMaps } from '../object.ts';

type EndpointKey = Pick<EndpointEntry, 'endpointId' | 'addresses'>;

/** One kernel entry: an endpoint under one of its addresses. */
interface AddressKey {
  readonly address: IpAddress;
}

interface AddressRow extends AddressKey {
  readonly endpoint: EndpointEntry;
}

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const NAME_SIZE = 16;
const HOST = reservedIdentity('host');
/** Where the host's row stands: nobody has this address. */
const NO_ADDRESS = parseIpAddress('::');

/** Whether a row is that of the host itself. */
export function isHostRow({ endpointId }: Pick<EndpointEntry, 'endpointId'>): boolean {
  return endpointId === HOST_ENDPOINT_ID;
}

/** Whether programs have to look at what the host sends and gets: a node's policy, or a machine, whatever its policy. */
export function isHostJudged(
  row: Pick<EndpointEntry, 'identity' | 'ingressEnforced' | 'egressEnforced'>,
): boolean {
  return row.identity !== HOST || row.ingressEnforced || row.egressEnforced;
}

/**
 * Endpoints by address. An upsert also removes addresses that the same endpoint had before and has no more; a delete
 * needs the addresses, and removes every other address of that endpoint id with them. Flows are judged again: an endpoint
 * may be another one than before, and so may whoever has an address. The configuration says whether the host is one of them.
 */
export function openEndpointsTable(
  maps: OpenMaps,
): DatapathTable<EndpointEntry, Pick<EndpointEntry, 'endpointId' | 'addresses'>> {
  const map = createRowMap(maps.get('mesh_endpoints'), endpointCodec);
  const config = maps.get('mesh_config');
  /** Addresses in the kernel by endpoint id, so that an upsert can tell what it replaces. */
  const held = new Map<number, Set<IpAddress>>();
  let host: EndpointEntry | undefined;
  for (const row of map.rows()) {
    const addresses = held.get(row.endpoint.endpointId) ?? new Set();
    held.set(row.endpoint.endpointId, addresses.add(row.address));
    if (isHostRow(row.endpoint)) host = row.endpoint;
  }
  // A new configuration does not know yet what an old row says.
  writeHostJudged(config, host !== undefined && isHostJudged(host));

  function upsert(endpoint: EndpointEntry): DatapathError[] {
    const before = held.get(endpoint.endpointId) ?? new Set<IpAddress>();
    const places = isHostRow(endpoint) ? [NO_ADDRESS] : endpoint.addresses;
    const failures = map.upsert(places.map((address) => ({ address, endpoint })));
    const after = new Set(places);
    const gone = [...before].filter((address) => !after.has(address));
    failures.push(...removeOwned(endpoint.endpointId, gone));
    // After a failure the row is applied again, and must find what may still be there.
    held.set(endpoint.endpointId, failures.length === 0 ? after : new Set([...before, ...after]));
    if (isHostRow(endpoint) && failures.length === 0) {
      writeHostJudged(config, isHostJudged(endpoint));
    }
    return failures;
  }

  function remove(key: EndpointKey): DatapathError[] {
    if (isHostRow(key)) writeHostJudged(config, false);
    const addresses = new Set([...key.addresses, ...(held.get(key.endpointId) ?? [])]);
    const failures = removeOwned(key.endpointId, [...addresses]);
    if (failures.length === 0) held.delete(key.endpointId);
    return failures;
  }

  /** An address that another endpoint has taken over meanwhile stays that one's. */
  function removeOwned(endpointId: number, addresses: readonly IpAddress[]): DatapathError[] {
    const owned = addresses.filter(
      (address) => map.get({ address })?.endpoint.endpointId === endpointId,
    );
    return map.remove(owned.map((address) => ({ address })));
  }

  return {
    name: 'endpoints',
    apply({ upserts, deletes }) {
      // Who takes over an address is not to inherit what its flows were allowed.
      const isChange =
        deletes.length > 0 ||
        upserts.some(
          ({ endpointId, addresses }) =>
            held.has(endpointId) || addresses.some((address) => map.get({ address }) !== undefined),
        );
      const failures = [...upserts.flatMap(upsert), ...deletes.flatMap(remove)];
      if (isChange) raisePolicyRevision(config);
      throwFirst(failures);
    },
    rows: () => groupByEndpoint(map.rows()),
    keyOf: (row) => String(row.endpointId),
  };
}

function groupByEndpoint(rows: readonly AddressRow[]): EndpointEntry[] {
  const endpoints = new Map<number, { entry: EndpointEntry; addresses: IpAddress[] }>();
  for (const { address, endpoint } of rows) {
    const found = endpoints.get(endpoint.endpointId);
    if (found === undefined) {
      endpoints.set(endpoint.endpointId, { entry: endpoint, addresses: [address] });
    } else {
      found.addresses.push(address);
    }
  }
  return [...endpoints.values()].map(({ entry, addresses }) => ({
    ...entry,
    addresses: isHostRow(entry) ? [] : addresses.sort(),
  }));
}

const endpointCodec: RowCodec<AddressRow, AddressKey> = {
  keySize: ADDRESS_SIZE,
  valueSize: ENDPOINT.size,
  writeKey: (view, offset, { address }) => writeAddress(view, offset, address),
  writeValue: (view, offset, { endpoint }) => writeEndpoint(view, offset, endpoint),
  readRow(keys, keyOffset, values, valueOffset) {
    const address = readAddress(keys, keyOffset);
    return { address, endpoint: readEndpoint(values, valueOffset, address) };
  },
  describe: ({ address }) => `endpoint address ${address}`,
};

function writeEndpoint(view: DataView, offset: number, row: EndpointEntry): void {
  const { fields } = ENDPOINT;
  const { endpointId } = row;
  if (!Number.isInteger(endpointId) || endpointId < 1 || endpointId > 0xffff) {
    throw new DatapathError(
      'bad-row',
      `cannot write endpoint ${endpointId}: expected an id of 1 to 65535`,
    );
  }
  const name = new TextEncoder().encode(row.hostInterface);
  if (name.length >= NAME_SIZE) {
    throw new DatapathError(
      'bad-row',
      `cannot write endpoint ${endpointId}: interface name ${row.hostInterface} is longer than 15 bytes`,
    );
  }
  if (!MAC.test(row.mac)) {
    throw new DatapathError(
      'bad-row',
      `cannot write endpoint ${endpointId}: mac ${row.mac} is not of the form aa:bb:cc:dd:ee:ff`,
    );
  }
  const ingress = row.ingressEnforced ? ENDPOINT_INGRESS_ENFORCED : 0;
  const egress = row.egressEnforced ? ENDPOINT_EGRESS_ENFORCED : 0;
  view.setUint32(offset + fields.ifindex, row.ifindex, true);
  view.setUint32(offset + fields.identity, row.identity, true);
  view.setUint16(offset + fields.endpointId, endpointId, true);
  const audit = row.audit ? ENDPOINT_AUDIT : 0;
  view.setUint16(offset + fields.flags, ingress | egress | audit, true);
  row.mac.split(':').forEach((byte, index) => {
    view.setUint8(offset + fields.mac + index, Number.parseInt(byte, 16));
  });
  name.forEach((byte, index) => {
    view.setUint8(offset + fields.interface + index, byte);
  });
}

function readEndpoint(view: DataView, offset: number, address: IpAddress): EndpointEntry {
  const { fields } = ENDPOINT;
  const flags = view.getUint16(offset + fields.flags, true);
  const mac = bytesAt(view, offset + fields.mac, 6);
  const name = bytesAt(view, offset + fields.interface, NAME_SIZE);
  const end = name.indexOf(0);
  return {
    endpointId: view.getUint16(offset + fields.endpointId, true),
    addresses: [address],
    ifindex: view.getUint32(offset + fields.ifindex, true),
    hostInterface: new TextDecoder().decode(name.subarray(0, end === -1 ? NAME_SIZE : end)),
    mac: [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':'),
    identity: parseNumericIdentity(view.getUint32(offset + fields.identity, true)),
    ingressEnforced: (flags & ENDPOINT_INGRESS_ENFORCED) !== 0,
    egressEnforced: (flags & ENDPOINT_EGRESS_ENFORCED) !== 0,
    audit: (flags & ENDPOINT_AUDIT) !== 0,
  };
}

function bytesAt(view: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, length);
}
