/**
 * The messages of etcd that the gate looks into (etcd `api/etcdserverpb/rpc.proto`; `mesh/wire/etcd.proto` has the fields). Events are
 * cut out and passed on as they are; requests are read and written anew, so that etcd cannot read another thing in them than
 * the gate has checked. Pure.
 */
import {
  BYTES,
  bytesField,
  encodeVarint,
  forEachField,
  ProtobufError,
  VARINT,
  varintField,
  varintValue,
} from './protobuf.ts';

const NO_BYTES: Buffer = Buffer.alloc(0);
const LAST_RANGE_FIELD = 13;

/** A RangeRequest: the keys, and the message to pass on. */
export interface RangeRequest {
  readonly key: Buffer;
  readonly rangeEnd: Buffer;
  readonly canonical: Buffer;
}

/** What a client asks for on a watch stream. */
export type WatchRequest =
  | {
      readonly kind: 'create';
      readonly key: Buffer;
      readonly rangeEnd: Buffer;
      /** First revision wanted; 0 is from now on. */
      readonly startRevision: number;
      readonly progressNotify: boolean;
      readonly noPut: boolean;
      readonly noDelete: boolean;
      readonly prevKv: boolean;
      /** 0 leaves the choice to the server. */
      readonly watchId: number;
      readonly fragment: boolean;
    }
  | { readonly kind: 'cancel'; readonly watchId: number }
  | { readonly kind: 'progress' };

/** The header of an answer. Ids stay bytes: they use all 64 bits. */
export interface ResponseHeader {
  /** Encoded cluster and member id. */
  readonly ids: Buffer;
  readonly revision: number;
  /** Encoded raft term. */
  readonly term: Buffer;
}

/** One event, as encoded in a WatchResponse with its tag. */
export interface WatchEvent {
  readonly revision: number;
  readonly isDelete: boolean;
  readonly field: Buffer;
}

/** An answer of etcd on a watch stream. */
export interface WatchResponse {
  readonly header: ResponseHeader;
  readonly watchId: number;
  readonly created: boolean;
  readonly canceled: boolean;
  /** 0 unless the watch was cancelled because its start is compacted away. */
  readonly compactRevision: number;
  readonly cancelReason: string;
  /** More pieces of this answer follow. */
  readonly fragment: boolean;
  readonly events: readonly WatchEvent[];
}

/** Reads a RangeRequest. Throws ProtobufError. */
export function decodeRangeRequest(message: Buffer): RangeRequest {
  let key = NO_BYTES;
  let rangeEnd = NO_BYTES;
  const numbers = new Map<number, Buffer>();
  forEachField(message, ({ number, type, value, whole }) => {
    if (number === 1) key = expectBytes(value, type, 'key');
    else if (number === 2) rangeEnd = expectBytes(value, type, 'range_end');
    else if (number <= LAST_RANGE_FIELD && type === VARINT) numbers.set(number, whole);
    else throw new ProtobufError(`RangeRequest has the unknown field ${number}`);
  });
  const canonical = Buffer.concat([
    bytesField(1, key),
    bytesField(2, rangeEnd),
    ...[...numbers.entries()].sort(([a], [b]) => a - b).map(([, whole]) => whole),
  ]);
  return { key, rangeEnd, canonical };
}

/** Encodes the cheapest linearizable read of the newest revision: a count of one key. */
export function encodeCountRequest(key: Buffer): Buffer {
  return Buffer.concat([bytesField(1, key), varintField(9, 1)]);
}

/** Reads one WatchRequest. Throws ProtobufError; undefined for a kind that the gate does not know, which etcd ignores, too. */
export function decodeWatchRequest(message: Buffer): WatchRequest | undefined {
  let request: WatchRequest | undefined;
  forEachField(message, ({ number, type, value }) => {
    if (number === 1) request = decodeCreate(expectBytes(value, type, 'create_request'));
    else if (number === 2) {
      request = {
        kind: 'cancel',
        watchId: decodeCancel(expectBytes(value, type, 'cancel_request')),
      };
    } else if (number === 3) request = { kind: 'progress' };
  });
  return request;
}

/** Encodes a request to watch a range in the way the gate does: whole, in pieces, with notices of progress. */
export function encodeWatchCreate(options: {
  readonly key: Buffer;
  readonly rangeEnd: Buffer;
  readonly startRevision: number;
  readonly prevKv: boolean;
}): Buffer {
  const create = Buffer.concat([
    bytesField(1, options.key),
    bytesField(2, options.rangeEnd),
    varintField(3, options.startRevision),
    varintField(4, 1),
    varintField(6, options.prevKv ? 1 : 0),
    varintField(8, 1),
  ]);
  return bytesField(1, create);
}

/** A request for a sign of life on a watch stream; the answer has no watch's id but `PROGRESS_ID`. */
export const PROGRESS_REQUEST: Buffer = Buffer.from([3 * 8 + BYTES, 0]);
/** etcd's `clientv3.InvalidWatchID`: an answer that speaks for the whole stream. */
export const PROGRESS_ID = -1;

