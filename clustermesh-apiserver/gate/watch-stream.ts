/** One Watch call of a client: any number of watches on one stream, as etcd has it. */
import { status } from '@grpc/grpc-js';
import type { RefusalReason } from './caller.ts';
import type { CallerUse } from './caller-limits.ts';
import {
  type ClientStream,
  type ClientWatch,
  createClientWatch,
  type WatchContext,
  type WatchCreate,
  type WatchMessage,
} from './client-watch.ts';
import {
  decodeWatchRequest,
  encodeWatchResponse,
  PROGRESS_ID,
  type ResponseHeader,
} from './etcd-messages.ts';
import { type KeyRange, rangeWithin, requestedRange } from './key-range.ts';
import { createOutbox } from './outbox.ts';
import { ProtobufError } from './protobuf.ts';

const MAX_WATCHES = 256;
/** What etcd's server answers when a caller may not watch a range (etcd `server/etcdserver/api/v3rpc/watch.go`). */
const DENIED = 'rpc error: code = PermissionDenied desc = etcdserver: permission denied';
const EMPTY_RANGE = 'mvcc: watcher range is empty';
const DUPLICATE_ID = 'mvcc: duplicate watch ID provided on the WatchStream';
/** How often etcd is asked again while a client waits for an answer about progress. */
const PROGRESS_MS = 1000;

/** The call as gRPC gives it to us. */
export interface WatchCall {
  write(message: Buffer, onSent: () => void): void;
  end(): void;
  fail(error: { code: status; details: string }): void;
}

/** A served stream. */
export interface WatchStream {
  readonly watchCount: number;
  /** Handles one request; the next one may come when it resolves. Never rejects. */
  receive(message: Buffer): Promise<void>;
  /** The client has gone or will send nothing more. */
  close(): void;
}

