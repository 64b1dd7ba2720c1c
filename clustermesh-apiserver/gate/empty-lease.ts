/**
 * Leases that hold nothing. Cilium's readers up to 1.16 open one before they read (`pkg/kvstore/etcd.go`, the session of its lock),
 * although with their rights nothing can ever hang on it. So the gate answers for etcd, which never hears of it, and remembers
 * nothing: how long a lease was to live stands in its number. Each answer has a header of etcd's own, since those readers compare
 * the cluster's id in every one. Pure.
 */
import { BYTES, forEachField, VARINT, varintField, varintValue } from './protobuf.ts';

const NO_BYTES: Buffer = Buffer.alloc(0);
/** Seconds in a number are below this. */
const TTL_SPAN = 2 ** 20;
/** Random part of a number; both together are exact in a JavaScript number. */
export const LEASE_SPAN = 2 ** 32;

/** What an answer is made of: a `header` as `headerOf` cuts it out, and `random`, a whole number below `LEASE_SPAN`. */
export interface LeaseAnswerParts {
  readonly header: Buffer;
  readonly random: number;
}

/** The header of any answer of etcd, with its tag. Throws ProtobufError. */
export function headerOf(answer: Buffer): Buffer {
  let header = NO_BYTES;
  forEachField(answer, ({ number, type, whole }) => {
    if (number === 1 && type === BYTES) header = whole;
  });
  return header;
}

/** Answers a LeaseGrantRequest. Throws ProtobufError. */
export function answerLeaseGrant(request: Buffer, { header, random }: LeaseAnswerParts): Buffer {
  // etcd gives no lease a life of no time, either.
  const ttl = Math.min(Math.max(numberField(request, 1), 1), TTL_SPAN - 1);
  return leaseAnswer(header, (1 + random) * TTL_SPAN + ttl, ttl);
}

/** Answers a LeaseKeepAliveRequest; a number that no gate has given is, as etcd says it, a lease with no time left. Throws ProtobufError. */
export function answerLeaseKeepAlive(request: Buffer, { header }: LeaseAnswerParts): Buffer {
  const id = numberField(request, 1);
  const isOurs = id >= TTL_SPAN && id < (1 + LEASE_SPAN) * TTL_SPAN;
  return leaseAnswer(header, id, isOurs ? id % TTL_SPAN : 0);
}

/** Answers a LeaseRevokeRequest: what held nothing is gone without a trace. */
export function answerLeaseRevoke(_request: Buffer, { header }: LeaseAnswerParts): Buffer {
  return header;
}

/** LeaseGrantResponse and LeaseKeepAliveResponse have the same numbers for the id (2) and the seconds (3). */
function leaseAnswer(header: Buffer, id: number, ttl: number): Buffer {
  return Buffer.concat([header, varintField(2, id), varintField(3, ttl)]);
}

function numberField(message: Buffer, wanted: number): number {
  let found = 0;
  forEachField(message, ({ number, type, value }) => {
    if (number === wanted && type === VARINT) found = varintValue(value);
  });
  return found;
}
