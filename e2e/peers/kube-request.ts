/** Plain requests to an API server, for what tests set up and look at: much quicker than a `kubectl` each. */
import { readFile } from 'node:fs/promises';
import { Agent, request as httpsRequest } from 'node:https';
import type { KubeEndpoint } from './kubeconfig.ts';

/** An answer, whatever its status. */
export interface KubeAnswer {
  readonly status: number;
  /** Parsed, if it is JSON, else the text. */
  readonly body: unknown;
}

/** Options of a request. */
export interface KubeRequestOptions {
  /** Sent as JSON. */
  readonly body?: unknown;
  /** Default `application/json`; a patch needs one of Kubernetes' types. */
  readonly contentType?: string;
  /** Bearer token. Default: the administrator's. */
  readonly token?: string;
  readonly signal?: AbortSignal;
}

/** Sends requests over connections that are kept. Disposing closes them. */
export interface KubeRequester extends Disposable {
  send(method: string, path: string, options?: KubeRequestOptions): Promise<KubeAnswer>;
}

/** Opens one for an endpoint; `token` is whose who does not say otherwise. */
export async function openKubeRequester(
  endpoint: KubeEndpoint,
  token: string,
): Promise<KubeRequester> {
  const agent = new Agent({ keepAlive: true, ca: await readFile(endpoint.caFile) });
  return {
    send: (method, path, options = {}) =>
      new Promise((resolve, reject) => {
        const payload = options.body === undefined ? undefined : JSON.stringify(options.body);
        const request = httpsRequest(`${endpoint.url}${path}`, {
          agent,
          method,
          headers: {
            authorization: `Bearer ${options.token ?? token}`,
            accept: 'application/json',
            ...(payload === undefined
              ? {}
              : {
                  'content-type': options.contentType ?? 'application/json',
                  'content-length': Buffer.byteLength(payload),
                }),
          },
          ...(options.signal === undefined ? {} : { signal: options.signal }),
        });
        request.once('error', reject);
        request.once('response', (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.once('error', reject);
          response.once('end', () => {
            const text = Buffer.concat(chunks).toString();
            resolve({ status: response.statusCode ?? 0, body: parsed(text) });
          });
        });
        request.end(payload);
      }),
    [Symbol.dispose]: () => agent.destroy(),
  };
}

/** Sends, and throws with the server's own words when the answer is not a success (2xx, or a status of `also`). */
export async function expectOk(
  requester: KubeRequester,
  [method, path]: readonly [method: string, path: string],
  options: KubeRequestOptions & { readonly also?: readonly number[] } = {},
): Promise<unknown> {
  const { status, body } = await requester.send(method, path, options);
  if ((status >= 200 && status < 300) || options.also?.includes(status)) return body;
  throw new Error(`cannot ${method} ${path}: status ${status}: ${JSON.stringify(body)}`);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
