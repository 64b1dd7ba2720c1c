import { KvError, type KvPair } from './kvstore.ts';
import { type ProtobufReader, readProtobuf } from './protobuf-reader.ts';

/** Who answered, and at which revision. */
export interface EtcdHeader {
  /** Cluster id in hex, as etcd's tools print it; `0` when the answer had none. */
  readonly clusterId: string;
  readonly revision: bigint;
}

/** One page of a range. */
export interface RangeAnswer {
  readonly header: EtcdHeader;
  readonly pairs: readonly KvPair[];
  readonly more: boolean;
  /** Keys in the whole range, as the server says. */
  readonly count: number;
}

/** A change inside a watch answer. */
export interface WatchChange {
  readonly deleted: boolean;
  /** For a deletion, the value is empty and `modRevision` that of the deletion. */
  readonly pair: KvPair;
}

/** A message of a watch stream. */
export interface WatchAnswer {
  readonly header: EtcdHeader;
  /** Which watch of the stream it is for; -1 for all of them. */
  readonly watchId: number;
  readonly created: boolean;
  readonly canceled: boolean;
  readonly compactRevision: bigint;
  readonly cancelReason: string;
  /** More pieces of the last revision follow. */
  readonly fragment: boolean;
  readonly changes: readonly WatchChange[];
}

/** Answer to one keepalive of a lease. */
export interface KeepAliveAnswer {
  readonly header: EtcdHeader;
  /** 0 when the lease is gone. */
  readonly ttlSeconds: bigint;
}

/** Changes in one message: more than fit one piece of etcd's, which is of the size of one request. */
const MOST_CHANGES = 250_000;

function tooMany(what: string, most: number): KvError {
  return new KvError('invalid', `the server sent more than ${most} ${what} in one message`, {
    retryable: true,
  });
}

const NO_HEADER: EtcdHeader = { clusterId: '0', revision: 0n };

/**
 * Decodes a RangeResponse of `mesh/wire/etcd.proto`. Values share the memory of the whole answer. Throws KvError `invalid`
 * for more pairs than `maxPairs`: who sends more than was asked for may send without end.
 */
export function decodeRangeAnswer(bytes: Buffer, maxPairs = Number.POSITIVE_INFINITY): RangeAnswer {
  const reader = readProtobuf(bytes);
  const pairs: KvPair[] = [];
  let header = NO_HEADER;
  let more = false;
  let count = 0;
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(decodeHeader);
    else if (reader.field === 2) {
      if (pairs.length >= maxPairs) throw tooMany('keys', maxPairs);
      pairs.push(reader.message(decodePair));
    } else if (reader.field === 3) more = reader.boolean();
    else if (reader.field === 4) count = Number(reader.int64());
  }
  return { header, pairs, more, count };
}

/** Decodes a WatchResponse of `mesh/wire/etcd.proto`. Values share the memory of the whole answer. */
export function decodeWatchAnswer(bytes: Buffer): WatchAnswer {
  const reader = readProtobuf(bytes);
  const changes: WatchChange[] = [];
  let header = NO_HEADER;
  let watchId = 0;
  let created = false;
  let canceled = false;
  let compactRevision = 0n;
  let cancelReason = '';
  let fragment = false;
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(decodeHeader);
    else if (reader.field === 2) watchId = Number(reader.int64());
    else if (reader.field === 3) created = reader.boolean();
    else if (reader.field === 4) canceled = reader.boolean();
    else if (reader.field === 5) compactRevision = reader.int64();
    else if (reader.field === 6) cancelReason = reader.text();
    else if (reader.field === 7) fragment = reader.boolean();
    else if (reader.field === 11) {
      if (changes.length >= MOST_CHANGES) throw tooMany('changes', MOST_CHANGES);
      changes.push(reader.message(decodeChange));
    }
  }
  return { header, watchId, created, canceled, compactRevision, cancelReason, fragment, changes };
}

/** Decodes a LeaseKeepAliveResponse of `mesh/wire/etcd.proto`. */
export function decodeKeepAliveAnswer(bytes: Buffer): KeepAliveAnswer {
  const reader = readProtobuf(bytes);
  let header = NO_HEADER;
  let ttlSeconds = 0n;
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(decodeHeader);
    else if (reader.field === 3) ttlSeconds = reader.int64();
  }
  return { header, ttlSeconds };
}

/** Decodes a ResponseHeader. */
export function decodeHeader(reader: ProtobufReader): EtcdHeader {
  let clusterId = 0n;
  let revision = 0n;
  while (reader.next()) {
    if (reader.field === 1) clusterId = reader.uint64();
    else if (reader.field === 3) revision = reader.int64();
  }
  return { clusterId: clusterId.toString(16), revision };
}

const EMPTY = Buffer.alloc(0);

function decodePair(reader: ProtobufReader): KvPair {
  let key = '';
  let value: Buffer = EMPTY;
  let modRevision = 0n;
  let lease = 0n;
  while (reader.next()) {
    if (reader.field === 1) key = reader.text();
    else if (reader.field === 3) modRevision = reader.int64();
    else if (reader.field === 5) value = reader.bytes();
    else if (reader.field === 6) lease = reader.int64();
  }
  return { key, value, modRevision, lease };
}

function decodeChange(reader: ProtobufReader): WatchChange {
  let deleted = false;
  let pair: KvPair = { key: '', value: EMPTY, modRevision: 0n, lease: 0n };
  while (reader.next()) {
    if (reader.field === 1) deleted = reader.boolean();
    else if (reader.field === 2) pair = reader.message(decodePair);
  }
  return { deleted, pair };
}
