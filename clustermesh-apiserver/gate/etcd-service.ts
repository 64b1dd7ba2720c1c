/** etcd's gRPC interface as the gate offers it: reads within the caller's ranges, and etcd's own refusal for all else. */
import {
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServiceDefinition,
  type sendUnaryData,
  status,
  type UntypedHandleCall,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { type RefusalReason, readableRanges } from './caller.ts';
import type { CallerUse, CallerUses, LimitReason } from './caller-limits.ts';
import type { WatchContext } from './client-watch.ts';
import type { Connections } from './connections.ts';
import { headerOf } from './empty-lease.ts';
import { decodeRangeRequest } from './etcd-messages.ts';
import {
  type EtcdMethod,
  FORBIDDEN_METHODS,
  LEASE_GRANT_PATH,
  LEASE_KEEP_ALIVE_PATH,
  LEASE_REVOKE_PATH,
  RANGE_PATH,
  STATUS_PATH,
  WATCH_PATH,
} from './etcd-methods.ts';
import { type KeyRange, rangeWithin, requestedRange } from './key-range.ts';
import { createLeaseAnswers, type LeaseAnswers } from './lease-answers.ts';
import { ProtobufError } from './protobuf.ts';
import type { Refusal } from './refusals.ts';
import { passBytes } from './upstream.ts';
import { serveWatchStream, type WatchStream } from './watch-stream.ts';

/** etcd's own words for a caller without the right (etcd `api/v3rpc/rpctypes/error.go`). */
const DENIED = { code: status.PERMISSION_DENIED, details: 'etcdserver: permission denied' };

/**
 * etcd's own words for a server that is asked for too much at a time (etcd `api/v3rpc/rpctypes/error.go`): clients come again
 * later.
 */
function tooMany(reason: LimitReason): CallerError {
  const details = `etcdserver: too many requests: ${reason} of this caller`;
  return { code: status.RESOURCE_EXHAUSTED, details };
}

function malformed(error: unknown): CallerError {
  const why = error instanceof Error ? error.message : String(error);
  return { code: status.INVALID_ARGUMENT, details: `cannot read the request: ${why}` };
}

function leaseError(error: unknown, refuse: (reason: RefusalReason) => void): CallerError {
  if (!(error instanceof ProtobufError)) return toCallerError(error);
  refuse('malformed');
  return malformed(error);
}

interface CallerError {
  readonly code: status;
  readonly details: string;
}

type UnaryCall = ServerUnaryCall<Buffer, Buffer>;
type StreamCall = ServerDuplexStream<Buffer, Buffer>;
type Call = Pick<UnaryCall, 'getAuthContext' | 'getPeer' | 'getPath'>;

/** A call's caller, and what it may read; `ranges` is undefined for a stranger. */
interface Access {
  readonly name: string;
  readonly ranges: readonly KeyRange[] | undefined;
  readonly refuse: (reason: RefusalReason) => void;
  /** What the caller has open now. */
  readonly use: () => CallerUse;
}

/** What gRPC's server is to be given. */
export interface EtcdService {
  readonly definition: ServiceDefinition;
  readonly handlers: UntypedServiceImplementation;
  /** Watches that clients have open. */
  readonly openWatches: number;
}

/** Makes the service. */
export function etcdService(options: {
  readonly clusterName: string;
  readonly context: WatchContext;
  readonly connections: Pick<Connections, 'find'>;
  readonly uses: CallerUses;
  readonly refuse: (reason: RefusalReason, refusal: Omit<Refusal, 'at'>) => void;
}): EtcdService {
  const { clusterName, context, connections } = options;
  const { upstream } = context;
  const streams = new Set<WatchStream>();

  const accessOf = (call: Call): Access => {
    const fingerprint = call.getAuthContext().sslPeerCertificate?.fingerprint256;
    const client = fingerprint === undefined ? undefined : connections.find(fingerprint);
    const verdict = client?.verdict;
    const caller = verdict?.kind === 'known' ? verdict.caller : undefined;
    const name = caller?.name ?? (verdict?.kind === 'refused' ? verdict.name : '');
    const refuse = (reason: RefusalReason): void => {
      options.refuse(reason, { caller: name, from: call.getPeer(), what: call.getPath() });
    };
    const use = (): CallerUse => options.uses.of(client?.fingerprint ?? '');
    if (caller !== undefined)
      return { name, refuse, use, ranges: readableRanges(caller, { clusterName }) };
    // No verdict: it was cut this very moment.
    refuse(verdict?.kind === 'refused' ? verdict.reason : 'revoked');
    return { name, refuse, use, ranges: undefined };
  };
  /** Passes a read on when it is its caller's turn. */
  const forward = async (
    call: UnaryCall,
    message: Buffer,
    options: { readonly access: Access; readonly answer: sendUnaryData<Buffer> },
  ): Promise<void> => {
    const { access, answer } = options;
    const gone = new AbortController();
    call.on('cancelled', () => gone.abort());
    let place: (() => void) | LimitReason;
    try {
      place = await access.use().call(gone.signal);
    } catch {
      // Its caller waits for no answer any more.
      return;
    }
    if (typeof place === 'string') {
      access.refuse(place);
      answer(tooMany(place));
      return;
    }
    const deadline = call.getDeadline();
    const end = deadline instanceof Date ? deadline : new Date(deadline);
    const requireLeader = call.metadata.get('hasleader').includes('true');
    const isBounded = Number.isFinite(end.getTime());
    try {
      const bounds = isBounded ? { deadline: end } : {};
      answer(null, await upstream.call(call.getPath(), message, { requireLeader, ...bounds }));
    } catch (error) {
      answer(toCallerError(error));
    } finally {
      place();
    }
  };

  const range = (call: UnaryCall, answer: sendUnaryData<Buffer>): void => {
    const access = accessOf(call);
    const { ranges, refuse } = access;
    if (ranges === undefined) {
      answer(DENIED);
      return;
    }
    let request: ReturnType<typeof decodeRangeRequest>;
    try {
      request = decodeRangeRequest(call.request);
    } catch (error) {
      refuse('malformed');
      answer(malformed(error));
      return;
    }
    const wanted = requestedRange(request.key, request.rangeEnd);
    if (!ranges.some((allowed) => rangeWithin(wanted, allowed))) {
      refuse('outside-range');
      answer(DENIED);
      return;
    }
    void forward(call, request.canonical, { access, answer });
  };
  const maintenanceStatus = (call: UnaryCall, answer: sendUnaryData<Buffer>): void => {
    const access = accessOf(call);
    if (access.ranges === undefined) {
      answer(DENIED);
      return;
    }
    void forward(call, Buffer.alloc(0), { access, answer });
  };
  const watch = (call: StreamCall): void => {
    const { ranges, refuse, use: findUse } = accessOf(call);
    if (ranges === undefined) {
      call.emit('error', DENIED);
      return;
    }
    const use = findUse();
    const place = use.open('stream');
    if (typeof place === 'string') {
      refuse(place);
      call.emit('error', tooMany(place));
      return;
    }
    const stream = serveWatchStream(
      {
        write: (message, onSent) => call.write(message, onSent),
        end: () => call.end(),
        fail: (error) => call.emit('error', error),
      },
      context,
      { ranges, refuse, use },
    );
    streams.add(stream);
    const close = (): void => {
      streams.delete(stream);
      stream.close();
      place();
    };
    call.on('data', (message: Buffer) => {
      call.pause();
      void stream.receive(message).then(() => call.resume());
    });
    call.on('end', () => {
      close();
      call.end();
    });
    call.on('cancelled', close);
    call.on('error', close);
  };
  const readHeader = async (): Promise<Buffer> =>
    headerOf(await upstream.call(STATUS_PATH, Buffer.alloc(0)));
  const lease = createLeaseAnswers(readHeader, context.clock);
  const answerLease =
    (kind: keyof LeaseAnswers) =>
    (call: UnaryCall, answer: sendUnaryData<Buffer>): void => {
      const { ranges, refuse } = accessOf(call);
      if (ranges === undefined) {
        answer(DENIED);
        return;
      }
      lease[kind](call.request).then(
        (message) => answer(null, message),
        (error) => answer(leaseError(error, refuse)),
      );
    };
  const keepLease = (call: StreamCall): void => {
    const { ranges, refuse, use: findUse } = accessOf(call);
    if (ranges === undefined) {
      call.emit('error', DENIED);
      return;
    }
    const place = findUse().open('stream');
    if (typeof place === 'string') {
      refuse(place);
      call.emit('error', tooMany(place));
      return;
    }
    call.on('data', (message: Buffer) => {
      call.pause();
      lease.keepAlive(message).then(
        (answer) => call.write(answer, () => call.resume()),
        (error) => call.emit('error', leaseError(error, refuse)),
      );
    });
    let isOpen = true;
    const close = (): void => {
      if (isOpen) place();
      isOpen = false;
    };
    call.on('end', () => {
      close();
      call.end();
    });
    call.on('cancelled', close);
    call.on('error', close);
  };
  const refuseUnary = (call: UnaryCall, answer: sendUnaryData<Buffer>): void => {
    const { ranges, refuse } = accessOf(call);
    if (ranges !== undefined) refuse('forbidden-method');
    answer(DENIED);
  };
  const refuseStream = (call: StreamCall): void => {
    const { ranges, refuse } = accessOf(call);
    if (ranges !== undefined) refuse('forbidden-method');
    call.emit('error', DENIED);
  };

  const methods: (readonly [EtcdMethod, UntypedHandleCall])[] = [
    [{ path: RANGE_PATH, requestStream: false, responseStream: false }, range],
    [{ path: STATUS_PATH, requestStream: false, responseStream: false }, maintenanceStatus],
    [{ path: WATCH_PATH, requestStream: true, responseStream: true }, watch],
    [{ path: LEASE_GRANT_PATH, requestStream: false, responseStream: false }, answerLease('grant')],
    [
      { path: LEASE_REVOKE_PATH, requestStream: false, responseStream: false },
      answerLease('revoke'),
    ],
    [{ path: LEASE_KEEP_ALIVE_PATH, requestStream: true, responseStream: true }, keepLease],
    ...FORBIDDEN_METHODS.map((method) => {
      const isStream = method.requestStream || method.responseStream;
      return [method, isStream ? refuseStream : refuseUnary] as const;
    }),
  ];
  const serializers = {
    requestSerialize: passBytes,
    requestDeserialize: passBytes,
    responseSerialize: passBytes,
    responseDeserialize: passBytes,
  };
  return {
    definition: Object.fromEntries(
      methods.map(([method]) => [method.path, { ...method, ...serializers }]),
    ),
    handlers: Object.fromEntries(methods.map(([method, handler]) => [method.path, handler])),
    get openWatches() {
      let count = 0;
      for (const stream of streams) count += stream.watchCount;
      return count;
    },
  };
}

/** etcd's error as it is; of a connection that failed only that: addresses behind the gate are nobody's business. */
function toCallerError(error: unknown): CallerError {
  const { code, details } = error as { code?: status; details?: string };
  if (code === undefined)
    return { code: status.INTERNAL, details: 'etcdserver: unexpected answer' };
  if (code === status.UNAVAILABLE && !details?.startsWith('etcdserver:')) {
    return { code, details: 'etcdserver: etcd is out of reach' };
  }
  return { code, details: details ?? '' };
}
