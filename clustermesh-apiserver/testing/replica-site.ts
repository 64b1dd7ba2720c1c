/** Two or more apiserver processes of one cluster, for tests that kill them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { z } from 'zod';
import { openEtcd } from '../../mesh/kvstore/etcd.ts';
import type { KvStore } from '../../mesh/kvstore/kvstore.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import {
  type CertificateFiles,
  createTestAuthority,
} from '../../mesh/testing/test-certificates.ts';
import { eventually } from './publishing-rig.ts';

const MAIN = fileURLToPath(new URL('../main.js', import.meta.url));

const statusSchema = z.looseObject({
  published: z
    .looseObject({
      ready: z.boolean(),
      pending: z.number(),
      role: z.looseObject({ kind: z.string() }),
      endpoints: z.number(),
    })
    .optional(),
  nodes: z.array(z.looseObject({ node: z.string(), state: z.string() })).optional(),
});

/** One process. */
export interface Replica {
  readonly gatePort: number;
  readonly registryPort: number;
  /** Starts it, and resolves when it is ready. */
  start(): Promise<void>;
  /** SIGKILL, or another signal; resolves when it has ended. */
  kill(signal?: NodeJS.Signals): Promise<void>;
  pause(): void;
  resume(): void;
  status(): Promise<z.infer<typeof statusSchema>>;
  /** Whether it publishes; false when it does not answer. */
  leads(): Promise<boolean>;
  /** What it wrote to its standard error, last process only. */
  readonly log: string;
}

/** A cluster's directory of manifests with its certificates. */
export interface ReplicaSite {
  readonly dir: TempDir;
  readonly node: CertificateFiles;
  /** Writes a manifest as one must: whole, by rename. */
  write(name: string, text: string): Promise<void>;
  /** Prepares a process with further flags; it ends with the test. */
  replica(flags: readonly string[], options?: { readonly manifests?: string }): Promise<Replica>;
  /** A reader as agents are, through gates. */
  openReader(ports: readonly number[]): Promise<KvStore>;
}

/** Makes a site of cluster alpha (1). */
export async function openReplicaSite(t: Test): Promise<ReplicaSite> {
  const dir = await openTempDir('replicas');
  t.teardown(() => dir[Symbol.asyncDispose]());
  await mkdir(dir.file('manifests'));
  const authority = await createTestAuthority(dir);
  const server = await authority.issue('server', { names: ['alpha.mesh.cilium.io'] });
  const node = await authority.issue('node-n1');

  const replica: ReplicaSite['replica'] = async (flags, { manifests = 'manifests' } = {}) => {
    const [gatePort, registryPort] = [await findFreePort(), await findFreePort()];
    const healthPort = await findFreePort();
    let child: ChildProcess | undefined;
    let log = '';
    const kill = async (signal: NodeJS.Signals = 'SIGKILL'): Promise<void> => {
      const running = child;
      if (running === undefined || running.exitCode !== null || running.signalCode !== null) return;
      const ended = new Promise((resolve) => running.once('exit', resolve));
      running.kill('SIGCONT');
      running.kill(signal);
      await ended;
    };
    t.teardown(() => kill());
    const status = async () => {
      const answer = await fetch(`http://127.0.0.1:${healthPort}/status`);
      return statusSchema.parse(await answer.json());
    };
    return {
      gatePort,
      registryPort,
      kill,
      pause: () => child?.kill('SIGSTOP'),
      resume: () => child?.kill('SIGCONT'),
      status,
      get log() {
        return log;
      },
      async start() {
        log = '';
        const started = spawn(
          process.execPath,
          [
            MAIN,
            '--cluster-name=alpha',
            '--cluster-id=1',
            `--manifests=${dir.file(manifests)}`,
            `--tls-cert-file=${server.certFile}`,
            `--tls-key-file=${server.keyFile}`,
            `--trusted-ca-file=${server.caFile}`,
            `--gate-address=127.0.0.1:${gatePort}`,
            `--registry-address=127.0.0.1:${registryPort}`,
            `--health-address=127.0.0.1:${healthPort}`,
            ...flags,
          ],
          { env: { PATH: process.env.PATH }, stdio: ['ignore', 'ignore', 'pipe'] },
        );
        child = started;
        started.stderr?.on('data', (data: Buffer) => {
          log = (log + data.toString()).slice(-100_000);
        });
        await eventually('an apiserver to be ready', async () => {
          if (started.exitCode !== null) throw new Error(`it ended: ${log}`);
          return (await fetch(`http://127.0.0.1:${healthPort}/readyz`)).ok;
        });
      },
      async leads() {
        try {
          return (await status()).published?.role.kind === 'leading';
        } catch {
          return false;
        }
      },
    };
  };
  return {
    dir,
    node,
    replica,
    async write(name, text) {
      await writeFile(dir.file(name), text);
      await rename(dir.file(name), dir.file('manifests', name));
    },
    async openReader(ports) {
      const { caFile, certFile, keyFile } = node;
      const store = await openEtcd({
        endpoints: ports.map((port) => `https://localhost:${port}`),
        tls: {
          ca: await readFile(caFile),
          cert: await readFile(certFile),
          key: await readFile(keyFile),
        },
      });
      t.teardown(() => store[Symbol.asyncDispose]());
      return store;
    },
  };
}
