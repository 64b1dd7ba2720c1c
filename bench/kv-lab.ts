/** etcd and a gate before it, each in a process of its own, with what clients of both need. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { openEmbeddedEtcd } from '../clustermesh-apiserver/etcd/embedded-etcd.ts';
import type { EtcdTls } from '../mesh/kvstore/etcd-endpoint.ts';
import { startChild } from '../mesh/runtime/child-process.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { openTempDir } from '../mesh/testing/temp-dir.ts';
import { createCa, issueCertificate } from '../pki/ca.ts';
import { writePrivateFile, writeSecret } from '../pki/layout.ts';
import { nodeLeaf, serverLeaf } from '../pki/names.ts';

const START_TIMEOUT_MS = 20_000;
/** Of `/proc/<pid>/stat`, on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

/** Where a client goes, and as whom. */
export interface KvTarget {
  readonly name: 'direct' | 'gate';
  readonly endpoint: string;
  readonly tls: EtcdTls;
  /** Flags for etcdctl. */
  readonly flags: readonly string[];
}

/** The running parts. Disposing ends them. */
export interface KvLab extends AsyncDisposable {
  readonly direct: KvTarget;
  readonly gate: KvTarget;
  /** CPU seconds used so far. */
  etcdCpu(): Promise<number>;
  gateCpu(): Promise<number>;
}

/** Starts an etcd as the apiserver does, and a gate. */
export async function openKvLab(signal: AbortSignal): Promise<KvLab> {
  const dir = await openTempDir('bench-kv');
  const stopping = new AbortController();
  const until = AbortSignal.any([signal, stopping.signal]);
  const ca = await createCa();
  const node = await issueCertificate(ca, nodeLeaf('bench'));
  const server = await writeSecret(dir.path, 'server', {
    ca: ca.root,
    pair: await issueCertificate(ca, serverLeaf('bench')),
  });
  const etcd = await openEmbeddedEtcd({ dataDir: dir.file('data'), signal: until });
  const upstreamTls = {
    ca: etcd.tls.ca.toString(),
    cert: etcd.tls.cert.toString(),
    key: etcd.tls.key.toString(),
  };
  const options = {
    address: { host: '127.0.0.1', port: 0 },
    clusterName: 'bench',
    certFile: server.certificate,
    keyFile: server.privateKey,
    ownCaFile: server.ca,
    upstream: { endpoints: [etcd.endpoint], tls: upstreamTls },
  };
  let port: string | undefined;
  const script = fileURLToPath(new URL('./kv-gate/main.js', import.meta.url));
  const child = startChild(process.execPath, [script, JSON.stringify(options)], {
    name: 'gate',
    signal: until,
    onLine: (line) => {
      port ??= line;
    },
  });
  const deadline = systemClock.monotonic() + START_TIMEOUT_MS;
  while (port === undefined) {
    if (systemClock.monotonic() > deadline) throw new Error('the gate did not start within 20 s');
    await systemClock.sleep(20, until);
  }
  const target = async (
    name: KvTarget['name'],
    endpoint: string,
    tls: EtcdTls,
  ): Promise<KvTarget> => {
    const file = (kind: string): string => dir.file(`${name}.${kind}`);
    await writePrivateFile(file('ca'), tls.ca.toString());
    await writePrivateFile(file('crt'), tls.cert.toString());
    await writePrivateFile(file('key'), tls.key.toString());
    const flags = [
      `--endpoints=${endpoint}`,
      `--cacert=${file('ca')}`,
      `--cert=${file('crt')}`,
      `--key=${file('key')}`,
      '--command-timeout=60s',
    ];
    return { name, endpoint, tls, flags };
  };
  const gateTls = { ca: ca.root, cert: node.certificate, key: node.privateKey };
  const direct = await target('direct', etcd.endpoint, upstreamTls);
  const gate = await target('gate', `https://127.0.0.1:${port}`, gateTls);
  return {
    direct,
    gate,
    etcdCpu: () => cpuSeconds(etcd.state.kind === 'running' ? etcd.state.pid : 0),
    gateCpu: () => cpuSeconds(child.pid),
    async [Symbol.asyncDispose]() {
      await child.stop();
      await etcd[Symbol.asyncDispose]();
      stopping.abort();
      await dir[Symbol.asyncDispose]();
    },
  };
}

async function cpuSeconds(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
}
