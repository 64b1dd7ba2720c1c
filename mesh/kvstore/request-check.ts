import { KvError, type KvOp } from './kvstore.ts';

/**
 * Largest sum of values in one request, in bytes, unless told otherwise: what an etcd started with
 * `--max-request-bytes` of 16 MiB takes with room for keys. etcd's own default limit is 1.5 MiB.
 */
export const DEFAULT_MAX_VALUE_BYTES = 15 * 1024 * 1024;

/** Most operations in one branch of a transaction: etcd's default for `--max-txn-ops`. */
export const MAX_TRANSACTION_OPS = 128;

/** Refuses a key that etcd would refuse. Throws KvError `invalid`. */
export function checkKey(key: string): void {
  if (key === '') {
    throw new KvError('invalid', 'cannot use an empty key: expected at least one character', {
      retryable: false,
    });
  }
}

/** Refuses a prefix that could take in a sibling's keys: `…/cluster-1` would match `…/cluster-10`. Throws KvError `invalid`. */
export function checkPrefix(prefix: string): void {
  if (!prefix.endsWith('/')) {
    throw new KvError(
      'invalid',
      `cannot use prefix ${JSON.stringify(prefix)}: expected it to end in "/"`,
      {
        retryable: false,
      },
    );
  }
}

/** Refuses a value, before anything is sent, that the server would refuse after it. Throws KvError `too-large`. */
export function checkValueBytes(what: string, bytes: number, maxValueBytes: number): void {
  if (bytes <= maxValueBytes) return;
  throw new KvError(
    'too-large',
    `cannot put ${what}: ${bytes} bytes, at most ${maxValueBytes} fit one request`,
    { retryable: false },
  );
}

/** Checks one branch of a transaction: keys, size, number of operations, no key written twice. Throws KvError. */
export function checkOperations(operations: readonly KvOp[], maxValueBytes: number): void {
  if (operations.length > MAX_TRANSACTION_OPS) {
    throw new KvError(
      'invalid',
      `cannot run a transaction of ${operations.length} operations: at most ${MAX_TRANSACTION_OPS} are allowed`,
      { retryable: false },
    );
  }
  const written = new Set<string>();
  let bytes = 0;
  for (const operation of operations) {
    checkKey(operation.key);
    if (written.has(operation.key)) {
      throw new KvError('invalid', `cannot write key ${operation.key} twice in one transaction`, {
        retryable: false,
      });
    }
    written.add(operation.key);
    if (operation.kind === 'put') bytes += Buffer.byteLength(operation.value);
  }
  checkValueBytes(operations[0]?.key ?? 'a transaction', bytes, maxValueBytes);
}
