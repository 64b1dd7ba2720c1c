/** Where the API server is and how it knows us: kubeconfig files, service accounts, tokens and certificates that rotate. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent, type RequestOptions } from 'node:https';
import { dirname, isAbsolute, join } from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import { parse as parseYaml } from 'yaml';
import type { Clock } from '../../mesh/runtime/clock.ts';
import { KubernetesError } from './kubernetes-error.ts';

/** What a request needs to reach the API server and be let in. */
export interface Access {
  /** `https://host:port`, with a path where the server stands behind one. */
  readonly server: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly agent: HttpAgent | HttpsAgent;
}

/** Keeps access up to date. Disposing closes its connections. */
export interface Credentials extends Disposable {
  /** What is valid now. Throws KubernetesError `configuration` when it cannot be read. */
  current(): Promise<Access>;
  /** To be called when the server did not believe them: the next call reads everything anew. */
  distrust(): void;
  /** URL of the server as last read, for messages. */
  readonly server: string;
  readonly namespace: string;
}

/** How long credentials are used before files and plugins are asked again. */
const REFRESH_MS = 10_000;
const MOST_AGENTS = 4;
/** A plugin that opens a browser and waits for nobody must not hold everything up. */
const PLUGIN_TIMEOUT_MS = 60_000;

/** A kubeconfig as it was read. */
interface Loaded {
  readonly config: KubeConfig;
  /** The file's text, by which a change is seen; empty in a cluster. */
  readonly text: string;
  /** File that holds the user's token, a field which the library does not read. */
  readonly tokenFile: string | undefined;
}

/** Opens the credentials of a kubeconfig file, or of the service account of our pod; reads them once, to say early what is wrong. */
export async function openCredentials(options: {
  readonly kubeconfig?: string | undefined;
  readonly context?: string | undefined;
  readonly clock: Clock;
}): Promise<Credentials> {
  const { clock } = options;
  const agents = new Map<string, Access['agent']>();
  let loaded: Loaded | undefined;
  let access: Access | undefined;
  let readAt = 0;
  let reading: Promise<Access> | undefined;

  const refresh = async (): Promise<Access> => {
    loaded = await load(options, loaded);
    const read = await readAccess(loaded, { agents, clock });
    access = read;
    readAt = clock.monotonic();
    return read;
  };
  const current = async (): Promise<Access> => {
    if (access !== undefined && clock.monotonic() - readAt < REFRESH_MS) return access;
    reading ??= refresh().finally(() => {
      reading = undefined;
    });
    return reading;
  };
  const first = await current();
  return {
    current,
    distrust() {
      access = undefined;
      loaded = undefined;
    },
    get server() {
      return (access ?? first).server;
    },
    namespace:
      loaded?.config.getContextObject(loaded.config.getCurrentContext())?.namespace?.trim() ||
      'default',
    [Symbol.dispose]() {
      for (const agent of agents.values()) agent.destroy();
    },
  };
}

async function load(
  options: { readonly kubeconfig?: string | undefined; readonly context?: string | undefined },
  before: Loaded | undefined,
): Promise<Loaded> {
  // Loaded only where Kubernetes is used: the library takes 80 MB.
  const { KubeConfig } = await import('@kubernetes/client-node');
  const { kubeconfig: path, context } = options;
  if (path === undefined) {
    if (before !== undefined) return before;
    const config = new KubeConfig();
    config.loadFromCluster();
    // The library reads the environment, which is not for us to read, and writes what it has not found into the URL.
    if (config.getCurrentCluster()?.server.includes('undefined') !== false) {
      throw unusable(
        'this is no pod of a Kubernetes cluster, KUBERNETES_SERVICE_HOST is not set; give --kubeconfig, or --mode standalone with --manifests',
      );
    }
    return { config, text: '', tokenFile: undefined };
  }
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw unusable(`cannot read ${path} (--kubeconfig): ${reasonOf(cause)}`, cause);
  }
  if (before?.text === text) return before;
  const config = new KubeConfig();
  try {
    config.loadFromString(text);
  } catch (cause) {
    throw unusable(`${path} (--kubeconfig) is no kubeconfig file: ${reasonOf(cause)}`, cause);
  }
  const folder = dirname(path);
  config.makePathsAbsolute(folder);
  if (context !== undefined) config.setCurrentContext(context);
  if (config.getCurrentCluster() === null) {
    const names = config.getContexts().map(({ name }) => name);
    const asked = context ?? config.getCurrentContext();
    throw unusable(
      `${path} (--kubeconfig) has no usable context ${JSON.stringify(asked ?? '')}; choose one with --kubernetes-context: ${names.join(', ') || 'it has none'}`,
    );
  }
  return { config, text, tokenFile: tokenFileOf(text, config.getCurrentUser()?.name, folder) };
}

