/** A connection to one Kubernetes API server: single requests, lists in pages, watches. */
import { setMaxListeners } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { openCredentials } from './credentials.ts';
import { KubernetesError } from './kubernetes-error.ts';
import { type ListPage, parseListPage } from './list-page.ts';
import { type KubernetesResource, resourcePath } from './resource.ts';
import {
  describe,
  linkSignals,
  type Outgoing,
  parseJson,
  readText,
  send,
  withDeadline,
} from './transport.ts';
import { readWatch, type WatchEnd, type WatchEvent } from './watch-stream.ts';

export type { ListPage } from './list-page.ts';
export type { WatchEnd, WatchEvent } from './watch-stream.ts';

/** One request. */
export interface KubernetesRequest {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** Path as `resourcePath()` makes it. */
  readonly path: string;
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>> | undefined;
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Default: `application/json`; patches need theirs, such as `application/apply-patch+yaml` (JSON is YAML). */
  readonly contentType?: string | undefined;
  /** Default: `application/json`. */
  readonly accept?: string | undefined;
  /** How long the whole of it may take. Default 30,000. */
  readonly timeoutMs?: number | undefined;
  readonly signal: AbortSignal;
}

/** An answer below 400. */
export interface KubernetesResponse {
  readonly status: number;
  /** The parsed JSON, undefined for an empty body. */
  readonly body: unknown;
}

/** Options of a list. */
export interface ListOptions {
  /** Items a page. Default 500. */
  readonly limit?: number | undefined;
  /** Only of this namespace. Default: all. */
  readonly namespace?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly signal: AbortSignal;
}

/** Options of a watch. */
export interface WatchOptions {
  /** Where it begins: changes after this version are told. */
  readonly resourceVersion: string;
  readonly namespace?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
  /** How long the server may keep it open. Default: between 300 and 600, by chance. */
  readonly timeoutSeconds?: number | undefined;
  /** How long nothing may come before the connection is taken for dead; bookmarks come each minute. Default 75,000. */
  readonly silenceMs?: number | undefined;
  readonly signal: AbortSignal;
}

/** An API server. Every method rejects with `KubernetesError`, or with the signal's reason when that aborts. */
export interface KubernetesApi extends AsyncDisposable {
  /** Its URL, for messages. */
  readonly server: string;
  /** Namespace of the context, or of our own pod; `default` when there is none. */
  readonly namespace: string;
  /** Sends one request and reads its JSON. */
  request(request: KubernetesRequest): Promise<KubernetesResponse>;
  /** Lists a kind in pages. Error `gone`: it took too long, begin anew. */
  list(resource: KubernetesResource, options: ListOptions): AsyncGenerator<ListPage, void>;
  /** Watches a kind; yields nothing once when it is open, then what has come together. An ERROR event is thrown; an end before its time is `unavailable`. */
  watch(
    resource: KubernetesResource,
    options: WatchOptions,
  ): AsyncGenerator<readonly WatchEvent[], WatchEnd>;
}

/** Options of `openKubernetes`. */
export interface OpenKubernetesOptions {
  /** File with clusters, users and contexts. Default: the service account of our own pod. */
  readonly kubeconfig?: string | undefined;
  /** Default: the file's current context. */
  readonly context?: string | undefined;
  readonly clock: Clock;
}

/** Query of a list or a watch. */
type Query = Readonly<Record<string, string | number | boolean | undefined>>;

const JSON_TYPE = 'application/json';
const REQUEST_TIMEOUT_MS = 30_000;
/** For one page of a list: a cold server reads it from etcd. */
const PAGE_TIMEOUT_MS = 60_000;
const DEFAULT_LIMIT = 500;

/**
 * Opens an API server. Only credentials are read, and throw `configuration` when they cannot be; nothing is sent yet.
 * Credentials are read again every 10 s, when their file changes, and when the server no longer takes them.
 */
