import type { MethodDefinition } from '@grpc/proto-loader';
import fc from 'fast-check';
import { test } from 'tap';
import { loadProtoFile } from '../runtime/proto-file.ts';
import { decodeKeepAliveAnswer, decodeRangeAnswer, decodeWatchAnswer } from './etcd-messages.ts';
import { KvError } from './kvstore.ts';
import { readProtobuf } from './protobuf-reader.ts';

function encoder(service: string, method: string): (answer: object) => Buffer {
  const definition = loadProtoFile('mesh/wire/etcd.proto')[service] as Record<
    string,
    MethodDefinition<object, object>
  >;
  return definition[method]!.responseSerialize;
}

const encodeRange = encoder('etcdserverpb.KV', 'Range');
const encodeWatch = encoder('etcdserverpb.Watch', 'Watch');
const encodeKeepAlive = encoder('etcdserverpb.Lease', 'LeaseKeepAlive');

const int64 = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n });
const uint64 = fc.bigInt({ min: 1n, max: 2n ** 64n - 1n });
const pair = fc.record({
  key: fc.string({ unit: 'grapheme', minLength: 1 }),
  value: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
  modRevision: int64,
  lease: int64,
});
const header = fc.record({ clusterId: uint64, revision: int64 });

type Pair = { key: string; value: Buffer; modRevision: bigint; lease: bigint };
type Header = { clusterId: bigint; revision: bigint };

function wirePair({ key, value, modRevision, lease }: Pair) {
  return {
    key: Buffer.from(key),
    value,
    create_revision: '3',
    mod_revision: String(modRevision),
    version: '9',
    lease: String(lease),
  };
}

function wireHeader({ clusterId, revision }: Header) {
  return {
    cluster_id: String(clusterId),
    member_id: '7',
    revision: String(revision),
    raft_term: '2',
  };
}

function expectHeader({ clusterId, revision }: Header) {
  return { clusterId: clusterId.toString(16), revision };
}

test('decodeRangeAnswer() reads what a general encoder wrote', async (t) => {
  const property = fc.property(header, fc.array(pair), fc.boolean(), (head, pairs, more) => {
    const bytes = encodeRange({
      header: wireHeader(head),
      kvs: pairs.map(wirePair),
      more,
      count: '8',
    });
    t.match(decodeRangeAnswer(bytes), { header: expectHeader(head), pairs, more });
  });
  t.doesNotThrow(() => fc.assert(property));
});

test('decodeWatchAnswer() reads what a general encoder wrote', async (t) => {
  const change = fc.record({ deleted: fc.boolean(), pair });
  const property = fc.property(
    header,
    fc.array(change),
    fc.boolean(),
    fc.boolean(),
    int64,
    fc.string(),
    (head, changes, created, fragment, compactRevision, cancelReason) => {
      const bytes = encodeWatch({
        header: wireHeader(head),
        watch_id: '-1',
        created,
        canceled: !created,
        compact_revision: String(compactRevision),
        cancel_reason: cancelReason,
        fragment,
        events: changes.map(({ deleted, pair }) => ({
          type: deleted ? 'DELETE' : 'PUT',
          kv: wirePair(pair),
          prev_kv: wirePair(pair),
        })),
      });
      t.same(decodeWatchAnswer(bytes), {
        header: expectHeader(head),
        watchId: -1,
        created,
        canceled: !created,
        compactRevision,
        cancelReason,
        fragment,
        changes,
      });
    },
  );
  t.doesNotThrow(() => fc.assert(property));
});

test('decodeKeepAliveAnswer() reads the time to live, and 0 when it is absent', async (t) => {
  const head = { clusterId: 2n ** 64n - 1n, revision: 5n };
  const bytes = encodeKeepAlive({ header: wireHeader(head), ID: '9', TTL: '60' });
  t.same(decodeKeepAliveAnswer(bytes), { header: expectHeader(head), ttlSeconds: 60n });
  t.equal(decodeKeepAliveAnswer(Buffer.alloc(0)).ttlSeconds, 0n);
});

test('a cut or scrambled answer is refused, never misread without end', async (t) => {
  const whole = encodeRange({
    header: wireHeader({ clusterId: 2n ** 63n, revision: 2n ** 50n }),
    kvs: [wirePair({ key: 'a/b', value: Buffer.from('value'), modRevision: 2n ** 60n, lease: 1n })],
    more: true,
  });
  for (let length = 0; length < whole.length; length += 1) {
    try {
      decodeRangeAnswer(whole.subarray(0, length));
    } catch (error) {
      t.match(error, { name: 'KvError', code: 'invalid' }, `cut at ${length}`);
    }
  }
  t.throws(() => decodeRangeAnswer(whole.subarray(0, whole.length - 3)), { code: 'invalid' });
  const property = fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
    for (const decode of [decodeRangeAnswer, decodeWatchAnswer, decodeKeepAliveAnswer]) {
      try {
        decode(Buffer.from(bytes));
      } catch (error) {
        if (!(error instanceof KvError)) throw error;
      }
    }
  });
  t.doesNotThrow(() => fc.assert(property, { numRuns: 1000 }));
});

test('readProtobuf() reads signed and unsigned numbers of every size', async (t) => {
  const varint = (value: bigint): Buffer => {
    const bytes: number[] = [];
    let rest = BigInt.asUintN(64, value);
    for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
    return Buffer.from([8, ...bytes, Number(rest)]);
  };
  for (const value of [
    0n,
    1n,
    127n,
    128n,
    2n ** 49n - 1n,
    2n ** 49n,
    2n ** 53n + 1n,
    2n ** 63n - 1n,
    -1n,
    -(2n ** 63n),
  ]) {
    const reader = readProtobuf(varint(value));
    t.ok(reader.next());
    t.equal(reader.int64(), value);
    t.equal(reader.uint64(), BigInt.asUintN(64, value));
    t.notOk(reader.next());
  }
  t.throws(() => readProtobuf(Buffer.alloc(20, 0x80)).next(), /more than 10 bytes/);
  t.throws(() => readProtobuf(Buffer.from([3])).next(), /wire type 3/);
});
