import type { MethodDefinition } from '@grpc/proto-loader';
import fc from 'fast-check';
import { test } from 'tap';
import { loadProtoFile } from '../runtime/proto-file.ts';
import { decodeTransactionAnswer, encodeTransaction } from './etcd-transaction.ts';
import type { WriteOp } from './etcd-writer.ts';
import type { KvCompare } from './kvstore.ts';

const service = loadProtoFile('mesh/wire/etcd.proto')['etcdserverpb.KV'] as Record<
  string,
  MethodDefinition<object, object>
>;
const { Txn } = service;

const int64 = fc.bigInt({ min: 0n, max: 2n ** 63n - 1n });
const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 300 });
const bytes = fc.uint8Array({ maxLength: 300 }).map((array) => Buffer.from(array));
const write: fc.Arbitrary<WriteOp> = fc.oneof(
  fc.record({
    op: fc.record({ kind: fc.constant('put' as const), key: text, value: fc.oneof(text, bytes) }),
    leaseId: fc.oneof(fc.constant(0n), int64),
  }),
  fc.record({ op: fc.record({ kind: fc.constant('delete' as const), key: text }), leaseId: int64 }),
);
const compare: fc.Arbitrary<KvCompare> = fc.oneof(
  fc.record({ key: text, exists: fc.boolean() }),
  fc.record({ key: text, modRevision: int64 }),
);

/** An operation as proto-loader decodes it. */
function wireOperation({ op, leaseId }: WriteOp) {
  if (op.kind === 'delete') return { request_delete_range: { key: Buffer.from(op.key) } };
  return {
    request_put: {
      key: Buffer.from(op.key),
      value: Buffer.from(op.value),
      ...(leaseId === 0n ? {} : { lease: String(leaseId) }),
    },
  };
}

function wireCompare(condition: KvCompare) {
  const key = Buffer.from(condition.key);
  return 'exists' in condition
    ? { result: condition.exists ? 'GREATER' : 'EQUAL', target: 'VERSION', key, version: '0' }
    : { result: 'EQUAL', target: 'MOD', key, mod_revision: String(condition.modRevision) };
}

test('encodeTransaction() writes what the protocol file says', async () => {
  fc.assert(
    fc.property(
      fc.array(compare, { maxLength: 4 }),
      fc.array(write, { maxLength: 20 }),
      fc.array(write, { maxLength: 4 }),
      (conditions, then, otherwise) => {
        const encoded = encodeTransaction(conditions, then, otherwise);
        const decoded = Txn!.requestDeserialize(encoded);
        const expected = Txn!.requestDeserialize(
          Txn!.requestSerialize({
            compare: conditions.map(wireCompare),
            success: then.map(wireOperation),
            failure: otherwise.map(wireOperation),
          }),
        );
        return JSON.stringify(decoded) === JSON.stringify(expected);
      },
    ),
  );
});

test('decodeTransactionAnswer() reads header and outcome', async (t) => {
  for (const succeeded of [true, false]) {
    const answer = Txn!.responseSerialize({
      header: { cluster_id: '255', revision: '4611686018427387904' },
      succeeded,
      responses: [{ response_put: {} }, { response_delete_range: { deleted: '1' } }],
    });
    t.same(decodeTransactionAnswer(answer), {
      header: { clusterId: 'ff', revision: 4611686018427387904n },
      succeeded,
    });
  }
});