/** Reads an answer on a watch stream. Throws ProtobufError. */
export function decodeWatchResponse(message: Buffer): WatchResponse {
  let header: ResponseHeader = { ids: NO_BYTES, revision: 0, term: NO_BYTES };
  let [watchId, compactRevision, flags, cancelReason] = [0, 0, 0, ''];
  const events: WatchEvent[] = [];
  forEachField(message, ({ number, value, whole }) => {
    switch (number) {
      case 1:
        header = decodeHeader(value);
        break;
      case 2:
        watchId = varintValue(value);
        break;
      case 3:
      case 4:
      case 7:
        if (varintValue(value) !== 0) flags |= 1 << number;
        break;
      case 5:
        compactRevision = varintValue(value);
        break;
      case 6:
        cancelReason = value.toString();
        break;
      case 11:
        events.push(decodeEvent(value, whole));
    }
  });
  return {
    header,
    watchId,
    created: (flags & (1 << 3)) !== 0,
    canceled: (flags & (1 << 4)) !== 0,
    fragment: (flags & (1 << 7)) !== 0,
    compactRevision,
    cancelReason,
    events,
  };
}

/** The header of any answer, which is always its first field; undefined when there is none. */
export function decodeAnswerHeader(message: Buffer): ResponseHeader | undefined {
  if (message[0] !== 8 + BYTES) return undefined;
  let lengthEnd = 1;
  while ((message[lengthEnd] ?? 0) >= 0x80) lengthEnd += 1;
  lengthEnd += 1;
  const length = varintValue(message.subarray(1, lengthEnd));
  return decodeHeader(message.subarray(lengthEnd, lengthEnd + length));
}

/** Encodes an answer on a watch stream; `events` are fields as they came from etcd. */
export function encodeWatchResponse(response: {
  readonly header: ResponseHeader;
  readonly watchId: number;
  readonly created?: boolean;
  readonly canceled?: boolean;
  readonly compactRevision?: number;
  readonly cancelReason?: string;
  readonly fragment?: boolean;
  readonly events?: readonly Buffer[];
}): Buffer {
  const { ids, revision, term } = response.header;
  return Buffer.concat([
    bytesField(1, Buffer.concat([ids, varintField(3, revision), term])),
    varintField(2, response.watchId),
    varintField(3, response.created ? 1 : 0),
    varintField(4, response.canceled ? 1 : 0),
    varintField(5, response.compactRevision ?? 0),
    bytesField(6, response.cancelReason ?? ''),
    varintField(7, response.fragment ? 1 : 0),
    ...(response.events ?? []),
  ]);
}

/** Encodes a field of a number that may be given as it is: for tests and for other messages of a few numbers. */
export function encodeCancel(watchId: number): Buffer {
  const id = watchId === 0 ? NO_BYTES : Buffer.concat([Buffer.from([8]), encodeVarint(watchId)]);
  return Buffer.concat([Buffer.from([2 * 8 + BYTES]), encodeVarint(id.length), id]);
}

function decodeCreate(message: Buffer): WatchRequest {
  let key = NO_BYTES;
  let rangeEnd = NO_BYTES;
  const numbers = new Map<number, number>();
  const filters = new Set<number>();
  forEachField(message, ({ number, type, value }) => {
    if (number === 1) key = expectBytes(value, type, 'key');
    else if (number === 2) rangeEnd = expectBytes(value, type, 'range_end');
    else if (number === 5) {
      for (const filter of decodePacked(value, type)) filters.add(filter);
    } else if (type === VARINT) numbers.set(number, varintValue(value));
    else throw new ProtobufError(`WatchCreateRequest has the unknown field ${number}`);
  });
  const startRevision = numbers.get(3) ?? 0;
  const watchId = numbers.get(7) ?? 0;
  if (!Number.isSafeInteger(startRevision) || startRevision < 0) {
    throw new ProtobufError('start_revision is out of range');
  }
  if (!Number.isSafeInteger(watchId)) throw new ProtobufError('watch_id is out of range');
  return {
    kind: 'create',
    key,
    rangeEnd,
    startRevision,
    watchId,
    progressNotify: (numbers.get(4) ?? 0) !== 0,
    noPut: filters.has(0),
    noDelete: filters.has(1),
    prevKv: (numbers.get(6) ?? 0) !== 0,
    fragment: (numbers.get(8) ?? 0) !== 0,
  };
}

function decodeCancel(message: Buffer): number {
  let watchId = 0;
  forEachField(message, ({ number, value }) => {
    if (number === 1) watchId = varintValue(value);
  });
  return watchId;
}

/** Numbers of a repeated field: packed into one value by most encoders, one a field by others. */
function decodePacked(value: Buffer, type: number): number[] {
  if (type === VARINT) return [varintValue(value)];
  const numbers: number[] = [];
  let start = 0;
  for (let offset = 0; offset < value.length; offset += 1) {
    if ((value[offset] ?? 0) >= 0x80) continue;
    numbers.push(varintValue(value.subarray(start, offset + 1)));
    start = offset + 1;
  }
  return numbers;
}

function decodeHeader(message: Buffer): ResponseHeader {
  const ids: Buffer[] = [];
  let revision = 0;
  let term = NO_BYTES;
  forEachField(message, ({ number, value, whole }) => {
    if (number <= 2) ids.push(whole);
    else if (number === 3) revision = varintValue(value);
    else if (number === 4) term = whole;
  });
  return { ids: Buffer.concat(ids), revision, term };
}

function decodeEvent(message: Buffer, field: Buffer): WatchEvent {
  let isDelete = false;
  let revision = 0;
  forEachField(message, ({ number, value }) => {
    if (number === 1) isDelete = varintValue(value) === 1;
    else if (number === 2) {
      forEachField(value, (inner) => {
        if (inner.number === 3) revision = varintValue(inner.value);
      });
    }
  });
  return { revision, isDelete, field };
}

function expectBytes(value: Buffer, type: number, name: string): Buffer {
  if (type !== BYTES) throw new ProtobufError(`${name} is a number, expected bytes`);
  return value;
}
