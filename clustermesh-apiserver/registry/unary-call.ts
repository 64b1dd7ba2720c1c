/** Answers to calls of one request and one response, and what an error becomes on the wire. */
import { type ServerUnaryCall, type sendUnaryData, status } from '@grpc/grpc-js';
import { z } from 'zod';
import { KvError } from '../../mesh/kvstore/kvstore.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import { AdminError } from './admin.ts';
import { RegistryError } from './registry-error.ts';
import { TokenError } from './token-error.ts';

/** What a call fails with, as gRPC has it; `details` is for people. */
export class CallError extends Error {
  readonly code: status;
  readonly details: string;
  readonly retryable: boolean;

  constructor(code: status, details: string) {
    super(details);
    this.name = 'CallError';
    this.code = code;
    this.details = details;
    this.retryable = code === status.UNAVAILABLE;
  }
}

/** Makes a handler of a function. Errors of ours are told in their own words, all others are logged. */
export function unaryHandler(
  answer: (call: ServerUnaryCall<unknown, unknown>) => Promise<object>,
  logger: Logger,
): (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>) => void {
  return (call, callback) => {
    answer(call).then(
      (response) => callback(null, response),
      (error: unknown) => {
        const known = toCallError(error);
        if (known === undefined) {
          logger.error({ err: error, method: call.getPath() }, 'a call to the registry has failed');
        }
        callback(
          known ?? { code: status.INTERNAL, details: 'the registry has failed; its log says why' },
        );
      },
    );
  };
}

function toCallError(error: unknown): CallError | undefined {
  if (error instanceof CallError) return error;
  if (error instanceof z.ZodError) {
    return new CallError(status.INVALID_ARGUMENT, 'the request is malformed');
  }
  if (error instanceof KvError) {
    return new CallError(status.UNAVAILABLE, `etcd does not answer (${error.code}): try again`);
  }
  if (error instanceof RegistryError) return new CallError(status.UNAVAILABLE, error.message);
  if (error instanceof TokenError || error instanceof AdminError) {
    return new CallError(CODES[error.code], error.message);
  }
  return undefined;
}

const CODES: Readonly<Record<TokenError['code'] | AdminError['code'], status>> = {
  invalid: status.INVALID_ARGUMENT,
  unknown: status.NOT_FOUND,
  'too-many': status.RESOURCE_EXHAUSTED,
  contended: status.ABORTED,
  'not-offered': status.FAILED_PRECONDITION,
};
