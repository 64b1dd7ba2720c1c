/** The etcd command line, and what etcd's last words mean. Pure. */
import { join } from 'node:path';
import { EtcdError } from './etcd-error.ts';

/** Largest request that etcd takes: a service of thousands of backends is above etcd's default of 1.5 MiB. */
export const MAX_REQUEST_BYTES = 16 * 1024 * 1024;
/** Size of the database at which etcd takes no more writes. */
export const QUOTA_BYTES = 4 * 1024 * 1024 * 1024;
const MEMBER = 'clustermesh-apiserver';
/** A member of a cluster of one is never dialled by a peer; etcd wants a name all the same. */
const NEVER_DIALLED = 'https://localhost:1';

/** Where everything of one embedded etcd lies below its data directory. */
export interface EtcdFiles {
  readonly data: string;
  readonly tls: string;
  readonly ca: string;
  readonly certificate: string;
  readonly privateKey: string;
  readonly owner: string;
  readonly token: string;
}

/** Names the files below `dataDir`. */
export function etcdFiles(dataDir: string): EtcdFiles {
  const tls = join(dataDir, 'etcd-tls');
  return {
    data: join(dataDir, 'etcd'),
    tls,
    ca: join(tls, 'ca.crt'),
    certificate: join(tls, 'server.crt'),
    privateKey: join(tls, 'server.key'),
    owner: join(dataDir, 'etcd-owner.json'),
    token: join(dataDir, 'etcd-token'),
  };
}

/** Arguments of an etcd that only the holder of a certificate of the private CA in `files` can talk to, on any of its ports. */
export function etcdArguments(options: {
  readonly files: EtcdFiles;
  readonly port: number;
  readonly token: string;
  /** Default `QUOTA_BYTES`. */
  readonly quotaBytes?: number;
}): string[] {
  const { files, port, token, quotaBytes = QUOTA_BYTES } = options;
  const url = `https://127.0.0.1:${port}`;
  const tls = (prefix: string): string[] => [
    `--${prefix}client-cert-auth`,
    `--${prefix}trusted-ca-file=${files.ca}`,
    `--${prefix}cert-file=${files.certificate}`,
    `--${prefix}key-file=${files.privateKey}`,
  ];
  return [
    `--name=${MEMBER}`,
    `--data-dir=${files.data}`,
    `--listen-client-urls=${url}`,
    `--advertise-client-urls=${url}`,
    ...tls(''),
    // The port for peers takes raft messages: it must be as closed as the other one.
    '--listen-peer-urls=https://127.0.0.1:0',
    `--initial-advertise-peer-urls=${NEVER_DIALLED}`,
    `--initial-cluster=${MEMBER}=${NEVER_DIALLED}`,
    `--initial-cluster-token=${token}`,
    ...tls('peer-'),
    // The gateway would dial etcd with the server's certificate, which is not one of a client.
    '--enable-grpc-gateway=false',
    `--max-request-bytes=${MAX_REQUEST_BYTES}`,
    `--quota-backend-bytes=${quotaBytes}`,
    '--auto-compaction-mode=periodic',
    '--auto-compaction-retention=1h',
    // The gate learns from these notices up to where a quiet watch is complete.
    '--experimental-watch-progress-notify-interval=1s',
    '--logger=zap',
    '--log-level=warn',
  ];
}

/** Makes an error of what etcd said before it ended or instead of getting ready. */
export function explainFailedStart(
  lines: readonly string[],
  options: { readonly port: number; readonly dataDir: string; readonly what: string },
): EtcdError {
  const said = lines.join('\n');
  const { port, dataDir, what } = options;
  if (/address already in use/.test(said)) {
    return new EtcdError(
      'port-taken',
      `cannot start etcd: port ${port} on 127.0.0.1 is taken; free it or choose another with --etcd-port`,
      { retryable: true },
    );
  }
  if (/holds the file lock|resource temporarily unavailable/.test(said)) {
    return new EtcdError(
      'data-directory-in-use',
      `cannot start etcd: another etcd uses ${dataDir}; stop it or choose another --data-dir`,
      { retryable: false },
    );
  }
  if (/permission denied|read-only file system|no space left/.test(said)) {
    return new EtcdError(
      'data-directory',
      `cannot start etcd: it cannot write to ${dataDir}: ${lastLine(lines)}`,
      { retryable: false },
    );
  }
  return new EtcdError('not-ready', `cannot start etcd: ${what}: ${lastLine(lines)}`, {
    retryable: true,
  });
}

function lastLine(lines: readonly string[]): string {
  return lines.at(-1)?.slice(0, 500) ?? 'it wrote nothing';
}
