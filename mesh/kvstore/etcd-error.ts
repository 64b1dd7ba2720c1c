import { status } from '@grpc/grpc-js';
import { KvError, type KvErrorCode } from './kvstore.ts';

interface Verdict {
  readonly code: KvErrorCode;
  readonly retryable: boolean;
}

const RETRY_UNAVAILABLE: Verdict = { code: 'unavailable', retryable: true };
const TLS_TROUBLE =
  /certificate|altnames|SSL alert|tlsv1|unable to verify|wrong version number|PEM/i;

/**
 * Turns whatever a gRPC call failed with into a KvError. `doing` says what was tried, for instance
 * `list cilium/state/ip/v1/ at https://10.0.0.1:2379`.
 */
export function toKvError(error: unknown, doing: string): KvError {
  if (error instanceof KvError) return error;
  const { grpcCode, details } = describeFailure(error);
  const { code, retryable } = judge(grpcCode, details);
  return new KvError(code, `cannot ${doing}: ${details}`, { retryable, cause: error });
}

/** Whether a put was refused because its lease is gone. */
export function isLeaseNotFound(error: unknown): boolean {
  return error instanceof Error && error.message.includes('requested lease not found');
}

/** What etcd says in a cancelled watch's reason, as an error. */
export function canceledWatchError(doing: string, reason: string): KvError {
  const denied = reason.includes('permission denied');
  const code = denied
    ? 'permission-denied'
    : reason.includes('auth')
      ? 'unauthenticated'
      : 'unavailable';
  const said = reason === '' ? 'without a reason' : reason;
  return new KvError(code, `cannot ${doing}: the server canceled the watch: ${said}`, {
    retryable: code === 'unavailable',
  });
}

function describeFailure(error: unknown): { grpcCode: number | undefined; details: string } {
  if (!(error instanceof Error)) return { grpcCode: undefined, details: String(error) };
  // etcd3 drops the code but keeps grpc-js' message, which begins with it.
  const match = /(?:^|\s)(\d{1,2}) [A-Z_]+: (.*)$/s.exec(error.message);
  if (match === null) return { grpcCode: undefined, details: error.message };
  // grpc-js wraps the system's error in words that tell a reader nothing.
  const details = (match[2] ?? '')
    .replace(/^No connection established\. Last error: (Error: )?/, '')
    .replace(/\.?\s*Resolution note:\s*$/, '')
    .trim();
  return { grpcCode: Number(match[1]), details };
}

function judge(grpcCode: number | undefined, details: string): Verdict {
  switch (grpcCode) {
    case status.DEADLINE_EXCEEDED:
      return { code: 'timeout', retryable: true };
    case status.UNAUTHENTICATED:
      return { code: 'unauthenticated', retryable: false };
    case status.PERMISSION_DENIED:
      return { code: 'permission-denied', retryable: false };
    case status.OUT_OF_RANGE:
      return details.includes('compacted')
        ? { code: 'compacted', retryable: true }
        : { code: 'cluster-changed', retryable: true };
    case status.RESOURCE_EXHAUSTED:
      return /larger than max|too large/.test(details)
        ? { code: 'too-large', retryable: false }
        : RETRY_UNAVAILABLE;
    case status.INVALID_ARGUMENT:
      return judgeArgument(details);
    case status.UNIMPLEMENTED:
    case status.FAILED_PRECONDITION:
      return { code: 'invalid', retryable: false };
    case status.UNAVAILABLE:
      return TLS_TROUBLE.test(details)
        ? { code: 'unauthenticated', retryable: false }
        : RETRY_UNAVAILABLE;
    default:
      return RETRY_UNAVAILABLE;
  }
}

function judgeArgument(details: string): Verdict {
  if (details.includes('too large')) return { code: 'too-large', retryable: false };
  // etcd with authentication on and a certificate without a common name.
  if (details.includes('user name is empty')) return { code: 'unauthenticated', retryable: false };
  return { code: 'invalid', retryable: false };
}
