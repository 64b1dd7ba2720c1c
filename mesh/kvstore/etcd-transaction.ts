/**
 * The bytes of etcd's transactions (`TxnRequest`, `TxnResponse` of `mesh/wire/etcd.proto`), without an object for each
 * operation: a mirror writes hundreds of thousands of them.
 */
import { decodeHeader, type EtcdHeader } from './etcd-messages.ts';
import type { WriteOp } from './etcd-writer.ts';
import type { KvCompare } from './kvstore.ts';
import { readProtobuf } from './protobuf-reader.ts';

/** Wire types of protocol buffers. */
const VARINT = 0;
const BYTES = 2;
/** Fields of TxnRequest. */
const COMPARE = 1;
const SUCCESS = 2;
const FAILURE = 3;
/** Fields of RequestOp. */
const PUT = 2;
const DELETE_RANGE = 3;
/** Numbers of Compare's enumerations, and its fields. */
const RESULT = { equal: 0n, greater: 1n } as const;
const TARGET = { version: 0n, mod: 2n } as const;
const MOD_REVISION = 6;

/** Encodes a transaction. */
export function encodeTransaction(
  compare: readonly KvCompare[],
  then: readonly WriteOp[],
  otherwise: readonly WriteOp[],
): Buffer {
  const parts = [
    ...compare.map((condition) => ({ field: COMPARE, body: encodeCompare(condition) })),
    ...then.map((write) => ({ field: SUCCESS, body: encodeOperation(write) })),
    ...otherwise.map((write) => ({ field: FAILURE, body: encodeOperation(write) })),
  ];
  let size = 0;
  for (const { body } of parts) size += 1 + varintSize(body.length) + body.length;
  const bytes = Buffer.allocUnsafe(size);
  let at = 0;
  for (const { field, body } of parts) {
    at = writeTag(bytes, at, field, BYTES);
    at = writeSize(bytes, at, body.length);
    at += body.copy(bytes, at);
  }
  return bytes;
}

/** Decodes what etcd answers; the answers to the single operations are passed over. */
export function decodeTransactionAnswer(bytes: Buffer): { header: EtcdHeader; succeeded: boolean } {
  const reader = readProtobuf(bytes);
  let header: EtcdHeader = { clusterId: '0', revision: 0n };
  let succeeded = false;
  while (reader.next()) {
    if (reader.field === 1) header = reader.message(decodeHeader);
    else if (reader.field === 2) succeeded = reader.boolean();
  }
  return { header, succeeded };
}

/** A RequestOp: its only field is the request, whose fields are the key (1), and for a put the value (2) and lease (3). */
function encodeOperation({ op, leaseId }: WriteOp): Buffer {
  const value = op.kind === 'put' ? op.value : undefined;
  const lease = value === undefined || leaseId === 0n ? undefined : encodeVarint(leaseId);
  const keySize = Buffer.byteLength(op.key);
  const valueSize = value === undefined ? 0 : Buffer.byteLength(value);
  const size =
    1 +
    varintSize(keySize) +
    keySize +
    (value === undefined ? 0 : 1 + varintSize(valueSize) + valueSize) +
    (lease === undefined ? 0 : 1 + lease.length);
  const bytes = Buffer.allocUnsafe(1 + varintSize(size) + size);
  let at = writeTag(bytes, 0, op.kind === 'put' ? PUT : DELETE_RANGE, BYTES);
  at = writeSize(bytes, at, size);
  at = writeTag(bytes, at, 1, BYTES);
  at = writeSize(bytes, at, keySize);
  at += bytes.write(op.key, at);
  if (value !== undefined) {
    at = writeTag(bytes, at, 2, BYTES);
    at = writeSize(bytes, at, valueSize);
    at += typeof value === 'string' ? bytes.write(value, at) : value.copy(bytes, at);
  }
  if (lease !== undefined) {
    at = writeTag(bytes, at, 3, VARINT);
    lease.copy(bytes, at);
  }
  return bytes;
}

/** `exists` asks for the version, which is 0 for a key that is not there; the other asks for the revision of the last write. */
function encodeCompare(condition: KvCompare): Buffer {
  const key = Buffer.from(condition.key);
  const [result, target, field, number] =
    'exists' in condition
      ? ([condition.exists ? RESULT.greater : RESULT.equal, TARGET.version, 4, 0n] as const)
      : ([RESULT.equal, TARGET.mod, MOD_REVISION, condition.modRevision] as const);
  const tag = (at: number, wireType: number): Buffer => Buffer.from([(at << 3) | wireType]);
  return Buffer.concat([
    tag(1, VARINT),
    encodeVarint(result),
    tag(2, VARINT),
    encodeVarint(target),
    tag(3, BYTES),
    encodeVarint(BigInt(key.length)),
    key,
    tag(field, VARINT),
    encodeVarint(number),
  ]);
}

function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  while (rest > 0x7fn) {
    bytes.push(Number(rest & 0x7fn) | 0x80);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Buffer.from(bytes);
}

function varintSize(value: number): number {
  let size = 1;
  for (let rest = value; rest > 0x7f; rest = Math.floor(rest / 128)) size += 1;
  return size;
}

/** Fields here are below 16: a tag is one byte. */
function writeTag(bytes: Buffer, at: number, field: number, wireType: number): number {
  bytes[at] = (field << 3) | wireType;
  return at + 1;
}

function writeSize(bytes: Buffer, at: number, value: number): number {
  let rest = value;
  let position = at;
  while (rest > 0x7f) {
    bytes[position] = (rest & 0x7f) | 0x80;
    rest = Math.floor(rest / 128);
    position += 1;
  }
  bytes[position] = rest;
  return position + 1;
}
