/** Clusters without Kubernetes whose apiservers are processes with declared peers, and the command line before them. */
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import { parse as parseYaml } from 'yaml';
import { connectCommand } from '../../cli/connect-command.ts';
import { disconnectCommand } from '../../cli/disconnect-command.ts';
import { exitCodeOf } from '../../cli/exit-code.ts';
import { type PeerContext, peerCommand } from '../../cli/peer-command.ts';
import { statusCommand } from '../../cli/status-command.ts';
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  type CertificateAuthority,
  createCa,
  createEnrollmentCa,
  issueCertificate,
} from '../../pki/ca.ts';
import { type SecretFiles, writeEnrollmentCa, writeSecret } from '../../pki/layout.ts';
import { adminLeaf, SECRET_NAMES, serverLeaf } from '../../pki/names.ts';
import { waitFor } from '../lab/wait-for.ts';

const MAIN = fileURLToPath(new URL('../../clustermesh-apiserver/main.js', import.meta.url));

/** A cluster. */
export interface PeeringCluster {
  readonly name: string;
  readonly ca: CertificateAuthority;
  readonly server: SecretFiles;
  readonly gatePort: number;
  readonly registryPort: number;
  readonly enrollmentPort: number;
  readonly healthPort: number;
  /** Options by which commands ask it; of the destination with `role`. */
  flags(role?: 'destination'): string[];
  /** Starts its apiserver; resolves when it is ready. */
  start(): Promise<void>;
  stop(): Promise<void>;
  kill(): Promise<void>;
  /** Resolves when its apiserver has ended. */
  ended(): Promise<void>;
  /** Absolute path in its folder. */
  file(...parts: readonly string[]): string;
  /** Writes its one node. `address`: default one that nobody has. */
  writeNode(podCidr: string, address?: string): Promise<void>;
  /** Writes a peer as people do. */
  writePeer(name: string, text: string): Promise<void>;
  /** What its managed folders hold: names and contents, without what differs by chance. */
  managed(): Promise<Record<string, unknown>>;
  /** `/status` of its apiserver. */
  status(): Promise<Record<string, unknown>>;
}

type SiteContext = PeerContext & Parameters<typeof statusCommand>[0];

/** What a command of the command line came to. */
export interface CommandOutcome {
  readonly code: number;
  readonly output: string;
  /** What was said to people: standard error. */
  readonly said: string;
}

/** Prepares a cluster; it does not run yet. `source`: flags that say where its objects and peers are. */
export async function preparePeeringCluster(
  t: Test,
  options: {
    readonly name: string;
    readonly id: number;
    readonly podCidr: string;
    readonly source?: readonly string[];
    /** Flags in place of those that lead to the peers' directory. */
    readonly peers?: readonly string[];
    /** Further flags. */
    readonly more?: readonly string[];
    /** Flags of Node itself. */
    readonly node?: readonly string[];
  },
): Promise<PeeringCluster> {
  const { name, id, podCidr } = options;
  const dir = await openTempDir(`peering-${name}`);
  const ending = new AbortController();
  t.teardown(async () => {
    ending.abort();
    await child?.stop();
    await dir[Symbol.asyncDispose]();
  });
  const ca = await createCa({ commonName: `CA of ${name}` });
  const pair = await issueCertificate(ca, serverLeaf(name));
  const server = await writeSecret(dir.path, SECRET_NAMES.server, { ca: ca.root, pair });
  const admin = await issueCertificate(ca, adminLeaf(name));
  await writeSecret(dir.path, SECRET_NAMES.admin, { ca: ca.root, pair: admin });
  const enrollment = await writeEnrollmentCa(dir.path, await createEnrollmentCa(ca));
  for (const folder of ['manifests', 'peers']) await mkdir(dir.file(folder));
  await writeFile(dir.file('manifests', 'node.yaml'), nodeManifest(name, { podCidr, id }));
  const [gatePort, registryPort, healthPort, enrollmentPort] = [
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
    await findFreePort(),
  ];
  const args = [
    `--cluster-name=${name}`,
    `--cluster-id=${id}`,
    ...(options.source ?? [`--manifests=${dir.file('manifests')}`]),
    ...(options.peers ?? [`--peers-dir=${dir.file('peers')}`]),
    `--data-dir=${dir.file('data')}`,
    `--tls-cert-file=${server.certificate}`,
    `--tls-key-file=${server.privateKey}`,
    `--trusted-ca-file=${server.ca}`,
    `--gate-address=127.0.0.1:${gatePort}`,
    `--registry-address=127.0.0.1:${registryPort}`,
    `--health-address=127.0.0.1:${healthPort}`,
    `--enrollment-address=127.0.0.1:${enrollmentPort}`,
    `--enrollment-ca-cert-file=${enrollment.certificate}`,
    `--enrollment-ca-key-file=${enrollment.privateKey}`,
    `--advertise-gate=127.0.0.1:${gatePort}`,
    '--log-level=info',
    ...(options.more ?? []),
  ];
  let child: ChildHandle | undefined;
  const lines: string[] = [];
  return {
    name,
    ca,
    server,
    gatePort,
    registryPort,
    enrollmentPort,
    healthPort,
    file: dir.file,
    flags(role) {
      const prefix = role === undefined ? '' : `${role}-`;
      return [
        `--${prefix}registry=127.0.0.1:${registryPort}`,
        `--${prefix}certificates=${dir.file(SECRET_NAMES.admin)}`,
      ];
    },
    async start() {
      const started = startChild(process.execPath, [...(options.node ?? []), MAIN, ...args], {
        signal: ending.signal,
        name: `apiserver ${name}`,
        onLine: (line) => void lines.push(line),
      });
      child = started;
      let ended = false;
      void started.exited.then(() => {
        ended = true;
      });
      await waitFor(`the apiserver of ${name} to be ready`, async () => {
        if (ended) throw new Error(`it ended: ${started.lastLines.join(' | ')}`);
        const answer = await fetch(`http://127.0.0.1:${healthPort}/readyz`).catch(() => undefined);
        await answer?.body?.cancel();
        return answer?.ok === true;
      });
    },
    async stop() {
      await child?.stop();
    },
    async kill() {
      child?.kill('SIGKILL');
      await child?.exited;
    },
    async ended() {
      await child?.exited;
    },
    async writeNode(cidr, address) {
      await writeFile(
        dir.file('manifests', 'node.yaml'),
        nodeManifest(name, { podCidr: cidr, id, address }),
      );
    },
    async writePeer(peer, text) {
      await writeFile(dir.file('peers', `${peer}.yaml`), text);
    },
    managed: () => readManaged(dir.file('data', 'peering')),
    async status() {
      const answer = await fetch(`http://127.0.0.1:${healthPort}/status`);
      return (await answer.json()) as Record<string, unknown>;
    },
  };
}