/** Serves one Watch call. `ranges` is what its caller may read, `refuse` counts what was refused. */
export function serveWatchStream(
  call: WatchCall,
  context: WatchContext,
  options: {
    readonly ranges: readonly KeyRange[];
    readonly refuse: (reason: RefusalReason) => void;
    readonly use: CallerUse;
  },
): WatchStream {
  const { upstream, clock } = context;
  const { ranges, refuse, use } = options;
  const watches = new Map<number, ClientWatch>();
  /** What gives back the places of watches at the caller's limit. */
  const places = new Map<number, () => void>();
  const outbox = createOutbox((message, onSent) => call.write(message, onSent), clock, {
    onReady: () => {
      for (const watch of [...watches.values()]) watch.pump();
    },
    onStall: () => {
      for (const watch of watches.values()) watch.release();
    },
    onBytes: use.addBytes,
  });
  let header: ResponseHeader = { ids: Buffer.alloc(0), revision: 0, term: Buffer.alloc(0) };
  let nextId = 0;
  let isClosed = false;
  /** Revision that the client waits for to be told wholly; undefined when it has not asked. */
  let progressWanted: number | undefined;

  /** Says something; revisions in headers never fall on a stream, or its reader takes it for another etcd. */
  const answer = (
    response: Omit<Parameters<typeof encodeWatchResponse>[0], 'header'>,
    revision = upstream.latest?.revision ?? 0,
  ): void => {
    if (isClosed) return;
    header = {
      ...(upstream.latest ?? header),
      revision: Math.max(header.revision, revision),
    };
    outbox.write(encodeWatchResponse({ header, ...response }));
  };
  const forget = (watchId: number): void => {
    watches.delete(watchId);
    places.get(watchId)?.();
    places.delete(watchId);
  };
  const close = (): void => {
    isClosed = true;
    for (const watch of watches.values()) watch.close();
    for (const id of [...watches.keys()]) forget(id);
    outbox.close();
  };
  const lost = (): void => {
    if (isClosed) return;
    close();
    call.fail({ code: status.UNAVAILABLE, details: 'etcdserver: etcd is out of reach' });
  };
  const refuseWatch = (reason: string): void => {
    answer({ watchId: PROGRESS_ID, created: true, canceled: true, cancelReason: reason });
  };
  const isComplete = (revision: number): boolean =>
    [...watches.values()].every((watch) => watch.completeThrough >= revision);
  const answerProgress = (): void => {
    if (progressWanted === undefined || isClosed) return;
    const revision = Math.max(progressWanted, header.revision);
    if (!isComplete(revision)) return;
    progressWanted = undefined;
    answer({ watchId: PROGRESS_ID }, revision);
  };
  /** Asks until every watch is complete up to what etcd was at when the client asked; an etcd that is silent is not answered for. */
  const awaitProgress = async (): Promise<void> => {
    if (progressWanted !== undefined) return;
    progressWanted = Number.POSITIVE_INFINITY;
    try {
      progressWanted = (await upstream.readCurrent()).revision;
    } catch {
      // The client asks again; that etcd is gone is told by the watches themselves.
      progressWanted = undefined;
      return;
    }
    answerProgress();
    while (progressWanted !== undefined && !isClosed) {
      for (const watch of watches.values()) watch.askProgress();
      await clock.sleep(PROGRESS_MS, outbox.closed).catch(() => undefined);
      answerProgress();
    }
  };

  const createWatch = async (create: WatchCreate): Promise<void> => {
    const wanted = requestedRange(create.key, create.rangeEnd);
    if (!ranges.some((range) => rangeWithin(wanted, range))) {
      refuse('outside-range');
      return refuseWatch(DENIED);
    }
    if (wanted.end !== undefined && wanted.start.compare(wanted.end) >= 0) {
      return refuseWatch(EMPTY_RANGE);
    }
    if (watches.size >= MAX_WATCHES) {
      refuse('too-many-watches');
      return refuseWatch(`etcdserver: more than ${MAX_WATCHES} watches on one stream`);
    }
    if (create.watchId !== 0 && watches.has(create.watchId)) return refuseWatch(DUPLICATE_ID);
    while (watches.has(nextId)) nextId += 1;
    const id = create.watchId === 0 ? nextId : create.watchId;
    // Never given again, as in etcd: a client's late cancellation of a watch that ended by itself must not hit another one.
    if (id === nextId) nextId += 1;
    if (create.startRevision === 0 || create.startRevision > (upstream.latest?.revision ?? 0) + 1) {
      await upstream.readCurrent();
      if (isClosed) return;
    }
    const place = use.open('watch');
    if (typeof place === 'string') {
      refuse(place);
      return refuseWatch(`etcdserver: too many requests: this caller has ${use.watches} watches`);
    }
    places.set(id, place);
    await addWatch(id, create);
  };
  const addWatch = async (id: number, create: WatchCreate): Promise<void> => {
    /** What the watch says before the client has been told that it exists. */
    let early: WatchMessage[] | undefined = [];
    const tell = (message: WatchMessage): void => {
      if (early !== undefined) early.push(message);
      else sendMessage(id, message);
    };
    const stream: ClientStream = {
      get isReady() {
        return outbox.isReady && early === undefined;
      },
      get toldRevision() {
        return header.revision;
      },
      send: tell,
      onProgress: answerProgress,
      onLost: lost,
    };
    const startRevision = create.startRevision || (upstream.latest?.revision ?? 0) + 1;
    const watch = createClientWatch(context, { create, stream, startRevision });
    watches.set(id, watch);
    await watch.opened;
    if (isClosed) return watch.close();
    answer({ watchId: id, created: true });
    const messages = early;
    early = undefined;
    for (const message of messages) sendMessage(id, message);
    // A client that watches from now on takes the revision it was told as the place to resume from.
    if (watches.get(id) === watch) watch.start(create.startRevision || header.revision + 1);
  };
  const sendMessage = (watchId: number, message: WatchMessage): void => {
    switch (message.kind) {
      case 'events':
        answer(
          { watchId, events: message.events, fragment: message.fragment },
          // Not etcd's newest: a claim of progress must not be lower, and would have to wait for other ranges.
          message.revision,
        );
        return;
      case 'notice':
        answer({ watchId }, message.revision);
        return;
      case 'canceled':
        forget(watchId);
        answer({
          watchId,
          canceled: true,
          cancelReason: message.reason,
          compactRevision: message.compactRevision,
        });
        return;
      default:
        throw message satisfies never;
    }
  };
  const cancelWatch = (watchId: number): void => {
    const watch = watches.get(watchId);
    if (watch === undefined) return;
    watch.close();
    forget(watchId);
    answer({ watchId, canceled: true });
  };

  return {
    get watchCount() {
      return watches.size;
    },
    async receive(message) {
      try {
        const request = decodeWatchRequest(message);
        if (isClosed || request === undefined) return;
        // Without it there would be nothing to put in a header; and an etcd that is away is no place to watch.
        if (upstream.latest === undefined) await upstream.readCurrent();
        if (isClosed) return;
        if (request.kind === 'create') await createWatch(request);
        else if (request.kind === 'cancel') cancelWatch(request.watchId);
        else void awaitProgress();
        // Answers to requests count as well: who sends without reading waits.
        await outbox.ready();
      } catch (error) {
        if (error instanceof ProtobufError) {
          refuse('malformed');
          close();
          call.fail({
            code: status.INVALID_ARGUMENT,
            details: `cannot read the request: ${error.message}`,
          });
        } else lost();
      }
    },
    close,
  };
}
