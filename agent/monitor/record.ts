/** Records of the ring of events, from bytes: pure. Their layout is in `mesh/wire/maps.ts` and `bpf/lib/wire.h`. */
import type { IpAddress } from '../../mesh/wire/ip.ts';
import {
  DIRECTIONS,
  EVENT,
  EVENT_KINDS,
  FLOW_STATES,
  protocolName,
  readAddress,
  SERVICE_EVENT,
} from '../../mesh/wire/maps.ts';
import type { Protocol } from '../../mesh/wire/service.ts';
import { MonitorError } from './monitor-error.ts';

/** Kinds of records about single packets. */
export type PacketKind = Exclude<(typeof EVENT_KINDS)[number], 'service'>;

/** A packet that was dropped, or went on; `policy-audit`: one that went on although policy denies it. */
export interface PacketRecord {
  readonly kind: PacketKind;
  /** Monotonic clock of the machine, as `process.hrtime` has it. */
  readonly timestampNs: bigint;
  /** Number of REASONS; of a `policy-audit`, the drop's that audit mode has spared. */
  readonly reason: number;
  readonly direction: (typeof DIRECTIONS)[number];
  readonly state: (typeof FLOW_STATES)[number];
  readonly ifindex: number;
  /** 0: not known when it was written. */
  readonly sourceIdentity: number;
  readonly destinationIdentity: number;
  /** Of the whole packet, in bytes. */
  readonly length: number;
  /** 0: none. */
  readonly endpointId: number;
  /** Its first bytes, from the Ethernet header on. */
  readonly packet: Uint8Array;
}

/** A socket's call to a service. */
export interface ServiceRecord {
  readonly kind: 'service';
  readonly timestampNs: bigint;
  readonly reason: number;
  readonly direction: (typeof DIRECTIONS)[number];
  readonly protocol: Protocol;
  readonly frontend: { readonly address: IpAddress; readonly port: number };
  /** Undefined: the call was refused. */
  readonly backend:
    | { readonly address: IpAddress; readonly port: number; readonly clusterId: number }
    | undefined;
  readonly cookie: bigint;
}

/** What the programs tell. */
export type EventRecord = PacketRecord | ServiceRecord;

/** The same in all kinds. */
const KIND_OFFSET = EVENT.fields.kind;

/** Splits a batch into its records: each has its length, u32, in front. Throws MonitorError `bad-record`. */
export function* splitRecords(batch: Uint8Array): Generator<Uint8Array> {
  const view = new DataView(batch.buffer, batch.byteOffset, batch.byteLength);
  for (let offset = 0; offset < batch.length; ) {
    if (offset + 4 > batch.length)
      throw shortOf('the length of a record', 4, batch.length - offset);
    const length = view.getUint32(offset, true);
    offset += 4;
    if (offset + length > batch.length) throw shortOf('a record', length, batch.length - offset);
    yield batch.subarray(offset, offset + length);
    offset += length;
  }
}

/** Decodes one record. Throws MonitorError `bad-record`. */
export function decodeRecord(bytes: Uint8Array): EventRecord {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length <= KIND_OFFSET) throw shortOf('an event', EVENT.size, bytes.length);
  const number = view.getUint8(KIND_OFFSET);
  const kind = EVENT_KINDS[number - 1];
  switch (kind) {
    case 'drop':
    case 'trace':
    case 'policy-audit':
      return decodePacket(kind, view, bytes);
    case 'service':
      return decodeService(view);
    case undefined:
      throw new MonitorError(
        'bad-record',
        `cannot read an event of kind ${number}: expected 1 to ${EVENT_KINDS.length}`,
      );
    default:
      return kind satisfies never;
  }
}

function decodePacket(kind: PacketKind, view: DataView, bytes: Uint8Array): PacketRecord {
  if (bytes.length < EVENT.size) throw shortOf(`a ${kind} event`, EVENT.size, bytes.length);
  const { fields } = EVENT;
  const captured = Math.min(view.getUint16(fields.captured, true), EVENT.size - fields.packet);
  return {
    kind,
    timestampNs: view.getBigUint64(fields.timestampNs, true),
    reason: view.getUint8(fields.reason),
    direction: directionOf(view.getUint8(fields.direction)),
    state: FLOW_STATES[view.getUint8(fields.state)] ?? 'unknown',
    ifindex: view.getUint32(fields.ifindex, true),
    sourceIdentity: view.getUint32(fields.sourceIdentity, true),
    destinationIdentity: view.getUint32(fields.destinationIdentity, true),
    length: view.getUint32(fields.length, true),
    endpointId: view.getUint16(fields.endpointId, true),
    packet: bytes.subarray(fields.packet, fields.packet + captured),
  };
}

function decodeService(view: DataView): ServiceRecord {
  const { size, fields } = SERVICE_EVENT;
  if (view.byteLength < size) throw shortOf('a service event', size, view.byteLength);
  const number = view.getUint8(fields.protocol);
  const protocol = protocolName(number);
  if (protocol === undefined) {
    throw new MonitorError(
      'bad-record',
      `cannot read protocol ${number} of a service event: expected TCP, UDP or SCTP`,
    );
  }
  const backendPort = view.getUint16(fields.backendPort);
  return {
    kind: 'service',
    timestampNs: view.getBigUint64(fields.timestampNs, true),
    reason: view.getUint8(fields.reason),
    direction: directionOf(view.getUint8(fields.direction)),
    protocol,
    frontend: {
      address: readAddress(view, fields.frontend),
      port: view.getUint16(fields.frontendPort),
    },
    backend:
      backendPort === 0
        ? undefined
        : {
            address: readAddress(view, fields.backend),
            port: backendPort,
            clusterId: view.getUint16(fields.clusterId, true),
          },
    cookie: view.getBigUint64(fields.cookie, true),
  };
}

function directionOf(number: number): (typeof DIRECTIONS)[number] {
  const direction = DIRECTIONS[number];
  if (direction !== undefined) return direction;
  throw new MonitorError(
    'bad-record',
    `cannot read direction ${number} of an event: expected 0 or 1`,
  );
}

function shortOf(what: string, expected: number, found: number): MonitorError {
  return new MonitorError(
    'bad-record',
    `cannot read ${what}: ${found} bytes, expected ${expected}`,
  );
}
