/** One question to a gRPC server of ours, and its answer. */
import {
  type ChannelCredentials,
  Client,
  type MethodDefinition,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { onAbort } from './abort-callbacks.ts';
import { clientChannelOptions, dialTarget } from './grpc-client.ts';
import type { HostPort } from './option-parsers.ts';
import { loadProtoFile } from './proto-file.ts';

/** Why a call has no answer. */
export class GrpcCallError extends Error {
  /**
   * `unreachable`: nobody answers there, or not in time; `untrusted`: the connection was made and not believed by one side;
   * `refused`: the server says no, in the words of the message.
   */
  readonly code: 'unreachable' | 'untrusted' | 'refused';
  /** gRPC's number of what happened. */
  readonly status: status;
  readonly retryable: boolean;

  constructor(
    code: GrpcCallError['code'],
    message: string,
    options: { readonly status: status; readonly retryable: boolean; readonly cause?: unknown },
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'GrpcCallError';
    this.code = code;
    this.status = options.status;
    this.retryable = options.retryable;
  }
}

/** Where a call goes, and how. */
export interface CallOptions {
  readonly server: HostPort;
  readonly credentials: ChannelCredentials;
  /** Name that the server's certificate must bear; default: the host. */
  readonly tlsName?: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** What the server refuses now and may take later. */
const RETRYABLE: readonly status[] = [
  status.UNAVAILABLE,
  status.DEADLINE_EXCEEDED,
  status.ABORTED,
  status.RESOURCE_EXHAUSTED,
  status.INTERNAL,
];

/**
 * Calls a unary method of a protocol file, such as `{ service: 'isthmus.registry.v1.Registry', method: 'Renew' }`. Field names
 * are as in the file. Throws GrpcCallError, or the signal's reason when it aborts.
 */
export async function callUnary(
  what: { readonly proto: string; readonly service: string; readonly method: string },
  request: object,
  options: CallOptions,
): Promise<object> {
  const { server, timeoutMs, signal, tlsName } = options;
  signal.throwIfAborted();
  const method = methodOf(what);
  const names = tlsName === undefined ? {} : { tlsName, authority: tlsName };
  const client = new Client(
    dialTarget(server.host, server.port),
    options.credentials,
    clientChannelOptions(names),
  );
  let letGo: (() => void) | undefined;
  try {
    return await new Promise<object>((resolve, reject) => {
      const call = client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        { deadline: Date.now() + timeoutMs },
        (error, answer) => {
          if (error !== null) reject(signal.aborted ? signal.reason : toCallError(error, options));
          else resolve(answer ?? {});
        },
      );
      letGo = onAbort(signal, () => call.cancel());
    });
  } finally {
    letGo?.();
    client.close();
  }
}

function methodOf(what: {
  readonly proto: string;
  readonly service: string;
  readonly method: string;
}): MethodDefinition<object, object> {
  const service = loadProtoFile(what.proto)[what.service];
  const method = service === undefined || 'format' in service ? undefined : service[what.method];
  if (method === undefined) {
    throw new TypeError(`${what.proto} does not define ${what.service}.${what.method}`);
  }
  return method;
}

function toCallError(error: ServiceError, { server, timeoutMs }: CallOptions): GrpcCallError {
  const where = server.host.includes(':')
    ? `[${server.host}]:${server.port}`
    : `${server.host}:${server.port}`;
  const details = error.details === '' ? error.message : error.details;
  const about = { status: error.code, retryable: RETRYABLE.includes(error.code), cause: error };
  switch (error.code) {
    case status.DEADLINE_EXCEEDED:
      return new GrpcCallError(
        'unreachable',
        `${where} does not answer within ${timeoutMs / 1000} s (${details})`,
        about,
      );
    case status.UNAVAILABLE:
      return new GrpcCallError(
        isTlsFailure(details) ? 'untrusted' : 'unreachable',
        `cannot reach ${where}: ${details}`,
        about,
      );
    default:
      return new GrpcCallError('refused', details, about);
  }
}

function isTlsFailure(details: string): boolean {
  return /certificate|altname|tls|ssl|self.signed|handshake/i.test(details);
}
