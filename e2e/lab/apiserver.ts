/** The clustermesh-apiserver of a cluster, with the etcd that it starts for itself, and the manifests that it watches. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { secretFiles } from '../../pki/layout.ts';
import { SECRET_NAMES } from '../../pki/names.ts';
import { enrollmentCaFiles, peersFolder, peerTrustFolder, pkiFolder } from './certificates.ts';
import { execute } from './command.ts';
import { createDaemon, type Daemon } from './daemon.ts';
import { AGENT_ACCOUNT, KUBERNETES_NAMESPACE, type LabKubernetes } from './kubernetes.ts';
import { LabError } from './lab-error.ts';
import { createManifests, type Manifests } from './manifests.ts';
import type { ClusterPlan } from './plan.ts';
import { waitFor } from './wait-for.ts';

/** A running apiserver. */
export interface LabApiserver extends Daemon {
  readonly manifests: Manifests;
  /** Halts the cluster's etcd (SIGSTOP): it holds its connections and answers nothing. */
  stopEtcd(): Promise<void>;
  /** Lets it go on. */
  startEtcd(): Promise<void>;
  /** Kills the cluster's etcd; the apiserver starts another one. */
  killEtcd(): Promise<void>;
}

const MAIN = fileURLToPath(new URL('../../clustermesh-apiserver/main.js', import.meta.url));
const HEALTH_ADDRESS = '127.0.0.1:9880';
/** Where machines enrol, at the addresses of the cluster's first node. */
export const ENROLLMENT_PORT = 2382;
/** Where agents have their sessions, and administrators ask. */
export const REGISTRY_PORT = 2381;

/** Puts the apiserver of a cluster together. */
export function createApiserver(
  cluster: ClusterPlan,
  options: {
    readonly persistent: boolean;
    /** Further flags of it. */
    readonly flags?: readonly string[] | undefined;
    /** The API server that it reads. Default: it watches files. */
    readonly kubernetes?: LabKubernetes | undefined;
    readonly signal?: AbortSignal | undefined;
  },
): LabApiserver {
  const { kubernetes } = options;
  const place = { netns: cluster.first.namespace, cgroup: join(cluster.first.cgroup, 'apiserver') };
  const isReady = async (): Promise<boolean> => {
    const argv = [
      'curl',
      '--silent',
      '--show-error',
      '--max-time',
      '2',
      '--write-out',
      ' %{http_code}',
    ];
    const url = `http://${HEALTH_ADDRESS}/readyz`;
    const answer = await execute([...argv, url], { ...place, signal: options.signal });
    if (answer.stdout.endsWith(' 200')) return true;
    throw new LabError('command', (answer.stderr || answer.stdout).trim(), { retryable: true });
  };
  const daemon = createDaemon({
    name: cluster.name,
    title: `apiserver of ${cluster.name}`,
    argv: [
      ...[process.execPath, MAIN],
      ...[...sourceFlags(cluster, kubernetes), ...flags(cluster), ...machineFlags(cluster)],
      ...(options.flags ?? []),
    ],
    ...place,
    log: join(cluster.folder, 'apiserver.log'),
    persistent: options.persistent,
    signal: options.signal,
    ready: (signal) =>
      waitFor(`the apiserver of ${cluster.name} to be ready`, isReady, {
        signal,
        // Each look is a program that is started.
        intervalMs: 250,
        timeoutMs: 90_000,
      }),
  });
  const signalEtcd = async (signal: NodeJS.Signals): Promise<void> => {
    process.kill(await findEtcd(place.cgroup, cluster.name), signal);
  };
  return {
    ...daemon,
    manifests: kubernetes?.manifests ?? createManifests(cluster.manifests),
    stopEtcd: () => signalEtcd('SIGSTOP'),
    startEtcd: () => signalEtcd('SIGCONT'),
    killEtcd: () => signalEtcd('SIGKILL'),
  };
}

async function findEtcd(cgroup: string, cluster: string): Promise<number> {
  const pids = (await readFile(join(cgroup, 'cgroup.procs'), 'utf8')).split('\n').filter(Boolean);
  for (const pid of pids) {
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (name.trim() === 'etcd') return Number(pid);
  }
  throw new LabError('unknown-name', `cannot find the etcd of ${cluster}: it is not running`);
}

function sourceFlags(cluster: ClusterPlan, kubernetes: LabKubernetes | undefined): string[] {
  return kubernetes === undefined
    ? [`--manifests=${cluster.manifests}`]
    : [
        '--mode=any-cni',
        `--kubeconfig=${kubernetes.kubeconfig}`,
        `--lease-namespace=${KUBERNETES_NAMESPACE}`,
        ...(cluster.nodesEnroll
          ? [`--enrollment-service-account=${KUBERNETES_NAMESPACE}:${AGENT_ACCOUNT}`]
          : []),
        ...(cluster.mcs
          ? [
              '--clustermesh-enable-mcs-api',
              '--clustermesh-enable-endpoint-sync',
              `--clustermesh-config=${peersFolder(cluster.first)}`,
            ]
          : []),
      ];
}

function flags(cluster: ClusterPlan): string[] {
  const server = secretFiles(pkiFolder(cluster), SECRET_NAMES.server);
  return [
    `--cluster-name=${cluster.name}`,
    `--cluster-id=${cluster.id}`,
    `--data-dir=${join(cluster.folder, 'data')}`,
    `--tls-cert-file=${server.certificate}`,
    `--tls-key-file=${server.privateKey}`,
    `--trusted-ca-file=${server.ca}`,
    `--peer-trust-dir=${peerTrustFolder(cluster)}`,
    `--health-address=${HEALTH_ADDRESS}`,
  ];
}

function machineFlags(cluster: ClusterPlan): string[] {
  if (!cluster.takesMachines) return [];
  const authority = enrollmentCaFiles(cluster);
  return [
    `--enrollment-address=[::]:${ENROLLMENT_PORT}`,
    `--enrollment-ca-cert-file=${authority.certificate}`,
    `--enrollment-ca-key-file=${authority.privateKey}`,
    '--kvstoremesh',
    `--clustermesh-config=${peersFolder(cluster.first)}`,
  ];
}
