/** Controllers that may do what a test allows them, before a real API server: what is missing has to be named by their status. */
import type { Test } from 'tap';
import {
  type ControllersOptions,
  createControllers,
} from '../../clustermesh-apiserver/controllers/run.ts';
import { openKubernetes } from '../../clustermesh-apiserver/kubernetes/api.ts';
import { connectionReader } from '../../mesh/remote/connection.ts';
import { systemClock } from '../../mesh/runtime/clock.ts';
import { createLogger } from '../../mesh/runtime/log.ts';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import { parseClusterId, parseClusterName } from '../../mesh/wire/ids.ts';
import type { KubeCluster } from '../peers/kube-cluster.ts';
import type { KubeRule, KubeUser } from '../peers/kube-user.ts';
import { SHORT_LEASE } from './controllers-rig.ts';

const NAMESPACE = 'isthmus-system';

/** Controllers of one user whose permissions change. */
export interface PermissionRig {
  /** Lets the controllers do this and nothing else; resolves when the API server judges so. */
  allow(rules: readonly KubeRule[]): Promise<void>;
  start(): Promise<RestrictedReplica>;
}

/** Controllers at work. */
export interface RestrictedReplica extends AsyncDisposable {
  /** Everything that status says, as text. */
  status(): string;
}

/** Makes the namespace of the Lease. `parts` is asked for each replica, by its number. */
export async function openPermissionRig(
  t: Test,
  options: {
    readonly cluster: KubeCluster;
    readonly user: KubeUser;
    readonly parts: (serial: number) => NonNullable<ControllersOptions['parts']>;
    readonly endpointSliceSync?: ControllersOptions['endpointSliceSync'];
  },
): Promise<PermissionRig> {
  const { cluster, user, parts, endpointSliceSync } = options;
  const directory = await openTempDir('permissions-peers');
  t.teardown(() => directory[Symbol.asyncDispose]());
  await cluster.ask('POST', '/api/v1/namespaces', { body: { metadata: { name: NAMESPACE } } });
  let serial = 0;
  let grants = 0;
  return {
    async allow(rules) {
      grants += 1;
      // The last rule is what is waited for: so it is another one each time.
      const mark = { apiGroups: ['test'], resources: ['marks'], resourceNames: [`m${grants}`] };
      await user.grant([...rules, { ...mark, verbs: ['get'] }]);
    },
    async start() {
      serial += 1;
      const api = await openKubernetes({ kubeconfig: user.kubeconfig, clock: systemClock });
      const controllers = createControllers({
        api,
        cluster: { name: parseClusterName('alpha'), id: parseClusterId(1), max: 255 },
        directory: directory.path,
        readConnection: connectionReader({ clock: systemClock }),
        nodeKind: 'Node',
        replica: `replica-${serial}`,
        leaseNamespace: NAMESPACE,
        leaseTimes: SHORT_LEASE,
        namespacesAreGlobal: true,
        endpointSliceSync,
        parts: parts(serial),
        clock: systemClock,
        logger: createLogger('permissions', { level: 'silent' }),
      });
      const stopping = new AbortController();
      const running = controllers.run(stopping.signal);
      running.catch(() => undefined);
      return {
        status: () => JSON.stringify(controllers.status),
        async [Symbol.asyncDispose]() {
          stopping.abort();
          await running.finally(() => api[Symbol.asyncDispose]());
        },
      };
    },
  };
}
