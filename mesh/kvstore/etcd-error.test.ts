import { test } from 'tap';
import { canceledWatchError, isLeaseNotFound, toKvError } from './etcd-error.ts';
import { KvError } from './kvstore.ts';

test('toKvError() maps what gRPC and etcd say', async (t) => {
  const cases = [
    [
      '14 UNAVAILABLE: No connection established. Last error: connect ECONNREFUSED',
      'unavailable',
      true,
    ],
    [
      '14 UNAVAILABLE: Last error: Error: self-signed certificate in certificate chain',
      'unauthenticated',
      false,
    ],
    ["14 UNAVAILABLE: Hostname/IP does not match certificate's altnames", 'unauthenticated', false],
    ['4 DEADLINE_EXCEEDED: Deadline exceeded after 10.0s', 'timeout', true],
    ['7 PERMISSION_DENIED: etcdserver: permission denied', 'permission-denied', false],
    [
      'EtcdPermissionDeniedError: 7 PERMISSION_DENIED: etcdserver: permission denied',
      'permission-denied',
      false,
    ],
    ['16 UNAUTHENTICATED: etcdserver: invalid auth token', 'unauthenticated', false],
    ['3 INVALID_ARGUMENT: etcdserver: user name is empty', 'unauthenticated', false],
    ['3 INVALID_ARGUMENT: etcdserver: request is too large', 'too-large', false],
    ['3 INVALID_ARGUMENT: etcdserver: key is not provided', 'invalid', false],
    [
      '8 RESOURCE_EXHAUSTED: Received message larger than max (70000000 vs 67108864)',
      'too-large',
      false,
    ],
    ['8 RESOURCE_EXHAUSTED: etcdserver: mvcc: database space exceeded', 'unavailable', true],
    ['11 OUT_OF_RANGE: etcdserver: mvcc: required revision has been compacted', 'compacted', true],
    [
      '11 OUT_OF_RANGE: etcdserver: mvcc: required revision is a future revision',
      'cluster-changed',
      true,
    ],
    ['12 UNIMPLEMENTED: unknown service', 'invalid', false],
    ['13 INTERNAL: Received RST_STREAM with code 2', 'unavailable', true],
    ['something else', 'unavailable', true],
  ] as const;
  for (const [message, code, retryable] of cases) {
    const cause = new Error(message);
    const error = toKvError(cause, 'list a/ at https://10.0.0.1:2379');
    t.match(error, { code, retryable, cause }, message);
    t.match(error.message, /^cannot list a\/ at https:\/\/10\.0\.0\.1:2379: \S/);
  }
  const refused = new Error(
    '14 UNAVAILABLE: No connection established. Last error: Error: connect ECONNREFUSED 10.0.0.1:2379. Resolution note: ',
  );
  t.equal(
    toKvError(refused, 'list a/').message,
    'cannot list a/: connect ECONNREFUSED 10.0.0.1:2379',
  );
  const known = new KvError('closed', 'closed', { retryable: false });
  t.equal(toKvError(known, 'list'), known);
});

test('a canceled watch says why', async (t) => {
  t.match(canceledWatchError('watch a/', ''), { code: 'unavailable', message: /without a reason/ });
  t.match(canceledWatchError('watch a/', 'rpc error: etcdserver: permission denied'), {
    code: 'permission-denied',
    retryable: false,
  });
});

test('isLeaseNotFound() knows a lost lease', async (t) => {
  t.ok(isLeaseNotFound(new Error('5 NOT_FOUND: etcdserver: requested lease not found')));
  t.notOk(isLeaseNotFound(new Error('5 NOT_FOUND: else')));
});