/** Runs `clustermesh peer …`, `connect …`, `disconnect …` or `status …` in this process. */
export async function runPeering(
  words: readonly string[],
  input = '',
  { isWatched = false }: { readonly isWatched?: boolean } = {},
): Promise<CommandOutcome> {
  const printed: string[] = [];
  const said: string[] = [];
  let code = 0;
  const context: SiteContext = {
    isWatched,
    hasColours: false,
    input: streamOf(input),
    print: (text) => void printed.push(text),
    say: (text) => void said.push(text),
    setProblem: () => {
      code = 1;
    },
    signal: AbortSignal.timeout(120_000),
  };
  const [name = '', ...rest] = words;
  const command = commandOf(name, context);
  command.exitOverride();
  for (const sub of command.commands) sub.exitOverride();
  try {
    await command.parseAsync(rest, { from: 'user' });
  } catch (error) {
    said.push(error instanceof Error ? error.message : String(error));
    code = exitCodeOf(error);
  }
  return { code, output: printed.join(''), said: said.join('') };
}

function commandOf(name: string, context: SiteContext): ReturnType<typeof peerCommand> {
  switch (name) {
    case 'peer':
      return peerCommand(context);
    case 'connect':
      return connectCommand(context);
    case 'disconnect':
      return disconnectCommand(context);
    case 'status':
      return statusCommand(context);
    default:
      throw new Error(`no command ${name}`);
  }
}

/** Waits until a cluster says that a peer is in the state. */
export async function untilPeer(
  cluster: PeeringCluster,
  peer: string,
  test: (view: { ready: boolean; reason: string; message: string }) => boolean,
): Promise<void> {
  const look = async (): Promise<boolean> => {
    const { output } = await runPeering(['peer', 'list', '-o', 'json', ...cluster.flags()]);
    const found = (JSON.parse(output || '[]') as ListedPeer[]).find(({ name }) => name === peer);
    const ready = found?.conditions.find(({ type }) => type === 'Ready');
    return (
      ready !== undefined &&
      test({ ready: ready.status, reason: ready.reason, message: ready.message })
    );
  };
  // Each look is a connection of its own.
  await waitFor(`${cluster.name} to see ${peer} as expected`, look, { intervalMs: 250 });
}

interface ListedPeer {
  readonly name: string;
  readonly conditions: readonly {
    readonly type: string;
    readonly status: boolean;
    readonly reason: string;
    readonly message: string;
  }[];
}

async function* streamOf(text: string): AsyncGenerator<Buffer> {
  yield Buffer.from(text);
}

function nodeManifest(
  cluster: string,
  {
    podCidr,
    id,
    address = `192.168.${id}.1`,
  }: { readonly podCidr: string; readonly id: number; readonly address?: string | undefined },
): string {
  return `apiVersion: v1
kind: Node
metadata: {name: ${cluster}-1}
spec: {podCIDR: ${podCidr}}
status: {addresses: [{type: InternalIP, address: ${address}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo, annotations: {service.cilium.io/global: "true"}}
spec: {clusterIP: 10.9${id}.0.1, selector: {app: web}, ports: [{port: 80}]}
`;
}

/** Names with the parts that are hashes replaced, contents without them; of keys only that they are there. */
async function readManaged(folder: string): Promise<Record<string, unknown>> {
  const found: Record<string, unknown> = {};
  for (const part of ['trust', 'clients']) {
    for (const file of (await readdir(join(folder, part))).sort()) {
      const text = await readFile(join(folder, part, file), 'utf8');
      const name = `${part}/${file.replace(/\.[0-9a-f]{12}\./, '.HASH.')}`;
      if (!file.includes('.')) {
        const config = JSON.stringify(parseYaml(text)).replaceAll(folder, '');
        found[name] = JSON.parse(config.replaceAll(/\.[0-9a-f]{12}\.(crt|key)/g, '.HASH.$1'));
      } else if (/\.ca\.crt$/.test(file) || part === 'trust') found[name] = text;
      else found[name] = 'there';
    }
  }
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}
