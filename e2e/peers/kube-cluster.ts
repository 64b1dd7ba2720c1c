/** A real Kubernetes control plane for one test: kube-apiserver on its own etcd, and kube-controller-manager on demand. */
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { type EtcdServer, openEtcdServer } from '../../mesh/testing/etcd-server.ts';
import { findFreePort } from '../../mesh/testing/free-port.ts';
import { openTempDir, type TempDir } from '../../mesh/testing/temp-dir.ts';
import { createTestAuthority } from '../../mesh/testing/test-certificates.ts';
import { crdFiles, installCrds } from './kube-crds.ts';
import {
  apiserverFlags,
  controllerManagerFlags,
  type KeyFiles,
  type KubeProcess,
  prepareKubeProcess,
} from './kube-process.ts';
import { builtKubePrograms, type KubePrograms } from './kube-programs.ts';
import {
  expectOk,
  type KubeAnswer,
  type KubeRequestOptions,
  openKubeRequester,
} from './kube-request.ts';
import {
  createCertificateUser,
  createServiceAccountUser,
  type KubeRule,
  type KubeUser,
  USERS_NAMESPACE,
} from './kube-user.ts';
import { type KubeEndpoint, writeKubeconfig } from './kubeconfig.ts';
import { runKubectl } from './kubectl.ts';

/** What keeps workloads, slices, namespaces and service accounts as a real cluster does: the controllers by default. */
export const DEFAULT_CONTROLLERS: readonly string[] = [
  'deployment-controller',
  'endpointslice-controller',
  'endpointslice-mirroring-controller',
  'garbage-collector-controller',
  'namespace-controller',
  'replicaset-controller',
  'root-ca-certificate-publisher-controller',
  'serviceaccount-controller',
  'serviceaccount-token-controller',
  'statefulset-controller',
];

/** Options of `openKubeCluster`. */
export interface KubeClusterOptions {
  /** Of the cluster: in messages and the names of its files. */
  readonly name: string;
  /** Runs kube-controller-manager with the default list, or with these. Default: it does not run. */
  readonly controllers?: boolean | readonly string[];
  /** Ranges of ClusterIPs: one, or one of each family. Default `10.96.0.0/16`. */
  readonly serviceCidrs?: readonly string[];
  /** Default: what `scripts/peers.sh` builds. */
  readonly programs?: KubePrograms;
  /** Address it listens on. Default 127.0.0.1. */
  readonly host?: string;
  /** Further flags of kube-apiserver; the last of two equal ones wins. */
  readonly apiserverArgs?: readonly string[];
}

/** A running cluster. Disposing ends all its processes and removes its files. */
export interface KubeCluster extends AsyncDisposable {
  readonly name: string;
  /** `https://127.0.0.1:port` and the CA's file; both stay over restarts. */
  readonly endpoint: KubeEndpoint;
  /** Bearer token of the administrator, for use through proxies. */
  readonly adminToken: string;
  readonly adminKubeconfig: string;
  readonly etcd: EtcdServer;
  readonly apiserver: KubeProcess;
  /** Undefined without controllers. */
  readonly controllerManager: KubeProcess | undefined;
  /** Files of the cluster; whoever needs some of its own may put them there. */
  readonly dir: TempDir;
  /** Runs the real kubectl as the administrator, or with another kubeconfig; resolves to its standard output. */
  kubectl(
    args: readonly string[],
    options?: { readonly input?: string; readonly kubeconfig?: string },
  ): Promise<string>;
  /** Sends a request as the administrator; resolves whatever the status. */
  send(method: string, path: string, options?: KubeRequestOptions): Promise<KubeAnswer>;
  /** As `send`, but throws when the answer is no success. */
  ask(method: string, path: string, options?: KubeRequestOptions): Promise<unknown>;
  /** Makes a user with RBAC rules: by default a service account of the namespace `test-users` with a token. */
  addUser(
    name: string,
    options?: {
      readonly rules?: readonly KubeRule[];
      readonly credential?: 'token' | 'certificate';
      readonly namespace?: string;
    },
  ): Promise<KubeUser>;
  /** Installs CRDs, see `crdFiles`, and waits until they are served. */
  installCrds(names: readonly string[]): Promise<void>;
  /** Ends kube-apiserver; etcd and kube-controller-manager stay. By default as `KubeProcess.end` does. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Starts it again on the same port and data; resolves when it is ready. */
  start(): Promise<void>;
  restart(): Promise<void>;
  /** Saves all objects; resolves to a file. */
  backUp(): Promise<string>;
  /** Brings back what `backUp` saved: resource versions go backwards, as after a disaster. */
  restore(file: string): Promise<void>;
}

