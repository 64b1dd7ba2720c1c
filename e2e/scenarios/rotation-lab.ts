/** What is watched while certificates are replaced: traffic, a watch by etcdctl, what agents and registries know. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../../mesh/runtime/clock.ts';
import type { SecretFiles } from '../../pki/layout.ts';
import { secretFiles } from '../../pki/layout.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { pkiFolder } from '../lab/certificates.ts';
import type { KubernetesObject } from '../lab/kubernetes-object.ts';
import type { Lab } from '../lab/lab.ts';
import type { MixedReport, MixedTargets, Target } from '../lab/mixed-client/main.ts';
import { type LabProcess, startProcess } from '../lab/process.ts';
import { addressOf, NAMESPACE, PORT } from './vm-lab.ts';

const CLIENT = fileURLToPath(new URL('../lab/mixed-client/main.js', import.meta.url));
const CONNECTIONS_A_SECOND = 20;
const TICK_MS = 200;
const LOOK_MS = 500;
/** Half of the grace time of sessions. */
const LONGEST_ABSENCE_MS = 30_000;
const FIRST_PORT = 10_000;
/** A reader that goes over to another connection reads everything anew, and keeps meanwhile what it has. */
const WHOLE: readonly string[] = ['ready', 'connecting', 'syncing'];

/** Who is in the lab of rotations, and has an agent. */
const AGENTS = ['alpha-1', 'beta-1', 'db'] as const;

/** One change of the key that is changed all the time, as etcdctl tells it. */
interface Change {
  readonly version: number;
  readonly port: number;
}

/** A watch at a gate by etcdctl, which shows one certificate all along. */
export interface GateWatch extends AsyncDisposable {
  readonly changes: () => readonly Change[];
  readonly isRunning: () => boolean;
}

/** What goes on in the lab until it is stopped. */
export interface Bustle {
  /** Resolves when every agent has heard of a change that is written from now on; to the port that it wrote. */
  flows(what: string): Promise<number>;
  /** What has been wrong so far, each once: an agent that let go of something, a session that was away. */
  readonly faults: ReadonlySet<string>;
  /** Ends it; resolves to what became of the traffic, by who sent it. */
  stop(): Promise<ReadonlyMap<string, MixedReport>>;
}

/** Certificate of the administrator of a cluster. */
export function adminFiles(lab: Lab, cluster: string): SecretFiles {
  return secretFiles(pkiFolder(lab.cluster(cluster)), SECRET_NAMES.admin);
}

