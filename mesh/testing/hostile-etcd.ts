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
   * returns true, `drained` telling when to go on. Resolving ends the stream.
   */
  watch?(stream: HostileWatch): Promise<void>;
}

/** A watch that was opened. */
export interface HostileWatch {
  readonly key: string;
  /** Returns false when what was written waits to be read. */
  write(message: object): boolean;
  drained(): Promise<void>;
  /** Aborts when the reader is gone. */
  readonly signal: AbortSignal;
}

/** A running server. */
export interface HostileEtcd extends AsyncDisposable {
  readonly endpoint: string;
  /** How many ranges of keys below this prefix were asked for, counts not counted. */
  ranges(prefix: string): number;
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
      const gone = new AbortController();
      for (const event of ['cancelled', 'close', 'error', 'end'])
        call.on(event, () => gone.abort());
      call.once('data', (request: { create_request?: { key: Buffer } }) => {
        call.write({ header: HOSTILE_HEADER, created: true });
        const stream: HostileWatch = {
          key: request.create_request?.key.toString() ?? '',
          write: (message) => call.write(message),
          drained: () =>
            new Promise((resolve) => {
              call.once('drain', () => resolve());
              gone.signal.addEventListener('abort', () => resolve(), { once: true });
            }),
          signal: gone.signal,
        };
        const watching = script.watch?.(stream);
        watching?.then(
          () => call.end(),
          () => call.end(),
        );
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
    [Symbol.asyncDispose]: async () => server.forceShutdown(),
  };
}
