/** The few messages of etcd's upkeep (etcd `api/etcdserverpb/rpc.proto`), encoded and decoded. Pure. */
import {
  BYTES,
  bytesField,
  forEachField,
  VARINT,
  varintField,
  varintValue,
} from '../gate/protobuf.ts';

/** Methods that upkeep calls. */
export const STATUS_METHOD = '/etcdserverpb.Maintenance/Status';
export const ALARM_METHOD = '/etcdserverpb.Maintenance/Alarm';
export const DEFRAGMENT_METHOD = '/etcdserverpb.Maintenance/Defragment';
export const COMPACT_METHOD = '/etcdserverpb.KV/Compact';

const DEACTIVATE = 2;
/** `AlarmType.NOSPACE`. */
const NOSPACE = 1;

/** What etcd says of its database. */
export interface DatabaseStatus {
  readonly revision: number;
  /** Size of its file. */
  readonly sizeBytes: number;
  /** What of it is in use; the rest comes back by defragmentation. */
  readonly inUseBytes: number;
}

/** Decodes a `StatusResponse`. Throws ProtobufError. */
export function decodeStatus(message: Buffer): DatabaseStatus {
  let revision = 0;
  let sizeBytes = 0;
  let inUseBytes = 0;
  forEachField(message, ({ number, type, value }) => {
    if (number === 1 && type === BYTES) revision = headerRevision(value);
    if (number === 3 && type === VARINT) sizeBytes = varintValue(value);
    if (number === 9 && type === VARINT) inUseBytes = varintValue(value);
  });
  return { revision, sizeBytes, inUseBytes };
}

function headerRevision(header: Buffer): number {
  let revision = 0;
  forEachField(header, ({ number, type, value }) => {
    if (number === 3 && type === VARINT) revision = varintValue(value);
  });
  return revision;
}

/** Asks for every alarm that is on. */
export function encodeAlarmQuery(): Buffer {
  return Buffer.alloc(0);
}

/** An alarm of a member, as bytes, to be handed back. */
export interface Alarm {
  readonly isNoSpace: boolean;
  /** The field `memberID` of the request that switches it off. */
  readonly member: Buffer;
}

/** Decodes an `AlarmResponse`. Throws ProtobufError. */
export function decodeAlarms(message: Buffer): readonly Alarm[] {
  const alarms: Alarm[] = [];
  forEachField(message, ({ number, type, value: alarm }) => {
    if (number !== 2 || type !== BYTES) return;
    let kind = 0;
    let member = Buffer.alloc(0);
    forEachField(alarm, (field) => {
      if (field.type !== VARINT) return;
      // Ids are 64 bits wide: their bytes are taken along unread.
      if (field.number === 1) member = Buffer.concat([Buffer.from([2 * 8 + VARINT]), field.value]);
      if (field.number === 2) kind = varintValue(field.value);
    });
    alarms.push({ isNoSpace: kind === NOSPACE, member });
  });
  return alarms;
}

/** Switches an alarm for want of space off. */
export function encodeDisarm(alarm: Alarm): Buffer {
  return Buffer.concat([varintField(1, DEACTIVATE), alarm.member, varintField(3, NOSPACE)]);
}

/** Compacts up to a revision, and answers when the space is free inside the database. */
export function encodeCompact(revision: number): Buffer {
  return Buffer.concat([varintField(1, revision), varintField(2, 1)]);
}

/** An empty key of a request without fields. */
export const EMPTY_REQUEST = bytesField(1, '');
