/** A scripted etcd that answers as no etcd would: what a peer's server may do to whoever reads it. */
import {
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import { loadProtoFile } from '../runtime/proto-file.ts';

/** Header of its answers: of cluster 4d (77), at revision 10. */
export const HOSTILE_HEADER = { cluster_id: '77', member_id: '1', revision: '10', raft_term: '1' };

/** A request for a range, as far as scripts look at it. */
export interface HostileRange {
  readonly key: Buffer;
  readonly range_end: Buffer;
  readonly limit: string;
  readonly count_only: boolean;
  readonly keys_only: boolean;
}

/** What it answers. */
export interface HostileScript {
  /** Answer to a range. Undefined: none ever comes. */
  range(request: HostileRange): object | undefined;
  /**
   * Is given each watch of a prefix or key after its creation was answered, and may write messages as long as `write`
   * returns true, `drained` telling when to go on. Resolving ends the stream that it is on.
   */
  watch?(stream: HostileWatch): Promise<void>;
}

/** A watch that was opened. */
export interface HostileWatch {
  readonly key: string;
  /** First revision that was asked for. */
  readonly startRevision: number;
  /** Adds the id of the watch where the message has none. Returns false when what was written waits to be read. */
  write(message: object): boolean;
  drained(): Promise<void>;
  /** Aborts when the watch was cancelled or its reader is gone. */
  readonly signal: AbortSignal;
}

/** A running server. */
export interface HostileEtcd extends AsyncDisposable {
  readonly endpoint: string;
  /** How many ranges of keys below this prefix were asked for, counts not counted. */
  ranges(prefix: string): number;
  /** How many Watch calls there were. */
  streams(): number;
}

interface WatchRequest {
  readonly create_request?: { readonly key: Buffer; readonly start_revision: string } | null;
  readonly cancel_request?: { readonly watch_id: string } | null;
}

interface WatchCall extends NodeJS.EventEmitter {
  write(message: object): boolean;
  end(): void;
}

/** A pair as etcd writes it. */
export function wirePair(
  key: string,
  options: { value?: Buffer | string; revision?: number } = {},
): object {
  const { value = 'x', revision = 5 } = options;
  return {
    key: Buffer.from(key),
    value: Buffer.from(value),
    mod_revision: String(revision),
    create_revision: String(revision),
    version: '1',
  };
}

/** Starts one on a free port of the loopback, without TLS. */
export async function openHostileEtcd(script: HostileScript): Promise<HostileEtcd> {
  const services = loadProtoFile('mesh/wire/etcd.proto');
  const server = new Server({ 'grpc.max_send_message_length': -1 });
  const asked: string[] = [];
  let streams = 0;
  const never = (): void => undefined;
  server.addService(services['etcdserverpb.KV'] as ServiceDefinition, {
    Range: (call: { request: HostileRange }, answer: sendUnaryData<object>) => {
      const { request } = call;
      if (!request.count_only) asked.push(request.key.toString());
      const found = script.range(request);
      if (found !== undefined) answer(null, found);
    },
    Put: never,
    DeleteRange: never,
    Txn: (_call: unknown, answer: sendUnaryData<object>) =>
      answer({ code: status.PERMISSION_DENIED, details: 'no' }),
    Compact: never,
  });
  server.addService(services['etcdserverpb.Watch'] as ServiceDefinition, {
    Watch: (call: WatchCall) => {
      streams += 1;
      const watches: AbortController[] = [];
      for (const event of ['cancelled', 'close', 'error', 'end'])
        call.on(event, () => {
          for (const gone of watches) gone.abort();
        });
      call.on('data', ({ create_request: create, cancel_request: cancel }: WatchRequest) => {
        if (cancel != null) {
          watches[Number(cancel.watch_id)]?.abort();
          call.write({ header: HOSTILE_HEADER, watch_id: cancel.watch_id, canceled: true });
        }
        if (create == null) return;
        const watchId = watches.length;
        const gone = new AbortController();
        watches.push(gone);
        call.write({ header: HOSTILE_HEADER, watch_id: String(watchId), created: true });
        const stream: HostileWatch = {
          key: create.key.toString(),
          startRevision: Number(create.start_revision),
          write: (message) => call.write({ watch_id: String(watchId), ...message }),
          drained: () =>
            new Promise((resolve) => {
              call.once('drain', () => resolve());
              gone.signal.addEventListener('abort', () => resolve(), { once: true });
            }),
          signal: gone.signal,
        };
        const end = (): void => {
          if (!gone.signal.aborted) call.end();
        };
        script.watch?.(stream).then(end, end);
      });
    },
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  return {
    endpoint: `http://127.0.0.1:${port}`,
    ranges: (prefix) => asked.filter((key) => key.startsWith(prefix)).length,
    streams: () => streams,
    [Symbol.asyncDispose]: async () => server.forceShutdown(),
  };
}
