import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { promisify } from 'node:util';
import { type ChildHandle, startChild } from '../runtime/child-process.ts';
import { findFreePort } from './free-port.ts';
import { openTempDir } from './temp-dir.ts';
import type { CertificateFiles } from './test-certificates.ts';
import { untilReady } from './until-ready.ts';

const run = promisify(execFile);
const ETCD = '/usr/bin/etcd';
const READY_TIMEOUT_MS = 20_000;
// A single member never talks to peers: it has a name that is never dialled, and listens for them on any free port.
const MEMBER = [
  '--initial-advertise-peer-urls=http://localhost:1',
  '--initial-cluster=default=http://localhost:1',
];

/** A real etcd for one test, on loopback, to be broken at will. Disposing kills it and removes its data. */
export interface EtcdServer extends AsyncDisposable {
  /** `http://127.0.0.1:port`, or `https://…` with TLS. Stays the same over restarts. */
  readonly endpoint: string;
  readonly port: number;
  /** Its process; another one after each start. */
  readonly pid: number;
  /** Ends it in order, or with `kill` by SIGKILL, and waits for its end. */
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** Starts it again on the same data and port; resolves when it answers. */
  start(): Promise<void>;
  /** SIGSTOP: it holds its connections and answers nothing. */
  pause(): void;
  resume(): void;
  /** Kills it, throws its data away and starts it as a new cluster: with another cluster id, unless `sameToken`. */
  wipe(options?: { sameToken?: boolean }): Promise<void>;
  /** Kills it and starts it with what `etcdctl snapshot save` wrote to a file: its revisions go backwards. */
  restore(snapshot: string): Promise<void>;
  /** Runs etcdctl against it, as its administrator; resolves to what it printed. */
  etcdctl(...args: readonly string[]): Promise<string>;
  /** Compacts the whole history. */
  compact(): Promise<void>;
}

/** Options of `openEtcdServer`. */
export interface EtcdServerOptions {
  /** Serves TLS with this certificate and asks clients for one of the same CA. Default: plain text. */
  readonly tls?: CertificateFiles;
  /** Another release than the system's: its server, and the program that restores its snapshots. */
  readonly programs?: { readonly etcd: string; readonly etcdutl: string };
  /** Further flags, the last of two equal ones wins. */
  readonly args?: readonly string[];
}

/**
 * Why tests with a real etcd must be skipped, or false. In CI (`CI=true`) never: there they shall fail. To be given
 * `process.env`.
 */
export function etcdSkipReason(env: Readonly<Record<string, string | undefined>>): string | false {
  if (existsSync(ETCD) || env.CI === 'true') return false;
  return `${ETCD} is not installed: run scripts/setup.sh`;
}

/** Starts an etcd with empty data and resolves when it answers. */
export async function openEtcdServer(options: EtcdServerOptions = {}): Promise<EtcdServer> {
  const { programs = { etcd: ETCD, etcdutl: 'etcdctl' } } = options;
  const dir = await openTempDir('etcd');
  const stopping = new AbortController();
  const env = { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' };
  const scheme = options.tls === undefined ? 'http' : 'https';
  let port = await findFreePort();
  let token = randomBytes(8).toString('hex');
  let child: ChildHandle | undefined;

  const etcdctl = async (...args: readonly string[]): Promise<string> => {
    const { stdout } = await run(
      'etcdctl',
      [`--endpoints=${scheme}://127.0.0.1:${port}`, ...clientFlags(options.tls), ...args],
      { env, maxBuffer: 64 * 1024 * 1024 },
    );
    return stdout;
  };
  const launch = async (): Promise<void> => {
    const url = `${scheme}://127.0.0.1:${port}`;
    const started = startChild(
      programs.etcd,
      [
        `--data-dir=${dir.file('data')}`,
        `--listen-client-urls=${url}`,
        `--advertise-client-urls=${url}`,
        '--listen-peer-urls=http://127.0.0.1:0',
        ...MEMBER,
        `--initial-cluster-token=${token}`,
        `--max-request-bytes=${16 * 1024 * 1024}`,
        '--logger=zap',
        '--log-level=warn',
        ...serverFlags(options.tls),
        ...(options.args ?? []),
      ],
      { signal: stopping.signal, name: 'etcd' },
    );
    child = started;
    await untilReady(started, () => etcdctl('get', 'any', '--command-timeout=1s'), {
      what: 'etcd',
      timeoutMs: READY_TIMEOUT_MS,
    });
  };
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    child?.kill('SIGCONT');
    child?.kill(signal);
    await child?.exited;
  };

  const dispose = async (): Promise<void> => {
    await end('SIGKILL');
    stopping.abort();
    await dir[Symbol.asyncDispose]();
  };
  for (let attempt = 1; ; attempt += 1) {
    try {
      await launch();
      break;
    } catch (error) {
      await end('SIGKILL');
      if (attempt === 3) {
        await dispose();
        throw error;
      }
      // Somebody took the port between the search and the start.
      await rm(dir.file('data'), { recursive: true, force: true });
      port = await findFreePort();
    }
  }
  return {
    endpoint: `${scheme}://127.0.0.1:${port}`,
    port,
    get pid() {
      return child?.pid ?? 0;
    },
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    start: launch,
    pause: () => child?.kill('SIGSTOP'),
    resume: () => child?.kill('SIGCONT'),
    wipe: async ({ sameToken = false } = {}) => {
      await end('SIGKILL');
      await rm(dir.file('data'), { recursive: true, force: true });
      if (!sameToken) token = randomBytes(8).toString('hex');
      await launch();
    },
    restore: async (snapshot) => {
      await end('SIGKILL');
      await rm(dir.file('data'), { recursive: true, force: true });
      const place = [`--data-dir=${dir.file('data')}`, `--initial-cluster-token=${token}`];
      await run(programs.etcdutl, ['snapshot', 'restore', snapshot, ...place, ...MEMBER], { env });
      await launch();
    },
    etcdctl,
    compact: async () => {
      const status: unknown = JSON.parse(await etcdctl('get', 'any', '-w', 'json'));
      const { header } = status as { header: { revision: number } };
      await etcdctl('compact', String(header.revision));
    },
    [Symbol.asyncDispose]: dispose,
  };
}

function serverFlags(tls: CertificateFiles | undefined): string[] {
  if (tls === undefined) return [];
  return [
    '--client-cert-auth',
    `--trusted-ca-file=${tls.caFile}`,
    `--cert-file=${tls.certFile}`,
    `--key-file=${tls.keyFile}`,
  ];
}

function clientFlags(tls: CertificateFiles | undefined): string[] {
  if (tls === undefined) return [];
  return [`--cacert=${tls.caFile}`, `--cert=${tls.certFile}`, `--key=${tls.keyFile}`];
}
