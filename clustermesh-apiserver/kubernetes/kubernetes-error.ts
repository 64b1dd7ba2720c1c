/** What a caller can do about an answer of the API server that is not the one asked for. */
export type KubernetesErrorCode =
  /** Credentials or kubeconfig cannot be used; nothing was sent. */
  | 'configuration'
  | 'unauthorized'
  | 'forbidden'
  | 'not-found'
  /** Somebody else was faster, or it exists already: `reason` is `Conflict` or `AlreadyExists`. */
  | 'conflict'
  /** The resource version or continue token is too old. */
  | 'gone'
  /** The request is wrong, and will be wrong again. */
  | 'invalid'
  | 'too-many-requests'
  /** No connection, or one that broke, or a server error. */
  | 'unavailable'
  | 'timeout';

/** A request to the API server that failed. */
export class KubernetesError extends Error {
  readonly code: KubernetesErrorCode;
  /** HTTP status; undefined when there was no answer. */
  readonly status: number | undefined;
  /** Reason of the server's Status object, empty when it gave none. */
  readonly reason: string;
  /** How long the server asked us to wait. */
  readonly retryAfterMs: number | undefined;
  readonly retryable: boolean;

  constructor(
    code: KubernetesErrorCode,
    message: string,
    options: {
      readonly status?: number | undefined;
      readonly reason?: string | undefined;
      readonly retryAfterMs?: number | undefined;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.name = 'KubernetesError';
    this.code = code;
    this.status = options.status;
    this.reason = options.reason ?? '';
    this.retryAfterMs = options.retryAfterMs;
    this.retryable =
      code === 'too-many-requests' ||
      code === 'unavailable' ||
      code === 'timeout' ||
      code === 'gone';
  }
}

/** The error of an answer with status 400 or above; `what` names the request: `GET /api/v1/pods`. */
export function errorOfAnswer(
  what: string,
  answer: {
    readonly status: number;
    readonly body: unknown;
    readonly retryAfter?: string | undefined;
  },
): KubernetesError {
  const { status } = answer;
  const { message, reason, retrySeconds } = readStatus(answer.body);
  return new KubernetesError(codeOf(status, reason), `${what}: ${status} ${message}`.trim(), {
    status,
    reason,
    retryAfterMs: parseRetryAfter(answer.retryAfter) ?? retrySeconds,
  });
}

function codeOf(status: number, reason: string): KubernetesErrorCode {
  if (reason === 'Expired' || reason === 'Gone') return 'gone';
  switch (status) {
    case 401:
      return 'unauthorized';
    case 403:
      return 'forbidden';
    case 404:
      return 'not-found';
    case 409:
      return 'conflict';
    case 410:
      return 'gone';
    case 429:
      return 'too-many-requests';
    case 408:
    case 504:
      return 'timeout';
    default:
      return status >= 500 ? 'unavailable' : 'invalid';
  }
}

/** Seconds, as API servers send them; a date is for proxies, which do not send one with 429. */
function parseRetryAfter(text: string | undefined): number | undefined {
  if (text === undefined || !/^\d{1,5}$/.test(text.trim())) return undefined;
  return Number(text) * 1000;
}

/** What the server's `Status` object says, as far as it is one. */
function readStatus(body: unknown): {
  readonly message: string;
  readonly reason: string;
  readonly retrySeconds: number | undefined;
} {
  const fields = asRecord(body);
  const seconds = asRecord(fields.details).retryAfterSeconds;
  return {
    message: typeof fields.message === 'string' ? fields.message : textOf(body),
    reason: typeof fields.reason === 'string' ? fields.reason : '',
    retrySeconds: typeof seconds === 'number' && seconds > 0 ? seconds * 1000 : undefined,
  };
}

function asRecord(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {};
}

function textOf(body: unknown): string {
  return typeof body === 'string' ? body.trim().slice(0, 200) : '';
}
