/** Starts and supervises an etcd of our own: a child process on loopback that only this process can talk to. */

import { get } from 'node:https';
import { createServer } from 'node:net';
import { createBackoff } from '../../mesh/runtime/backoff.ts';
import { ChildError, type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { type Clock, systemClock } from '../../mesh/runtime/clock.ts';
import type { Logger } from '../../mesh/runtime/log.ts';
import {
  type EtcdFiles,
  etcdArguments,
  etcdFiles,
  explainFailedStart,
  QUOTA_BYTES,
} from './etcd-command.ts';
import { EtcdError } from './etcd-error.ts';
import {
  clusterToken,
  type EtcdClientTls,
  makeEtcdCertificates,
  prepareDataDirectory,
  writeEtcdCertificates,
} from './etcd-files.ts';
import { type MaintenanceStatus, startMaintenance } from './maintenance.ts';
import { claimDataDirectory } from './owner-file.ts';

const READY_TIMEOUT_MS = 60_000;
const READY_POLL_MS = 25;
const LASTING_RUN_MS = 60_000;
const PORT_ATTEMPTS = 3;

/** Options of `openEmbeddedEtcd`. */
export interface EmbeddedEtcdOptions {
  /** Name or path of the etcd program. Default `etcd`. */
  readonly binary?: string;
  /** Folder for everything that must outlive us; made when absent, mode 0700. */
  readonly dataDir: string;
  /** Port on 127.0.0.1; 0 (default) takes a free one and keeps it over restarts of etcd. */
  readonly port?: number;
  /** Size of the database at which etcd takes no more writes. Default 4 GiB. */
  readonly quotaBytes?: number;
  readonly signal: AbortSignal;
  readonly logger?: Logger;
  readonly clock?: Clock;
}

/** How the child is doing. */
export type EtcdState =
  | { readonly kind: 'running'; readonly pid: number }
  | { readonly kind: 'restarting'; readonly restarts: number; readonly lastLine: string };

/** A supervised etcd. Disposing ends it and gives up the data directory. */
export interface EmbeddedEtcd extends AsyncDisposable {
  /** `https://127.0.0.1:<port>`, the same for as long as this object lives. */
  readonly endpoint: string;
  readonly tls: EtcdClientTls;
  readonly state: EtcdState;
  readonly maintenance: MaintenanceStatus;
}

/**
 * Starts etcd and resolves when it answers. It dies with this process, is started again when it ends unasked, and one that
 * survived an earlier supervisor is ended first. Throws EtcdError with what to do.
 */
export async function openEmbeddedEtcd(options: EmbeddedEtcdOptions): Promise<EmbeddedEtcd> {
  const { dataDir, port = 0, signal, logger, clock = systemClock } = options;
  signal.throwIfAborted();
  const files = etcdFiles(dataDir);
  await prepareDataDirectory(dataDir, files);
  const claim = await claimDataDirectory(files.owner, { dataDir, clock });
  const stopping = new AbortController();
  const stop = AbortSignal.any([signal, stopping.signal]);
  try {
    const certificates = await makeEtcdCertificates();
    const tls = certificates.client;
    const launch = async (chosen: number): Promise<ChildHandle> => {
      // Before each start: since the last one a disk may have been lost with everything on it.
      await prepareDataDirectory(dataDir, files);
      await writeEtcdCertificates(files, certificates);
      const token = await clusterToken(files);
      const child = startEtcd(options, { files, port: chosen, token, signal: stop });
      await claim.noteEtcd(child.pid);
      return child;
    };
    const first = await startFirst(launch, { port, tls, dataDir, signal: stop, clock });
    const supervision = supervise(first.child, {
      relaunch: () => launch(first.port),
      signal: stop,
      clock,
      ...(logger === undefined ? {} : { logger }),
    });
    const endpoint = `https://127.0.0.1:${first.port}`;
    const maintenance = startMaintenance(
      // The name is given because TLS knows no addresses there: the certificate has both.
      { endpoints: [endpoint], tls: { ...tls, serverName: 'localhost' } },
      {
        quotaBytes: options.quotaBytes ?? QUOTA_BYTES,
        clock,
        ...(logger === undefined ? {} : { logger }),
      },
    );
    let ended: Promise<void> | undefined;
    return {
      endpoint,
      tls,
      get state() {
        return supervision.state;
      },
      get maintenance() {
        return maintenance.status;
      },
      [Symbol.asyncDispose]() {
        ended ??= (async () => {
          stopping.abort();
          await maintenance[Symbol.asyncDispose]();
          await supervision.done;
          await claim[Symbol.asyncDispose]();
        })();
        return ended;
      },
    };
  } catch (error) {
    stopping.abort();
    await claim[Symbol.asyncDispose]();
    throw error;
  }
}

function startEtcd(
  options: EmbeddedEtcdOptions,
  run: { files: EtcdFiles; port: number; token: string; signal: AbortSignal },
): ChildHandle {
  const { binary = 'etcd', logger } = options;
  try {
    return startChild(
      binary,
      etcdArguments({
        ...run,
        ...(options.quotaBytes === undefined ? {} : { quotaBytes: options.quotaBytes }),
      }),
      {
        name: 'etcd',
        signal: run.signal,
        // etcd takes each flag from its environment, too (ETCD_…): nobody's variables shall change ours.
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
        ...(logger === undefined ? {} : { logger }),
      },
    );
  } catch (cause) {
    if (!(cause instanceof ChildError)) throw cause;
    throw new EtcdError(
      'binary-missing',
      `${cause.message} (Debian: apt-get install etcd-server; or --etcd-binary)`,
      { retryable: false, cause },
    );
  }
}

/** Starts etcd for the first time: here a failure is the caller's to know, and a free port may be lost to somebody quicker. */
async function startFirst(
  launch: (port: number) => Promise<ChildHandle>,
  options: { port: number; tls: EtcdClientTls; dataDir: string; signal: AbortSignal; clock: Clock },
): Promise<{ child: ChildHandle; port: number }> {
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port === 0 ? await findFreePort() : options.port;
    const child = await launch(port);
    try {
      await waitUntilReady(child, { ...options, port });
      return { child, port };
    } catch (error) {
      await child.stop();
      const isLostPort = error instanceof EtcdError && error.code === 'port-taken';
      if (!isLostPort || options.port !== 0 || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

async function waitUntilReady(
  child: ChildHandle,
  options: { port: number; tls: EtcdClientTls; dataDir: string; signal: AbortSignal; clock: Clock },
): Promise<void> {
  const { port, tls, dataDir, signal, clock } = options;
  const deadline = clock.monotonic() + READY_TIMEOUT_MS;
  let hasEnded = false;
  void child.exited.then(() => {
    hasEnded = true;
  });
  for (;;) {
    // Asked before the answer: an answer while ours has ended is somebody else's.
    const isHealthy = await askHealth(port, tls);
    signal.throwIfAborted();
    if (hasEnded) {
      throw explainFailedStart(child.lastLines, { port, dataDir, what: 'it ended' });
    }
    if (isHealthy) return;
    if (clock.monotonic() > deadline) {
      const what = `it was not ready within ${READY_TIMEOUT_MS / 1000} s`;
      throw explainFailedStart(child.lastLines, { port, dataDir, what });
    }
    await clock.sleep(READY_POLL_MS, signal);
  }
}

function askHealth(port: number, tls: EtcdClientTls): Promise<boolean> {
  return new Promise((resolve) => {
    const url = `https://127.0.0.1:${port}/health`;
    const request = get(url, { ...tls, agent: false, timeout: 2000 }, (response) => {
      let body = '';
      response.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      response.on('error', () => resolve(false));
      response.on('end', () => resolve(body.includes('"true"')));
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(false));
  });
}

/** Starts etcd again whenever it ends, with growing pauses, until `signal` aborts. */
function supervise(
  first: ChildHandle,
  options: {
    relaunch: () => Promise<ChildHandle>;
    signal: AbortSignal;
    clock: Clock;
    logger?: Logger;
  },
): { readonly state: EtcdState; readonly done: Promise<void> } {
  const { relaunch, signal, clock, logger } = options;
  const backoff = createBackoff({ minMs: 250, maxMs: 30_000 });
  let state: EtcdState = { kind: 'running', pid: first.pid };
  let restarts = 0;

  const run = async (): Promise<void> => {
    let child = first;
    for (;;) {
      const startedAt = clock.monotonic();
      await child.exited;
      if (signal.aborted) return;
      if (clock.monotonic() - startedAt > LASTING_RUN_MS) backoff.reset();
      restarts += 1;
      const lastLine = child.lastLines.at(-1) ?? '';
      state = { kind: 'restarting', restarts, lastLine };
      const waitMs = backoff.next();
      logger?.error({ restarts, waitMs, lastLine }, 'etcd ended unasked, it is started again');
      await clock.sleep(waitMs, signal).catch(() => undefined);
      if (signal.aborted) return;
      try {
        child = await relaunch();
      } catch (error) {
        if (signal.aborted) return;
        logger?.error({ err: error }, 'etcd cannot be started again');
        continue;
      }
      state = { kind: 'running', pid: child.pid };
    }
  };
  return {
    get state() {
      return state;
    },
    done: run(),
  };
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}
