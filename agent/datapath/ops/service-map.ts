/** The two kernel maps behind services, row by row: slots of frontends, and backends by id. */
import type { IpAddress } from '../../../mesh/wire/ip.ts';
import {
  BACKEND,
  protocolName,
  protocolNumber,
  readAddress,
  SERVICE_KEY,
  SERVICE_VALUE,
  writeAddress,
} from '../../../mesh/wire/maps.ts';
import { DatapathError } from '../datapath-error.ts';
import type { Backend, FrontendEntry } from '../desired.ts';
import type { RowCodec } from '../map.ts';

/** Address, port and protocol that clients call. */
export type FrontendKey = Pick<FrontendEntry, 'address' | 'port' | 'protocol'>;

/** Entry of the service map: slot 0 tells the number of backends, the others one backend each. */
export interface SlotKey {
  readonly frontend: FrontendKey;
  readonly slot: number;
}

export interface SlotRow extends SlotKey {
  /** Slot 0 only. */
  readonly count: number;
  /** Slots from 1 only. */
  readonly backendId: number;
}

export interface BackendKey {
  readonly id: number;
}

export interface BackendRow extends BackendKey {
  readonly backend: Backend;
}

/** Text of a frontend's key, equal for equal frontends. */
export function frontendKeyOf({ address, port, protocol }: FrontendKey): string {
  return `${protocol} ${address} ${port}`;
}

export const slotCodec: RowCodec<SlotRow, SlotKey> = {
  keySize: SERVICE_KEY.size,
  valueSize: SERVICE_VALUE.size,
  writeKey(view, offset, { frontend, slot }) {
    const { fields } = SERVICE_KEY;
    writeAddress(view, offset + fields.address, frontend.address);
    view.setUint16(offset + fields.port, checkPort(frontend.port, frontend.address));
    view.setUint8(offset + fields.protocol, protocolNumber(frontend.protocol));
    view.setUint32(offset + fields.slot, slot, true);
  },
  writeValue(view, offset, { count, backendId }) {
    view.setUint32(offset + SERVICE_VALUE.fields.count, count, true);
    view.setUint32(offset + SERVICE_VALUE.fields.backendId, backendId, true);
  },
  readRow(keys, keyOffset, values, valueOffset) {
    const { fields } = SERVICE_KEY;
    const address = readAddress(keys, keyOffset + fields.address);
    return {
      frontend: {
        address,
        port: keys.getUint16(keyOffset + fields.port),
        protocol: readProtocol(keys.getUint8(keyOffset + fields.protocol), address),
      },
      slot: keys.getUint32(keyOffset + fields.slot, true),
      count: values.getUint32(valueOffset + SERVICE_VALUE.fields.count, true),
      backendId: values.getUint32(valueOffset + SERVICE_VALUE.fields.backendId, true),
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