/** Begins a watch of the changing Service at the gate of alpha. */
export function watchGate(lab: Lab, name: string, files: SecretFiles): GateWatch {
  const { namespace: netns, cgroup, folder } = lab.node('alpha-1');
  const argv = [
    ...['env', 'ETCDCTL_API=3', 'etcdctl', '--endpoints=https://127.0.0.1:2379'],
    ...[`--cacert=${files.ca}`, `--cert=${files.certificate}`, `--key=${files.privateKey}`],
    ...['watch', `cilium/state/services/v1/alpha/${NAMESPACE}/ticker`, '--write-out=json'],
  ];
  const log = join(folder, `watch-${name}.log`);
  const running = startProcess(argv, { netns, cgroup: join(cgroup, 'system'), log });
  return {
    changes: () => changesIn(running.output()),
    isRunning: running.isRunning,
    [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
  };
}

function changesIn(output: string): Change[] {
  // The last line may be a part of one.
  const lines = output.slice(0, output.lastIndexOf('\n') + 1).split('\n');
  return lines.filter(Boolean).flatMap((line) => {
    const { Events = [] }: { Events?: { kv: { version: number; value: string } }[] } =
      JSON.parse(line);
    return Events.map(({ kv }) => {
      const value = Buffer.from(kv.value, 'base64').toString('utf8');
      const ports = [...value.matchAll(/"Port":(\d+)/gi)].map(([, port]) => Number(port));
      return { version: kv.version, port: Math.max(...ports) };
    });
  });
}

/** What a gate says of its callers: their names, and the SHA-256 of their certificates. */
export async function callersOf(
  lab: Lab,
  cluster: string,
): Promise<readonly { readonly name: string; readonly fingerprint: string }[]> {
  const { gate } = await statusOf(lab, cluster);
  return gate.clients.filter(({ kind }) => kind !== 'refused');
}

interface ApiserverStatus {
  readonly gate: {
    readonly clients: readonly { name: string; kind: string; fingerprint: string }[];
    readonly certificateExpiresAt: number;
  };
  readonly nodes: readonly SessionStatus[];
  readonly machines: readonly SessionStatus[];
}

/** A session of a node or of a machine. */
interface SessionStatus {
  readonly node?: string;
  readonly machine?: string;
  readonly state: string;
  readonly forMs: number;
}

/** What the apiserver of a cluster answers when it is asked for its status. */
export async function statusOf(lab: Lab, cluster: string): Promise<ApiserverStatus> {
  const { name } = lab.cluster(cluster).first;
  const argv = ['curl', '--silent', '--show-error', '--max-time', '5'];
  const { stdout } = await lab.execOnNode(name, [...argv, 'http://127.0.0.1:9880/status']);
  return JSON.parse(stdout);
}

/** Starts it; resolves when all streams of traffic run. */
export async function startBustle(lab: Lab): Promise<Bustle> {
  const stopping = new AbortController();
  const { signal } = stopping;
  const faults = new Set<string>();
  let port = FIRST_PORT;
  const write = (): Promise<unknown> =>
    lab.apiserver('alpha').manifests.write(ticker(lab, 'alpha', { app: 'web', port }));
  await write();
  // What a cluster hears of another's Service is used where it has one of that name.
  await lab.apiserver('beta').manifests.write(ticker(lab, 'beta', { app: 'nobody', port }));
  const traffic = new Map<string, LabProcess>();
  for (const place of ['client', 'friend', 'db'] as const) {
    const argv = [process.execPath, CLIENT, JSON.stringify(targetsOf(lab, place))];
    traffic.set(place, place === 'db' ? lab.machine(place).spawn(argv) : lab.spawn(place, argv));
  }
  for (const [place, { output }] of traffic) {
    await lab.waitFor(`the streams of ${place}`, () => output().includes('streams run'));
  }
  const known = new Map<string, ReadonlyMap<string, unknown>>();
  for (const name of AGENTS) known.set(name, await identitiesOf(lab, name));
  const ticking = repeat(TICK_MS, signal, async () => {
    port += 1;
    await write();
  });
  const looking = repeat(LOOK_MS, signal, async () => {
    for (const name of AGENTS) {
      const { clusters } = await agentOf(lab, name).status();
      for (const { name: cluster, state } of clusters) {
        if (!WHOLE.includes(state.kind)) faults.add(`${name}: ${cluster} was ${state.kind}`);
      }
      const now = await identitiesOf(lab, name);
      for (const [prefix, identity] of known.get(name) ?? []) {
        if (now.get(prefix) !== identity) {
          faults.add(`${name}: ${prefix} was ${now.get(prefix)}, expected ${identity}`);
        }
      }
    }
    for (const cluster of ['alpha', 'beta']) {
      const { nodes, machines } = await statusOf(lab, cluster);
      // One that goes over to another certificate may be between two streams: nothing is withdrawn within the grace time.
      for (const { node, machine, state, forMs } of [...nodes, ...machines]) {
        if (state === 'gone' && forMs > LONGEST_ABSENCE_MS) {
          faults.add(`the session of ${node ?? machine} was gone`);
        }
      }
    }
  });
  return {
    faults,
    async flows(what) {
      const wanted = port + 1;
      for (const name of AGENTS) {
        await lab.waitFor(`${name} to hear of what is written: ${what}`, async () => {
          const rows = JSON.stringify(await agentOf(lab, name).map('services'));
          const ports = [...rows.matchAll(/\b\d{5}\b/g)].map(Number);
          return ports.some((found) => found >= wanted && found <= port);
        });
      }
      return wanted;
    },
    async stop() {
      stopping.abort();
      await Promise.all([ticking, looking]);
      const reports = new Map<string, MixedReport>();
      for (const [place, running] of traffic) {
        running.kill('SIGTERM');
        await running.exited;
        const report: MixedReport = JSON.parse(running.output().trim().split('\n').at(-1) ?? '');
        reports.set(place, report);
      }
      return reports;
    },
  };
}

/** Does something again and again, with a pause in between, until `signal` aborts. */
async function repeat(ms: number, signal: AbortSignal, act: () => Promise<void>): Promise<void> {
  while (!signal.aborted) {
    await act();
    await systemClock.sleep(ms, signal).catch(() => undefined);
  }
}

function agentOf(lab: Lab, name: (typeof AGENTS)[number]) {
  return name === 'db' ? lab.machine(name).agent : lab.agent(name);
}

async function identitiesOf(
  lab: Lab,
  name: (typeof AGENTS)[number],
): Promise<ReadonlyMap<string, unknown>> {
  const rows = await agentOf(lab, name).map('ipcache');
  return new Map(rows.map(({ prefix, identity }) => [String(prefix), identity]));
}

/** Whom somebody calls, over both families: pods of both clusters and the machine; the last for as long as it goes on. */
function targetsOf(lab: Lab, from: 'client' | 'friend' | 'db'): MixedTargets {
  const others = (['client', 'friend', 'web-beta', 'db'] as const).filter((name) => name !== from);
  const targets = others.flatMap((name): Target[] =>
    ([4, 6] as const).map((family) => ({
      name: `${name}${family}`,
      address: addressOf(lab, name, family),
      port: PORT,
    })),
  );
  return {
    rate: CONNECTIONS_A_SECOND,
    connections: targets,
    streams: targets.slice(-2),
    datagrams: [],
  };
}

/** A Service; the port of its backends says how often it was changed. */
function ticker(
  lab: Lab,
  cluster: string,
  { app, port }: { readonly app: string; readonly port: number },
): KubernetesObject {
  const [network = ''] = lab.cluster(cluster).serviceCidrs;
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: {
      name: 'ticker',
      namespace: NAMESPACE,
      annotations: { 'service.cilium.io/global': 'true' },
    },
    spec: {
      type: 'ClusterIP',
      clusterIP: network.replace(/\.0\/\d+$/, '.250'),
      selector: { app },
      ports: [{ name: 'http', port: 80, targetPort: port, protocol: 'TCP' }],
    },
  };
}