export async function openKubernetes(options: OpenKubernetesOptions): Promise<KubernetesApi> {
  const { clock } = options;
  const credentials = await openCredentials(options);
  const closing = new AbortController();
  // Every request under way waits for it.
  setMaxListeners(0, closing.signal);

  /** Sends with what is valid now, and once more with what is read anew when that is not believed. */
  const sendAs = async (outgoing: Outgoing): Promise<IncomingMessage> => {
    try {
      return await send(await credentials.current(), outgoing);
    } catch (error) {
      if (!(error instanceof KubernetesError) || outgoing.signal.aborted) throw error;
      if (error.code === 'unauthorized' || isTlsFailure(error)) credentials.distrust();
      if (error.code !== 'unauthorized') throw error;
      return send(await credentials.current(), outgoing);
    }
  };

  const request = async (asked: KubernetesRequest): Promise<KubernetesResponse> => {
    const { method, body, contentType = JSON_TYPE, accept = JSON_TYPE } = asked;
    const path = `${asked.path}${queryText(asked.query ?? {})}`;
    const what = describe({ method, path });
    const linked = linkSignals(asked.signal, closing.signal);
    const deadline = withDeadline(linked.signal, {
      ms: asked.timeoutMs ?? REQUEST_TIMEOUT_MS,
      clock,
      what,
    });
    try {
      const answer = await sendAs({
        method,
        path,
        headers: {
          accept,
          'user-agent': USER_AGENT,
          ...(body === undefined ? {} : { 'content-type': contentType }),
        },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: deadline.signal,
      });
      const text = await readText(answer, what);
      return {
        status: answer.statusCode ?? 0,
        body: text === '' ? undefined : parseJson(text, what),
      };
    } catch (error) {
      asked.signal.throwIfAborted();
      throw deadline.expired() ?? error;
    } finally {
      deadline.stop();
      linked.stop();
    }
  };

  return {
    get server() {
      return credentials.server;
    },
    namespace: credentials.namespace,
    request,
    async *list(resource, listing) {
      const { limit = DEFAULT_LIMIT, signal } = listing;
      const path = resourcePath(resource, { namespace: listing.namespace });
      let token: string | undefined;
      do {
        const query: Query = { ...selectors(listing), limit, continue: token };
        const answer = await request({
          method: 'GET',
          path,
          query,
          timeoutMs: PAGE_TIMEOUT_MS,
          signal,
        });
        const page = parseListPage(answer.body, describe({ method: 'GET', path }));
        token = page.token;
        yield page;
      } while (token !== undefined);
    },
    async *watch(resource, watching) {
      const path = resourcePath(resource, { namespace: watching.namespace });
      const timeoutSeconds = watching.timeoutSeconds ?? 300 + Math.floor(Math.random() * 300);
      const query: Query = {
        ...selectors(watching),
        watch: true,
        allowWatchBookmarks: true,
        resourceVersion: watching.resourceVersion,
        timeoutSeconds,
      };
      const linked = linkSignals(watching.signal, closing.signal);
      try {
        return yield* readWatch({
          open: (signal) =>
            sendAs({
              method: 'GET',
              path: `${path}${queryText(query)}`,
              headers: { accept: JSON_TYPE, 'user-agent': USER_AGENT },
              body: undefined,
              signal,
            }),
          what: `WATCH ${path}`,
          timeoutSeconds,
          silenceMs: watching.silenceMs ?? DEFAULT_SILENCE_MS,
          clock,
          signal: linked.signal,
        });
      } catch (error) {
        watching.signal.throwIfAborted();
        throw error;
      } finally {
        linked.stop();
      }
    },
    [Symbol.asyncDispose]() {
      closing.abort(new KubernetesError('unavailable', 'the connection to Kubernetes was closed'));
      credentials[Symbol.dispose]();
      return Promise.resolve();
    },
  };
}

const USER_AGENT = 'isthmus-clustermesh-apiserver';
/** Bookmarks come about each minute. */
const DEFAULT_SILENCE_MS = 75_000;

/** A certificate that the other side does not take ends the handshake, and gives no status. */
function isTlsFailure({ cause }: KubernetesError): boolean {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  return typeof code === 'string' && /SSL|EPROTO|CERT|SIGNED/.test(code);
}

function selectors(options: {
  readonly fieldSelector?: string | undefined;
  readonly labelSelector?: string | undefined;
}): Query {
  return { fieldSelector: options.fieldSelector, labelSelector: options.labelSelector };
}

function queryText(query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, String(value));
  }
  const text = parameters.toString();
  return text === '' ? '' : `?${text}`;
}
