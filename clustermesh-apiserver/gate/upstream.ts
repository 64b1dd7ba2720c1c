/** The gate's own connection to etcd: bytes in, bytes out. */
import {
  Client,
  type ClientDuplexStream,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { type EtcdTls, parseEndpoints } from '../../mesh/kvstore/etcd-endpoint.ts';
import {
  decodeAnswerHeader,
  decodeWatchResponse,
  encodeCountRequest,
  type ResponseHeader,
  type WatchResponse,
} from './etcd-messages.ts';

/** Longest time a call may take, whatever its caller asks for. */
const CALL_TIMEOUT_MS = 30_000;
const CURRENT_TIMEOUT_MS = 5000;
const RANGE = '/etcdserverpb.KV/Range';
const WATCH = '/etcdserverpb.Watch/Watch';
/** A key that nobody writes: counting it asks for nothing but the header. */
const NO_KEY = Buffer.from('isthmus/none');

/** Where etcd is. */
export interface UpstreamOptions {
  readonly endpoints: readonly string[];
  readonly tls?: EtcdTls | undefined;
}

/** What a watch stream to etcd tells. After `onEnd` nothing comes any more. */
export interface UpstreamWatchHandlers {
  onMessage(response: WatchResponse): void;
  onEnd(error: ServiceError | Error): void;
}

/** One watch, on a stream of its own so that it can be paused. */
export interface UpstreamWatch {
  /** Sends another request on the stream. */
  send(request: Buffer): void;
  pause(): void;
  resume(): void;
  /** Ends it without a call of `onEnd`. */
  cancel(): void;
}

/** etcd as the gate sees it. */
export interface Upstream extends AsyncDisposable {
  /** Makes a unary call; rejects with grpc's ServiceError. */
  call(
    path: string,
    message: Buffer,
    options?: { deadline?: Date; requireLeader?: boolean },
  ): Promise<Buffer>;
  watch(create: Buffer, handlers: UpstreamWatchHandlers): UpstreamWatch;
  /**
   * Header with the highest revision seen since the connection was lost last; undefined before the first answer. What
   * clients are told about the store's revision comes from here.
   */
  readonly latest: ResponseHeader | undefined;
  /** Reads the newest revision from etcd. */
  readCurrent(): Promise<ResponseHeader>;
  /** Uses other certificates from the next call on; watches that are open go on. Throws KvError `invalid`. */
  renewTls(tls: EtcdTls): void;
  /** URL in use. */
  readonly endpoint: string;
}

/** Prepares a connection; nothing is dialled before the first call. Throws KvError `invalid` for endpoints or certificates that are none. */
export function openUpstream(options: UpstreamOptions): Upstream {
  const connect = (tls: EtcdTls | undefined): { url: string; client: Client }[] =>
    parseEndpoints(options.endpoints, { tls }).map(
      ({ target, credentials, channelOptions, url }) => ({
        url,
        client: new Client(target, credentials, {
          ...channelOptions,
          'grpc.max_receive_message_length': -1,
        }),
      }),
    );
  let clients = connect(options.tls);
  /** With former certificates: what began on them goes on. */
  const retired: Client[] = [];
  let index = 0;
  let latest: ResponseHeader | undefined;

  const current = (): { url: string; client: Client } => {
    const chosen = clients[index];
    if (chosen === undefined) throw new RangeError('cannot choose an endpoint: there is none');
    return chosen;
  };
  const observe = (header: ResponseHeader | undefined): void => {
    if (header === undefined) return;
    if (
      latest === undefined ||
      !latest.ids.equals(header.ids) ||
      header.revision >= latest.revision
    ) {
      latest = header;
    }
  };
  const failed = (from: Client, error: ServiceError | Error): void => {
    if (!('code' in error) || error.code !== status.UNAVAILABLE || from !== current().client)
      return;
    // What comes back may be another etcd, or the same with its data wiped.
    latest = undefined;
    index = (index + 1) % clients.length;
  };
  const call: Upstream['call'] = (path, message, { deadline, requireLeader } = {}) => {
    const { client } = current();
    const latestEnd = new Date(Date.now() + CALL_TIMEOUT_MS);
    const end = deadline !== undefined && deadline < latestEnd ? deadline : latestEnd;
    return new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        path,
        passBytes,
        passBytes,
        message,
        leaderMetadata(requireLeader ?? false),
        { deadline: end },
        (error, answer) => {
          if (error !== null) {
            failed(client, error);
            reject(error);
            return;
          }
          const bytes = answer ?? Buffer.alloc(0);
          observe(decodeAnswerHeader(bytes));
          resolve(bytes);
        },
      );
    });
  };

  return {
    call,
    watch(create, handlers) {
      const { client } = current();
      const stream: ClientDuplexStream<Buffer, Buffer> = client.makeBidiStreamRequest(
        WATCH,
        passBytes,
        passBytes,
        leaderMetadata(true),
        {},
      );
      let hasEnded = false;
      const end = (error: ServiceError | Error): void => {
        if (hasEnded) return;
        hasEnded = true;
        failed(client, error);
        handlers.onEnd(error);
      };
      stream.on('data', (message: Buffer) => {
        if (hasEnded) return;
        let response: WatchResponse;
        try {
          response = decodeWatchResponse(message);
        } catch (error) {
          stream.cancel();
          end(error instanceof Error ? error : new Error(String(error)));
          return;
        }
        observe(response.header);
        handlers.onMessage(response);
      });
      stream.on('error', end);
      stream.on('end', () => end(new Error('etcd ended the watch')));
      stream.write(create);
      return {
        send: (request) => stream.write(request),
        pause: () => stream.pause(),
        resume: () => stream.resume(),
        cancel() {
          hasEnded = true;
          stream.cancel();
        },
      };
    },
    get latest() {
      return latest;
    },
    async readCurrent() {
      const deadline = new Date(Date.now() + CURRENT_TIMEOUT_MS);
      const answer = await call(RANGE, encodeCountRequest(NO_KEY), { deadline });
      const header = decodeAnswerHeader(answer);
      if (header === undefined) throw new Error('etcd answered without a header');
      return header;
    },
    renewTls(tls) {
      const renewed = connect(tls);
      for (const { client } of clients) retired.push(client);
      clients = renewed;
    },
    get endpoint() {
      return current().url;
    },
    async [Symbol.asyncDispose]() {
      for (const { client } of clients) client.close();
      for (const client of retired) client.close();
    },
  };
}

/** (De)serialiser for messages that stay bytes. */
export function passBytes(message: Buffer): Buffer {
  return message;
}

/** etcd's own word for "fail when there is no leader" (clientv3 `WithRequireLeader`). */
function leaderMetadata(requireLeader: boolean): Metadata {
  const metadata = new Metadata();
  if (requireLeader) metadata.set('hasleader', 'true');
  return metadata;
}
