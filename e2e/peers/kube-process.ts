/** The processes of a test cluster's control plane, and the flags they are started with. */
import { type ChildHandle, startChild } from '../../mesh/runtime/child-process.ts';
import type { CertificateFiles } from '../../mesh/testing/test-certificates.ts';
import { untilReady } from '../../mesh/testing/until-ready.ts';

const READY_TIMEOUT_MS = 60_000;
// kube-apiserver waits a minute for the watches of its clients.
const STOP_MS = 2000;

/** A process that a test ends and starts again. */
export interface KubeProcess {
  readonly pid: number;
  /** The last 20 lines it wrote, oldest first. */
  readonly lastLines: readonly string[];
  start(): Promise<void>;
  /** By SIGTERM, and SIGKILL 2 s later if a client holds it up; or by the signal given. Waits for its end. */
  end(signal?: NodeJS.Signals): Promise<void>;
  /** Sends a signal, such as SIGSTOP. */
  kill(signal: NodeJS.Signals): void;
}

/** Prepares a process; `probe` is asked until it does not throw. */
export function prepareKubeProcess(
  program: string,
  flags: readonly string[],
  options: {
    readonly name: string;
    readonly probe: () => Promise<unknown>;
    readonly signal: AbortSignal;
  },
): KubeProcess {
  const { name, probe, signal } = options;
  let child: ChildHandle | undefined;
  return {
    get pid() {
      return child?.pid ?? 0;
    },
    get lastLines() {
      return child?.lastLines ?? [];
    },
    async start() {
      child = startChild(program, flags, { signal, name, graceMs: STOP_MS });
      await untilReady(child, probe, { what: name, timeoutMs: READY_TIMEOUT_MS });
    },
    async end(how) {
      child?.kill('SIGCONT');
      if (how !== undefined) child?.kill(how);
      await (how === undefined ? child?.stop() : child?.exited);
    },
    kill: (how) => child?.kill(how),
  };
}

/** Flags of kube-apiserver: RBAC, no audit, and no admission plugin that needs another program. */
export function apiserverFlags(options: {
  readonly etcdEndpoint: string;
  readonly host: string;
  readonly port: number;
  readonly serving: CertificateFiles;
  readonly serviceAccountKey: KeyFiles;
  readonly tokensFile: string;
  readonly serviceCidrs: readonly string[];
  readonly serviceAccountAdmission: boolean;
  readonly args: readonly string[];
}): string[] {
  const { serving, serviceAccountKey } = options;
  return [
    `--etcd-servers=${options.etcdEndpoint}`,
    `--bind-address=${options.host}`,
    `--secure-port=${options.port}`,
    `--tls-cert-file=${serving.certFile}`,
    `--tls-private-key-file=${serving.keyFile}`,
    `--client-ca-file=${serving.caFile}`,
    `--token-auth-file=${options.tokensFile}`,
    '--service-account-issuer=https://kubernetes.default.svc',
    `--service-account-key-file=${serviceAccountKey.publicFile}`,
    `--service-account-signing-key-file=${serviceAccountKey.privateFile}`,
    '--authorization-mode=RBAC',
    `--service-cluster-ip-range=${options.serviceCidrs.join(',')}`,
    // Nobody is behind `kubernetes.default`, and loopback may not be written as its endpoint.
    '--endpoint-reconciler-type=none',
    '--allow-privileged=true',
    // It refuses pods until somebody has made their namespace's service account.
    ...(options.serviceAccountAdmission ? [] : ['--disable-admission-plugins=ServiceAccount']),
    ...options.args,
  ];
}

/** Flags of kube-controller-manager, with a list of controllers as it names them. */
export function controllerManagerFlags(options: {
  readonly kubeconfig: string;
  readonly port: number;
  readonly serving: CertificateFiles;
  readonly serviceAccountKey: KeyFiles;
  readonly controllers: readonly string[];
}): string[] {
  const { serving } = options;
  return [
    `--kubeconfig=${options.kubeconfig}`,
    '--bind-address=127.0.0.1',
    `--secure-port=${options.port}`,
    `--tls-cert-file=${serving.certFile}`,
    `--tls-private-key-file=${serving.keyFile}`,
    `--controllers=${options.controllers.join(',')}`,
    `--root-ca-file=${serving.caFile}`,
    `--service-account-private-key-file=${options.serviceAccountKey.privateFile}`,
    '--leader-elect=false',
    // Its own limit of 20 requests a second is for clusters that have time.
    '--kube-api-qps=1000',
    '--kube-api-burst=2000',
  ];
}

/** A key pair in two PEM files. */
export interface KeyFiles {
  readonly privateFile: string;
  readonly publicFile: string;
}
