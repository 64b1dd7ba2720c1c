import { isIP } from 'node:net';
import { checkServerIdentity, createSecureContext } from 'node:tls';
import {
  type ChannelCredentials,
  type ChannelOptions,
  credentials,
  experimental,
} from '@grpc/grpc-js';

/** HTTP/2 window of a connection and of each stream: with the 64 KiB default, 8 MB take 7.7 s at 60 ms round trip, with this 0.2 s. */
export const FLOW_CONTROL_WINDOW_BYTES = 8 * 1024 * 1024;

/** Largest message that is taken: above etcd's own limit for one value (16 MiB here), so that pages of large values fit. */
export const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;

/** When a silent connection is probed, and when it is given up. */
export interface Keepalive {
  /** Silence before a probe, in milliseconds. etcd cuts clients that ask more often than each 5 s. */
  readonly timeMs: number;
  /** How long the answer may take, in milliseconds. */
  readonly timeoutMs: number;
}

/** A stalled TCP connection is noticed in 15 s. */
export const DEFAULT_KEEPALIVE: Keepalive = { timeMs: 10_000, timeoutMs: 5_000 };

/** Certificates as PEM bytes; `key` and `cert` are this side's own. */
export interface TlsMaterial {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
}

/** Certificates as files that may be replaced at any time. */
export interface TlsFiles {
  readonly caFile: string;
  readonly certFile: string;
  readonly keyFile: string;
}

/**
 * Channel options that every client of ours uses. `tlsName` is the name that the server's certificate must bear
 * where it is not the host that is dialled.
 */
export function clientChannelOptions(
  options: { keepalive?: Keepalive; tlsName?: string; authority?: string } = {},
): ChannelOptions {
  const { timeMs, timeoutMs } = options.keepalive ?? DEFAULT_KEEPALIVE;
  return {
    'grpc-node.flow_control_window': FLOW_CONTROL_WINDOW_BYTES,
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    'grpc.keepalive_time_ms': timeMs,
    'grpc.keepalive_timeout_ms': timeoutMs,
    // etcd cuts clients that ping while no call is open. What has to notice a stall has a stream open, or a deadline.
    'grpc.keepalive_permit_without_calls': 0,
    // The defaults go up to two minutes, in which a server that is back stays unnoticed.
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 3000,
    ...(options.tlsName === undefined ? {} : { 'grpc.ssl_target_name_override': options.tlsName }),
    ...(options.authority === undefined ? {} : { 'grpc.default_authority': options.authority }),
  };
}

/**
 * gRPC's target for a host and port. Addresses are dialled as they are, names are resolved again at each reconnection.
 */
export function dialTarget(host: string, port: number): string {
  switch (isIP(host)) {
    case 4:
      return `ipv4:${host}:${port}`;
    case 6:
      return `ipv6:[${host}]:${port}`;
    default:
      return `dns:///${host}:${port}`;
  }
}

/** Name to give as `tlsName` when an address is dialled: TLS allows no address there, so the certificate is checked against `host` by ourselves. */
export const ADDRESS_TLS_NAME = 'localhost';

/** Client credentials from PEM bytes. `host` is who the server's certificate must be for. Throws when a PEM is broken. */
export function clientCredentials(material: TlsMaterial, host: string): ChannelCredentials {
  return credentials.createSsl(material.ca, material.key, material.cert, {
    checkServerIdentity: (_name, certificate) => checkServerIdentity(host, certificate),
  });
}

/**
 * Client credentials of somebody who has no certificate yet. `authority` (PEM) is the only one that is believed, also where it
 * stands below another; the server's certificate must be for one of `names`.
 */
export function anonymousClientCredentials(
  authority: string,
  names: readonly string[],
): ChannelCredentials {
  const context = createSecureContext({ ca: authority, allowPartialTrustChain: true });
  return credentials.createFromSecureContext(context, {
    checkServerIdentity(_name, certificate) {
      const verdicts = names.map((name) => checkServerIdentity(name, certificate));
      return verdicts.includes(undefined) ? undefined : verdicts[0];
    },
  });
}

/**
 * Client credentials from files, read again every `refreshMs` (10,000 by default): the next connection uses the new
 * certificate, the present one goes on.
 */
export function reloadingClientCredentials(
  files: TlsFiles,
  host: string,
  refreshMs = 10_000,
): ChannelCredentials {
  const provider = fileProvider(files, refreshMs);
  return experimental.createCertificateProviderChannelCredentials(provider, provider, {
    checkServerIdentity: (_name, certificate) => checkServerIdentity(host, certificate),
  });
}

/** Reads three certificate files again and again while a connection or server uses them. */
export function fileProvider(
  files: TlsFiles,
  refreshMs: number,
): InstanceType<typeof experimental.FileWatcherCertificateProvider> {
  return new experimental.FileWatcherCertificateProvider({
    caCertificateFile: files.caFile,
    certificateFile: files.certFile,
    privateKeyFile: files.keyFile,
    refreshIntervalMs: refreshMs,
  });
}
