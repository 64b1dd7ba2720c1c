/** A gate before a real etcd, with certificates of everybody who might call. */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { EtcdTls } from '../../../mesh/kvstore/etcd-endpoint.ts';
import { systemClock } from '../../../mesh/runtime/clock.ts';
import { openTempDir, type TempDir } from '../../../mesh/testing/temp-dir.ts';
import {
  type CertificateAuthority,
  createCa,
  issueCertificate,
  type KeyPair,
  type LeafOptions,
} from '../../../pki/ca.ts';
import { type SecretFiles, writePrivateFile, writeSecret } from '../../../pki/layout.ts';
import { serverLeaf } from '../../../pki/names.ts';
import { type EmbeddedEtcd, openEmbeddedEtcd } from '../../etcd/embedded-etcd.ts';
import { type Gate, type GateOptions, listenGate } from '../gate.ts';
import { openRawClient, type RawClient } from './raw-client.ts';

const run = promisify(execFile);

/** The whole of it. Disposing leaves nothing behind. */
export interface GateFixture extends AsyncDisposable {
  readonly etcd: EmbeddedEtcd;
  readonly gate: Gate;
  readonly endpoint: string;
  readonly dir: TempDir;
  /** CA of our own cluster, `alpha`. */
  readonly own: CertificateAuthority;
  /** CA of the trusted peer `beta`. */
  readonly beta: CertificateAuthority;
  /** CA that nobody trusts. */
  readonly stranger: CertificateAuthority;
  readonly server: SecretFiles;
  readonly peerTrustDir: string;
  readonly revokedFile: string;
  /** Certificates of a caller, made once for each name. */
  tls(ca: CertificateAuthority, leaf: LeafOptions): Promise<EtcdTls>;
  /** A client of the gate. */
  client(ca: CertificateAuthority, leaf: LeafOptions): Promise<RawClient>;
  /** A client of etcd itself. */
  direct(): RawClient;
  /** Runs etcdctl through the gate; resolves to exit code and output. */
  etcdctl(tls: EtcdTls, ...args: readonly string[]): Promise<{ code: number; output: string }>;
}

/** Starts etcd and a gate for cluster `alpha`, which trusts the peer `beta`. */
export async function openGateFixture(
  options: Partial<Pick<GateOptions, 'logger' | 'callerLimits' | 'machines'>> = {},
): Promise<GateFixture> {
  const dir = await openTempDir('gate');
  const stopping = new AbortController();
  const [own, beta, stranger] = await Promise.all([
    createCa({ commonName: 'CA of alpha' }),
    createCa({ commonName: 'CA of beta' }),
    createCa({ commonName: 'CA of a stranger' }),
  ]);
  const pairs = new Map<string, KeyPair>();
  const tls: GateFixture['tls'] = async (ca, leaf) => {
    const id = JSON.stringify([ca.certificate, leaf]);
    const pair = pairs.get(id) ?? (await issueCertificate(ca, leaf));
    pairs.set(id, pair);
    return { ca: own.root, cert: pair.certificate, key: pair.privateKey };
  };
  const peerTrustDir = dir.file('peers');
  await mkdir(peerTrustDir);
  await writePrivateFile(`${peerTrustDir}/beta.crt`, beta.root);
  const revokedFile = dir.file('revoked.yaml');
  const server = await writeSecret(dir.path, 'server', {
    ca: own.root,
    pair: await issueCertificate(own, serverLeaf('alpha')),
  });
  const etcd = await openEmbeddedEtcd({ dataDir: dir.file('data'), signal: stopping.signal });
  const gate = await listenGate({
    address: { host: '127.0.0.1', port: 0 },
    clusterName: 'alpha',
    certFile: server.certificate,
    keyFile: server.privateKey,
    ownCaFile: server.ca,
    peerTrustDir,
    revokedFile,
    upstream: { endpoints: [etcd.endpoint], tls: etcd.tls },
    signal: stopping.signal,
    ...options,
  });
  const endpoint = `https://127.0.0.1:${gate.address.port}`;
  const clients: RawClient[] = [];
  const keep = (client: RawClient): RawClient => {
    clients.push(client);
    return client;
  };
  let files = 0;
  return {
    etcd,
    gate,
    endpoint,
    dir,
    own,
    beta,
    stranger,
    server,
    peerTrustDir,
    revokedFile,
    tls,
    client: async (ca, leaf) => keep(openRawClient(endpoint, await tls(ca, leaf))),
    direct: () => keep(openRawClient(etcd.endpoint, etcd.tls)),
    async etcdctl(material, ...args) {
      files += 1;
      const base = dir.file(`etcdctl-${files}`);
      await writePrivateFile(`${base}.ca`, material.ca.toString());
      const flags = [`--endpoints=${endpoint}`, `--cacert=${base}.ca`, '--command-timeout=2s'];
      if (material.cert.length > 0) {
        await writePrivateFile(`${base}.crt`, material.cert.toString());
        await writePrivateFile(`${base}.key`, material.key.toString());
        flags.push(`--cert=${base}.crt`, `--key=${base}.key`);
      }
      try {
        const { stdout } = await run('etcdctl', [...flags, ...args], {
          env: { ETCDCTL_API: '3', PATH: '/usr/bin:/bin' },
          maxBuffer: 256 * 1024 * 1024,
        });
        return { code: 0, output: stdout };
      } catch (error) {
        const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
        return { code, output: `${stdout}${stderr}` };
      }
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client[Symbol.dispose]();
      await gate[Symbol.asyncDispose]();
      await etcd[Symbol.asyncDispose]();
      stopping.abort();
      await dir[Symbol.asyncDispose]();
    },
  };
}

/** Waits for something to become true, and fails after 20 s saying what. */
export async function until(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = systemClock.monotonic() + 20_000;
  while (!(await isTrue())) {
    if (systemClock.monotonic() > deadline) throw new Error(`waited 20 s in vain until ${what}`);
    await systemClock.sleep(10);
  }
}
