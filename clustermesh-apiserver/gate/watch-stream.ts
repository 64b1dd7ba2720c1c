/** One Watch call of a client: any number of watches on one stream, as etcd has it. */
import { status } from '@grpc/grpc-js';
import type { Clock } from '../../mesh/runtime/clock.ts';
import type { RefusalReason } from './caller.ts';
import {
  type ClientStream,
  type ClientWatch,
  createClientWatch,
  headerFor,
  type WatchContext,
  type WatchCreate,
  type WatchMessage,
} from './client-watch.ts';
import { decodeWatchRequest, encodeWatchResponse, type ResponseHeader } from './etcd-messages.ts';
import { type KeyRange, rangeWithin, requestedRange } from './key-range.ts';
import { ProtobufError } from './protobuf.ts';

const MAX_WATCHES = 256;
/** Bytes on their way to a client above which nothing more is taken for it. */
const OUTSTANDING_BYTES = 1024 * 1024;
/** A client that has not taken anything for so long gives up what is held for it alone. */
const STALL_MS = 10_000;
/** What etcd's server answers when a caller may not watch a range (etcd `server/etcdserver/api/v3rpc/watch.go`). */
const DENIED = 'rpc error: code = PermissionDenied desc = etcdserver: permission denied';
const EMPTY_RANGE = 'mvcc: watcher range is empty';
const DUPLICATE_ID = 'mvcc: duplicate watch ID provided on the WatchStream';
/** etcd's `clientv3.InvalidWatchID`. */
const NO_WATCH = -1;

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
  },
): WatchStream {
  const { upstream, clock } = context;
  const { ranges, refuse } = options;
  const watches = new Map<number, ClientWatch>();
  const outbox = createOutbox(call, clock, {
    onReady: () => {
      for (const watch of [...watches.values()]) watch.pump();
    },
    onStall: () => {
      for (const watch of watches.values()) watch.release();
    },
  });
  let header: ResponseHeader = { ids: Buffer.alloc(0), revision: 0, term: Buffer.alloc(0) };
  let nextId = 0;
  let isClosed = false;
  /** Signs of life of each watch when the client asked for progress. */
  let progressAsked: Map<ClientWatch, number> | undefined;

  const nextHeader = (): ResponseHeader => {
    header = headerFor(upstream.latest ?? header, header.revision);
    return header;
  };
  const answer = (response: Omit<Parameters<typeof encodeWatchResponse>[0], 'header'>): void => {
    if (!isClosed) outbox.write(encodeWatchResponse({ header: nextHeader(), ...response }));
  };
  const close = (): void => {
    isClosed = true;
    for (const watch of watches.values()) watch.close();
    watches.clear();
    outbox.close();
  };
  const lost = (): void => {
    if (isClosed) return;
    close();
    call.fail({ code: status.UNAVAILABLE, details: 'etcdserver: etcd is out of reach' });
  };
  const refuseWatch = (reason: string): void => {
    answer({ watchId: NO_WATCH, created: true, canceled: true, cancelReason: reason });
  };
  const answerProgress = (): void => {
    if (progressAsked === undefined || isClosed) return;
    let revision = Number.MAX_SAFE_INTEGER;
    for (const watch of watches.values()) {
      const asked = progressAsked.get(watch) ?? -1;
      // Only etcd's own word since the question shows that it is alive, and how far each watch is complete.
      if (watch.signsOfLife <= asked || watch.completeThrough < header.revision) return;
      revision = Math.min(revision, watch.completeThrough);
    }
    progressAsked = undefined;
    header = watches.size === 0 ? nextHeader() : { ...nextHeader(), revision };
    outbox.write(encodeWatchResponse({ header, watchId: NO_WATCH }));
  };
  const askProgress = async (): Promise<void> => {
    if (watches.size > 0) {
      progressAsked ??= new Map([...watches.values()].map((watch) => [watch, watch.signsOfLife]));
      return;
    }
    header = headerFor(await upstream.readCurrent(), header.revision);
    answer({ watchId: NO_WATCH });
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
    if (create.startRevision === 0 || create.startRevision > (upstream.latest?.revision ?? 0) + 1) {
      await upstream.readCurrent();
      if (isClosed) return;
    }
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
        answer({ watchId, events: message.events, fragment: message.fragment });
        return;
      case 'notice':
        header = { ...nextHeader(), revision: message.revision };
        outbox.write(encodeWatchResponse({ header, watchId }));
        return;
      case 'canceled':
        watches.delete(watchId);
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
    watches.delete(watchId);
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
        else await askProgress();
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

/** Counts what is under way to the client, and notices when nothing of it arrives. */
function createOutbox(
  call: WatchCall,
  clock: Clock,
  options: { readonly onReady: () => void; readonly onStall: () => void },
) {
  const closing = new AbortController();
  const waiting = new Set<() => void>();
  let outstanding = 0;
  let stall: AbortController | undefined;

  const isReady = (): boolean => outstanding < OUTSTANDING_BYTES;
  const watchForStall = (): void => {
    stall?.abort();
    stall = undefined;
    if (isReady() || closing.signal.aborted) return;
    stall = new AbortController();
    clock.sleep(STALL_MS, stall.signal).then(options.onStall, () => undefined);
  };
  return {
    get isReady() {
      return isReady();
    },
    write(message: Buffer): void {
      outstanding += message.length;
      call.write(message, () => {
        const wasReady = isReady();
        outstanding -= message.length;
        watchForStall();
        if (wasReady || !isReady()) return;
        for (const wake of waiting) wake();
        waiting.clear();
        options.onReady();
      });
      if (stall === undefined && !isReady()) watchForStall();
    },
    /** Resolves when more may be written, or the stream is closed. */
    async ready(): Promise<void> {
      if (isReady() || closing.signal.aborted) return;
      await new Promise<void>((resolve) => waiting.add(resolve));
    },
    close(): void {
      closing.abort();
      stall?.abort();
      for (const wake of waiting) wake();
      waiting.clear();
    },
  };
}
