import { isIP } from 'node:net';
import type { ChannelCredentials, ChannelOptions } from '@grpc/grpc-js';
import { credentials } from '@grpc/grpc-js';
import {
  ADDRESS_TLS_NAME,
  clientChannelOptions,
  clientCredentials,
  dialTarget,
  type Keepalive,
  type TlsMaterial,
} from '../runtime/grpc-client.ts';
import { KvError } from './kvstore.ts';

/** Addresses that stand for a host name, as in `cilium-host-aliases` of a peer file. */
export interface HostAlias {
  readonly hostname: string;
  readonly ips: readonly string[];
}

/** Certificates of an etcd client. `serverName` replaces the endpoint's host as the name that the server must prove. */
export interface EtcdTls {
  readonly ca: string | Buffer;
  readonly cert: string | Buffer;
  readonly key: string | Buffer;
  readonly serverName?: string;
}

/** One address at which etcd may answer, and how to dial it. */
export interface EtcdEndpoint {
  /** The URL it was made from, for messages. */
  readonly url: string;
  /** gRPC's target. */
  readonly target: string;
  readonly channelOptions: ChannelOptions;
  /** Makes credentials for grpc-js. */
  readonly credentials: ChannelCredentials;
  readonly tls: TlsMaterial | undefined;
  /** Name or address that the server's certificate must be for. */
  readonly proves: string;
}

/** Options of `parseEndpoints`. */
export interface EndpointOptions {
  readonly tls?: EtcdTls | undefined;
  readonly hostAliases?: readonly HostAlias[] | undefined;
  readonly keepalive?: Keepalive | undefined;
}

/**
 * Turns endpoint URLs into what is to be dialled: one entry for each URL, or for each address of its alias. Throws
 * KvError `invalid` naming the URL or certificate that is wrong.
 */
export function parseEndpoints(urls: readonly string[], options: EndpointOptions): EtcdEndpoint[] {
  if (urls.length === 0)
    throw invalid('cannot open etcd: no endpoint is given, expected at least one URL');
  return urls.flatMap((url) => parseEndpoint(url, options));
}

function parseEndpoint(url: string, options: EndpointOptions): EtcdEndpoint[] {
  const { host, port, secure } = parseUrl(url);
  if (secure && options.tls === undefined) {
    throw invalid(`cannot open etcd at ${url}: https needs a CA, a certificate and a key`);
  }
  const tls = secure && options.tls !== undefined ? toMaterial(options.tls) : undefined;
  const alias = options.hostAliases?.find(({ hostname }) => hostname === host);
  const proves = options.tls?.serverName ?? host;
  const channelCredentials = makeCredentials(url, tls, proves);
  const channelOptions = clientChannelOptions({
    ...(options.keepalive === undefined ? {} : { keepalive: options.keepalive }),
    ...(secure ? { tlsName: isIP(proves) === 0 ? proves : ADDRESS_TLS_NAME } : {}),
    ...(alias === undefined ? {} : { authority: `${host}:${port}` }),
  });
  return (alias?.ips ?? [host]).map((address) => ({
    url,
    target: dialTarget(address, port),
    channelOptions,
    credentials: channelCredentials,
    tls,
    proves,
  }));
}

/** Splits an endpoint URL. Throws KvError `invalid` unless it is `http(s)://host[:port]`; the port's default is 2379. */
export function parseUrl(url: string): { host: string; port: number; secure: boolean } {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  const scheme = parsed?.protocol;
  if (
    parsed === undefined ||
    (scheme !== 'http:' && scheme !== 'https:') ||
    parsed.hostname === ''
  ) {
    throw invalid(
      `cannot parse etcd endpoint ${JSON.stringify(url)}: expected https://host:port or http://host:port`,
    );
  }
  if (!/^\/?$/.test(parsed.pathname) || parsed.search !== '' || parsed.username !== '') {
    throw invalid(
      `cannot parse etcd endpoint ${JSON.stringify(url)}: expected nothing but a host and a port`,
    );
  }
  const impliedPort = /:(80|443)\/?$/.exec(url)?.[1];
  return {
    host: parsed.hostname.replace(/^\[|\]$/g, ''),
    port: Number(parsed.port || impliedPort || 2379),
    secure: scheme === 'https:',
  };
}

function toMaterial(tls: EtcdTls): TlsMaterial {
  return { ca: Buffer.from(tls.ca), cert: Buffer.from(tls.cert), key: Buffer.from(tls.key) };
}

function makeCredentials(
  url: string,
  tls: TlsMaterial | undefined,
  host: string,
): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  try {
    return clientCredentials(tls, host);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new KvError('invalid', `cannot use the certificates for ${url}: ${why}`, {
      retryable: false,
      cause,
    });
  }
}

function invalid(message: string): KvError {
  return new KvError('invalid', message, { retryable: false });
}