/** Starts a cluster with nothing in it and resolves when it is ready. */
export async function openKubeCluster(options: KubeClusterOptions): Promise<KubeCluster> {
  const { name, host = '127.0.0.1', programs = builtKubePrograms() } = options;
  const controllers = options.controllers === true ? DEFAULT_CONTROLLERS : options.controllers;
  const dir = await openTempDir(`kube-${name}`);
  const stopping = new AbortController();
  const closers: (() => Promise<unknown> | unknown)[] = [
    () => dir[Symbol.asyncDispose](),
    () => stopping.abort(),
  ];
  const dispose = async (): Promise<void> => {
    for (let close = closers.pop(); close !== undefined; close = closers.pop()) await close();
  };
  try {
    const etcd = await openEtcdServer({ programs, args: ['--quota-backend-bytes=8589934592'] });
    closers.push(() => etcd[Symbol.asyncDispose]());
    const authority = await createTestAuthority(dir);
    const serving = await authority.issue('kube-apiserver');
    const serviceAccountKey = await writeKeyPair(dir);
    const adminToken = randomBytes(16).toString('hex');
    const tokensFile = dir.file('tokens.csv');
    await writeFile(tokensFile, `${adminToken},admin,admin,"system:masters"\n`, { mode: 0o600 });
    const admin = await authority.issue('admin/O=system:masters');

    const port = await findFreePort();
    const endpoint = { url: `https://${host}:${port}`, caFile: authority.caFile };
    const adminKubeconfig = await writeKubeconfig(dir.file('admin.kubeconfig'), endpoint, {
      kind: 'certificate',
      ...admin,
    });
    const requester = await openKubeRequester(endpoint, adminToken);
    closers.push(() => requester[Symbol.dispose]());
    const apiserver = prepareKubeProcess(
      programs.apiserver,
      apiserverFlags({
        etcdEndpoint: etcd.endpoint,
        host,
        port,
        serving,
        serviceAccountKey,
        tokensFile,
        serviceCidrs: options.serviceCidrs ?? ['10.96.0.0/16'],
        serviceAccountAdmission:
          controllers !== undefined &&
          controllers !== false &&
          controllers.includes('serviceaccount-controller'),
        args: options.apiserverArgs ?? [],
      }),
      {
        name: 'kube-apiserver',
        probe: () => expectOk(requester, ['GET', '/readyz']),
        signal: stopping.signal,
      },
    );
    closers.push(() => apiserver.end('SIGKILL'));
    await apiserver.start();
    const controllerManager =
      controllers === undefined || controllers === false
        ? undefined
        : await prepareControllerManager(programs.controllerManager, {
            kubeconfig: adminKubeconfig,
            caFile: authority.caFile,
            serving,
            serviceAccountKey,
            controllers,
            signal: stopping.signal,
          });
    if (controllerManager !== undefined) {
      closers.push(() => controllerManager.end('SIGKILL'));
      await controllerManager.start();
    }
    const usersContext = { dir, endpoint, authority, requester };
    const kubectl: KubeCluster['kubectl'] = (args, { input, kubeconfig } = {}) =>
      runKubectl(programs.kubectl, [`--kubeconfig=${kubeconfig ?? adminKubeconfig}`, ...args], {
        home: dir.path,
        input,
      });
    let backUps = 0;
    return {
      name,
      endpoint,
      adminToken,
      adminKubeconfig,
      etcd,
      apiserver,
      controllerManager,
      dir,
      kubectl,
      send: requester.send,
      ask: (method, path, request) => expectOk(requester, [method, path], request),
      async addUser(userName, { rules = [], credential = 'token', namespace } = {}) {
        const user =
          credential === 'token'
            ? await createServiceAccountUser(usersContext, {
                namespace: namespace ?? USERS_NAMESPACE,
                name: userName,
              })
            : await createCertificateUser(usersContext, userName);
        await user.grant(rules);
        return user;
      },
      installCrds: async (names) => installCrds(await crdFiles(names), { kubectl, requester }),
      stop: (signal) => apiserver.end(signal),
      start: () => apiserver.start(),
      async restart() {
        await apiserver.end();
        await apiserver.start();
      },
      async backUp() {
        backUps += 1;
        const file = dir.file(`backup-${backUps}.db`);
        await etcd.etcdctl('snapshot', 'save', file);
        return file;
      },
      async restore(file) {
        await controllerManager?.end('SIGKILL');
        await apiserver.end('SIGKILL');
        await etcd.restore(file);
        await apiserver.start();
        await controllerManager?.start();
      },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

async function prepareControllerManager(
  program: string,
  options: {
    readonly kubeconfig: string;
    readonly caFile: string;
    readonly serving: Parameters<typeof controllerManagerFlags>[0]['serving'];
    readonly serviceAccountKey: KeyFiles;
    readonly controllers: readonly string[];
    readonly signal: AbortSignal;
  },
): Promise<KubeProcess> {
  const port = await findFreePort();
  const endpoint = { url: `https://127.0.0.1:${port}`, caFile: options.caFile };
  const probe = async (): Promise<void> => {
    using health = await openKubeRequester(endpoint, '');
    await expectOk(health, ['GET', '/healthz']);
  };
  return prepareKubeProcess(program, controllerManagerFlags({ ...options, port }), {
    name: 'kube-controller-manager',
    probe,
    signal: options.signal,
  });
}

async function writeKeyPair(dir: TempDir): Promise<KeyFiles> {
  const pair = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const files = {
    privateFile: dir.file('service-account.key'),
    publicFile: dir.file('service-account.pub'),
  };
  const privateKey = pair.privateKey.export({ type: 'sec1', format: 'pem' });
  await writeFile(files.privateFile, privateKey, { mode: 0o600 });
  await writeFile(files.publicFile, pair.publicKey.export({ type: 'spki', format: 'pem' }));
  return files;
}