/** The field `tokenFile` of a user, which client-go knows and the library does not. */
function tokenFileOf(text: string, user: string | undefined, folder: string): string | undefined {
  const document: unknown = parseYaml(text);
  const users = fieldOf(document, 'users');
  if (!Array.isArray(users)) return undefined;
  const entry: unknown = users.find((candidate) => fieldOf(candidate, 'name') === user);
  const file = fieldOf(fieldOf(entry, 'user'), 'tokenFile');
  if (typeof file !== 'string' || file === '') return undefined;
  return isAbsolute(file) ? file : join(folder, file);
}

function fieldOf(value: unknown, name: string): unknown {
  if (typeof value !== 'object' || value === null) return undefined;
  return Object.entries(value).find(([key]) => key === name)?.[1];
}

async function readAccess(
  { config, tokenFile }: Loaded,
  context: { readonly agents: Map<string, Access['agent']>; readonly clock: Clock },
): Promise<Access> {
  const cluster = config.getCurrentCluster();
  if (cluster === null) throw unusable('the kubeconfig has no cluster');
  const plain = cluster.server.startsWith('http:');
  const options: RequestOptions = {};
  try {
    // For plain HTTP, as `kubectl proxy` speaks it, the library wants a word that no TLS is meant.
    if (plain) Object.assign(cluster, { skipTLSVerify: true });
    await withTimeout(config.applyToHTTPSOptions(options), context.clock);
    if (tokenFile !== undefined) {
      const token = (await readFile(tokenFile, 'utf8')).trim();
      options.headers = { ...options.headers, Authorization: `Bearer ${token}` };
    }
  } catch (cause) {
    throw unusable(`cannot get credentials for ${cluster.server}: ${reasonOf(cause)}`, cause);
  }
  const { ca, cert, key, pfx, passphrase, rejectUnauthorized, servername } = options;
  const tls = { ca, cert, key, pfx, passphrase, rejectUnauthorized, servername };
  const id = createHash('sha256')
    .update(JSON.stringify([cluster.server, cluster.proxyUrl, tls]))
    .digest('hex');
  let agent = context.agents.get(id);
  if (agent === undefined) {
    agent = makeAgent({ plain, proxied: cluster.proxyUrl ? options.agent : undefined, tls });
    context.agents.set(id, agent);
    // Plugins give another certificate each hour: connections of older ones end by themselves.
    for (const [oldest] of context.agents) {
      if (context.agents.size <= MOST_AGENTS) break;
      context.agents.delete(oldest);
    }
  }
  return { server: cluster.server, headers: headersOf(options), agent };
}

function makeAgent(options: {
  readonly plain: boolean;
  readonly proxied: RequestOptions['agent'];
  readonly tls: Readonly<Record<string, unknown>>;
}): Access['agent'] {
  const { plain, proxied, tls } = options;
  if (proxied instanceof HttpAgent) return proxied;
  if (plain) return new HttpAgent({ keepAlive: true });
  const given = Object.fromEntries(Object.entries(tls).filter(([, value]) => value !== undefined));
  return new HttpsAgent({ keepAlive: true, ...given });
}

function headersOf(options: RequestOptions): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries({ ...options.headers })) {
    // A token file ends with a line feed, which no header may.
    if (value !== undefined) headers[name.toLowerCase()] = String(value).trim();
  }
  if (options.auth !== undefined && options.auth !== null) {
    headers.authorization = `Basic ${Buffer.from(options.auth).toString('base64')}`;
  }
  return headers;
}

async function withTimeout(work: Promise<void>, clock: Clock): Promise<void> {
  const over = new AbortController();
  const expired = clock.sleep(PLUGIN_TIMEOUT_MS, over.signal).then(
    () => {
      throw new Error(`the credential plugin has not answered for ${PLUGIN_TIMEOUT_MS / 1000} s`);
    },
    () => undefined,
  );
  try {
    await Promise.race([work, expired.then(() => work)]);
  } finally {
    over.abort();
  }
}

function unusable(message: string, cause?: unknown): KubernetesError {
  return new KubernetesError('configuration', message, { cause });
}

function reasonOf(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT') return `${error instanceof Error ? error.message : 'it does not exist'}`;
  return error instanceof Error ? error.message.trim() : String(error);
}
