/** A client of etcd without any convenience: what it sends and what it hears is what is on the wire. */
import { Client, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import type { EtcdTls } from '../../../mesh/kvstore/etcd-endpoint.ts';
import { loadProtoFile } from '../../../mesh/runtime/proto-file.ts';
import { passBytes } from '../upstream.ts';

const proto = loadProtoFile('mesh/wire/etcd.proto');

/** One event as told. */
export interface SeenEvent {
  readonly type: string;
  readonly key: string;
  readonly value: string;
  readonly revision: number;
  readonly prevValue: string | undefined;
}

/** One answer on a watch stream. */
export interface SeenAnswer {
  readonly clusterId: string;
  readonly revision: number;
  readonly watchId: number;
  readonly created: boolean;
  readonly canceled: boolean;
  readonly fragment: boolean;
  readonly compactRevision: number;
  readonly cancelReason: string;
  readonly events: readonly SeenEvent[];
}

/** A watch stream under test. */
export interface RawWatch {
  readonly answers: SeenAnswer[];
  /** All events so far, in order. */
  readonly events: SeenEvent[];
  readonly error: ServiceError | undefined;
  send(request: object): void;
  pause(): void;
  resume(): void;
  cancel(): void;
}

/** A raw client. Disposing closes its connection. */
export interface RawClient extends Disposable {
  /** Encodes a message of etcd.proto, calls, resolves to the answer's bytes. */
  callBytes(service: string, method: string, request: object): Promise<Buffer>;
  /** The same, decoded. */
  call(service: string, method: string, request: object): Promise<Record<string, unknown>>;
  /** Sends these very bytes. */
  sendBytes(path: string, message: Buffer): Promise<Buffer>;
  watch(create?: object): RawWatch;
  /** Sends one request on a watch stream and hands on the bytes of every answer: for those who count them by the thousand. */
  watchBytes(request: Buffer, onAnswer: (bytes: Buffer) => void): void;
}

/** Makes a client of `https://127.0.0.1:<port>`; one with an empty certificate shows none. */
export function openRawClient(endpoint: string, tls: EtcdTls): RawClient {
  const own: [] | [Buffer, Buffer] =
    tls.cert.length === 0 ? [] : [Buffer.from(tls.key), Buffer.from(tls.cert)];
  const client = new Client(
    new URL(endpoint).host,
    credentials.createSsl(Buffer.from(tls.ca), ...own),
    {
      'grpc.ssl_target_name_override': 'localhost',
      'grpc.max_receive_message_length': -1,
      'grpc.max_reconnect_backoff_ms': 200,
      // Each client has a connection of its own.
      'grpc.use_local_subchannel_pool': 1,
    },
  );
  const streams: (() => void)[] = [];
  const sendBytes = (path: string, message: Buffer): Promise<Buffer> =>
    new Promise((resolve, reject) => {
      const deadline = new Date(Date.now() + 20_000);
      client.makeUnaryRequest(
        path,
        passBytes,
        passBytes,
        message,
        new Metadata(),
        { deadline },
        (error, answer) => (error === null && answer ? resolve(answer) : reject(error)),
      );
    });
  return {
    sendBytes,
    callBytes: (service, method, request) => {
      const definition = methodOf(service, method);
      return sendBytes(definition.path, definition.requestSerialize(request));
    },
    async call(service, method, request) {
      const definition = methodOf(service, method);
      const answer = await sendBytes(definition.path, definition.requestSerialize(request));
      return definition.responseDeserialize(answer) as Record<string, unknown>;
    },
    watch(create) {
      const { path, requestSerialize, responseDeserialize } = methodOf('Watch', 'Watch');
      const stream = client.makeBidiStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        new Metadata(),
        {},
      );
      const answers: SeenAnswer[] = [];
      const events: SeenEvent[] = [];
      let error: ServiceError | undefined;
      stream.on('data', (message: unknown) => {
        const answer = readAnswer(message);
        answers.push(answer);
        events.push(...answer.events);
      });
      stream.on('error', (reason: ServiceError) => {
        error = reason;
      });
      if (create !== undefined) stream.write({ create_request: create });
      return {
        answers,
        events,
        get error() {
          return error;
        },
        send: (request) => void stream.write(request),
        pause: () => void stream.pause(),
        resume: () => void stream.resume(),
        cancel: () => stream.cancel(),
      };
    },
    watchBytes(request, onAnswer) {
      const { path } = methodOf('Watch', 'Watch');
      const stream = client.makeBidiStreamRequest(path, passBytes, passBytes, new Metadata(), {});
      stream.on('data', onAnswer);
      // Closing the client ends the stream with an error.
      stream.on('error', () => undefined);
      stream.write(request);
      streams.push(() => stream.cancel());
    },
    [Symbol.dispose]: () => {
      for (const cancel of streams) cancel();
      client.close();
    },
  };
}

interface Method {
  readonly path: string;
  readonly requestSerialize: (value: object) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => object;
}

function methodOf(service: string, method: string): Method {
  const found = proto[`etcdserverpb.${service}`] as Record<string, Method> | undefined;
  const definition = found?.[method];
  if (definition === undefined) throw new Error(`etcd.proto has no ${service}.${method}`);
  return definition;
}

function readAnswer(message: unknown): SeenAnswer {
  const { header, events, ...rest } = message as {
    header?: { cluster_id?: string; revision?: string };
    watch_id?: string;
    created?: boolean;
    canceled?: boolean;
    fragment?: boolean;
    compact_revision?: string;
    cancel_reason?: string;
    events?: { type?: string; kv?: RawPair; prev_kv?: RawPair }[];
  };
  return {
    clusterId: header?.cluster_id ?? '',
    revision: Number(header?.revision ?? 0),
    watchId: Number(rest.watch_id ?? 0),
    created: rest.created ?? false,
    canceled: rest.canceled ?? false,
    fragment: rest.fragment ?? false,
    compactRevision: Number(rest.compact_revision ?? 0),
    cancelReason: rest.cancel_reason ?? '',
    events: (events ?? []).map(({ type, kv, prev_kv }) => ({
      type: type ?? 'PUT',
      key: kv?.key?.toString() ?? '',
      value: kv?.value?.toString() ?? '',
      revision: Number(kv?.mod_revision ?? 0),
      prevValue: prev_kv?.value?.toString(),
    })),
  };
}

interface RawPair {
  readonly key?: Buffer;
  readonly value?: Buffer;
  readonly mod_revision?: string;
}
