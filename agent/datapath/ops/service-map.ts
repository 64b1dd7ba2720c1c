/** The two kernel maps behind services, row by row: slots of frontends, and backends by id. */
import type { IpAddress } from '../../../mesh/wire/ip.ts';
import {
  BACKEND,
  protocolName,
  protocolNumber,
  readAddress,
  SERVICE_KEY,
  SERVICE_SCOPES,
  SERVICE_VALUE,
  writeAddress,
} from '../../../mesh/wire/maps.ts';
import { DatapathError } from '../datapath-error.ts';
import type { Backend, FrontendKey } from '../desired.ts';
import type { RowCodec } from '../map.ts';

/** Entry of the service map: slot 0 tells what the frontend is, the others one backend each. */
export interface SlotKey {
  readonly frontend: FrontendKey;
  readonly slot: number;
}

/** All but `backendId` counts in slot 0 only, `backendId` in slots from 1 only; what does not count is 0. */
export interface SlotRow extends SlotKey {
  /** Number of backends. */
  readonly count: number;
  readonly backendId: number;
  readonly serviceId: number;
  readonly affinitySeconds: number;
  readonly maglevSize: number;
  /** SERVICE_EXTERNAL, SERVICE_MAGLEV, SERVICE_WRITING. */
  readonly flags: number;
}

export interface BackendKey {
  readonly id: number;
}

export interface BackendRow extends BackendKey {
  readonly backend: Backend;
}

/** Text of a frontend's key, equal for equal frontends. */
export function frontendKeyOf({ address, port, protocol, scope }: FrontendKey): string {
  return `${protocol} ${address} ${port} ${scope}`;
}

/** A slot that holds a backend. `slot` counts from 1. */
export function backendSlot(frontend: FrontendKey, slot: number, backendId: number): SlotRow {
  return {
    frontend,
    slot,
    backendId,
    count: 0,
    serviceId: 0,
    affinitySeconds: 0,
    maglevSize: 0,
    flags: 0,
  };
}

export const slotCodec: RowCodec<SlotRow, SlotKey> = {
  keySize: SERVICE_KEY.size,
  valueSize: SERVICE_VALUE.size,
  writeKey(view, offset, { frontend, slot }) {
    const { fields } = SERVICE_KEY;
    writeAddress(view, offset + fields.address, frontend.address);
    view.setUint16(offset + fields.port, checkPort(frontend.port, frontend.address));
    view.setUint8(offset + fields.protocol, protocolNumber(frontend.protocol));
    view.setUint8(offset + fields.scope, SERVICE_SCOPES.indexOf(frontend.scope));
    view.setUint32(offset + fields.slot, slot, true);
  },
  writeValue(view, offset, row) {
    const { fields } = SERVICE_VALUE;
    view.setUint32(offset + fields.count, row.count, true);
    view.setUint32(offset + fields.backendId, row.backendId, true);
    view.setUint32(offset + fields.serviceId, row.serviceId, true);
    view.setUint32(offset + fields.affinitySeconds, row.affinitySeconds, true);
    view.setUint32(offset + fields.maglevSize, row.maglevSize, true);
    view.setUint16(offset + fields.flags, row.flags, true);
  },
  readRow(keys, keyOffset, values, valueOffset) {
    const { fields } = SERVICE_KEY;
    const value = SERVICE_VALUE.fields;
    const address = readAddress(keys, keyOffset + fields.address);
    return {
      frontend: {
        address,
        port: keys.getUint16(keyOffset + fields.port),
        protocol: readProtocol(keys.getUint8(keyOffset + fields.protocol), address),
        scope: readScope(keys.getUint8(keyOffset + fields.scope), address),
      },
      slot: keys.getUint32(keyOffset + fields.slot, true),
      count: values.getUint32(valueOffset + value.count, true),
      backendId: values.getUint32(valueOffset + value.backendId, true),
      serviceId: values.getUint32(valueOffset + value.serviceId, true),
      affinitySeconds: values.getUint32(valueOffset + value.affinitySeconds, true),
      maglevSize: values.getUint32(valueOffset + value.maglevSize, true),
      flags: values.getUint16(valueOffset + value.flags, true),
    };
  },
  describe: ({ frontend, slot }) => `frontend ${frontendKeyOf(frontend)} slot ${slot}`,
};

export const backendCodec: RowCodec<BackendRow, BackendKey> = {
  keySize: 4,
  valueSize: BACKEND.size,
  writeKey: (view, offset, { id }) => view.setUint32(offset, id, true),
  writeValue(view, offset, { backend }) {
    const { fields } = BACKEND;
    writeAddress(view, offset + fields.address, backend.address);
    view.setUint16(offset + fields.port, checkPort(backend.port, backend.address));
    view.setUint16(offset + fields.clusterId, backend.clusterId, true);
    view.setUint8(offset + fields.protocol, protocolNumber(backend.protocol));
  },
  readRow(keys, keyOffset, values, valueOffset) {
    const { fields } = BACKEND;
    const address = readAddress(values, valueOffset + fields.address);
    return {
      id: keys.getUint32(keyOffset, true),
      backend: {
        address,
        port: values.getUint16(valueOffset + fields.port),
        protocol: readProtocol(values.getUint8(valueOffset + fields.protocol), address),
        clusterId: values.getUint16(valueOffset + fields.clusterId, true),
      },
    };
  },
  describe: ({ id }) => `backend ${id}`,
};

function checkPort(port: number, address: IpAddress): number {
  if (Number.isInteger(port) && port >= 1 && port <= 0xffff) return port;
  throw new DatapathError('bad-row', `cannot write ${address} port ${port}: expected 1 to 65535`);
}

function readProtocol(number: number, address: IpAddress): FrontendKey['protocol'] {
  const name = protocolName(number);
  if (name !== undefined) return name;
  throw new DatapathError('kernel', `cannot read service map: ${address} has protocol ${number}`);
}

function readScope(number: number, address: IpAddress): FrontendKey['scope'] {
  const scope = SERVICE_SCOPES[number];
  if (scope !== undefined) return scope;
  throw new DatapathError('kernel', `cannot read service map: ${address} has scope ${number}`);
}
