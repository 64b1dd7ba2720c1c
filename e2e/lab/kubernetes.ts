/** A lab cluster's Kubernetes: a real API server with the controllers that keep slices, reached from the cluster's node. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { projectPath } from '../../mesh/runtime/project-path.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { type KubeCluster, openKubeCluster } from '../peers/kube-cluster.ts';
import { makeTokenPod, requestToken } from '../peers/projected-token.ts';
import { tokenFile } from './certificates.ts';
import { LabError } from './lab-error.ts';
import { createApiManifests, type Kubectl, type Manifests } from './manifests.ts';
import type { ClusterPlan } from './plan.ts';
import { startProcess } from './process.ts';
import { connectSockets } from './relay.ts';
import { waitFor } from './wait-for.ts';

/** A cluster's control plane, running. Disposing ends it. */
export interface LabKubernetes extends AsyncDisposable {
  /** Name of the cluster. */
  readonly name: string;
  readonly kube: KubeCluster;
  readonly manifests: Manifests;
  readonly kubectl: Kubectl;
  /** Kubeconfig of the clustermesh-apiserver, good in the namespace of the cluster's first node. */
  readonly kubeconfig: string;
  /** Gives each node a token for its agent, as a kubelet does, where they enrol by one; the nodes have to be there. */
  writeTokens(): Promise<void>;
  /** Lets the node's namespace reach it; call it when that is there. */
  reachFromNode(): Promise<void>;
}

/** Slices and clean-up; kubelets and service accounts there are none. */
const CONTROLLERS = ['endpointslice-controller', 'garbage-collector-controller'];
/** Kinds beyond Kubernetes' own that a topology may have. */
const CRDS = ['ciliumnetworkpolicies'];
/** No kubelet is there to renew it: longer than any lab lives. */
const TOKEN_LIFE_SECONDS = 86_400;
const RELAY_MAIN = fileURLToPath(new URL('./relay/main.js', import.meta.url));

/** What a user applies to let the clustermesh-apiserver in, and what more for the Multi-Cluster Services API. */
const RBAC = ['rbac-any-cni.yaml'];
const ENROLLMENT_RBAC = ['rbac-enrollment.yaml'];
const MCS_RBAC = ['rbac-service-exports.yaml', 'rbac-controllers.yaml', 'rbac-mcs.yaml'];

/** Namespace of the clustermesh-apiserver's service account and its leases. */
export const KUBERNETES_NAMESPACE = 'isthmus-system';
/** The agents' service account there, where nodes enrol. */
export const AGENT_ACCOUNT = 'clustermesh-agent';

/**
 * Starts it on the loopback of the machine, with the CRDs and the RBAC that the clustermesh-apiserver needs, and what `files`
 * hold besides.
 */
export async function openLabKubernetes(
  cluster: ClusterPlan,
  { files: further, signal }: { readonly files: readonly string[]; readonly signal: AbortSignal },
): Promise<LabKubernetes> {
  const kube = await openKubeCluster({
    name: cluster.name,
    controllers: CONTROLLERS,
    serviceCidrs: cluster.serviceCidrs,
  });
  const opened: AsyncDisposable[] = [kube];
  const dispose = async (): Promise<void> => {
    for (let one = opened.pop(); one !== undefined; one = opened.pop()) {
      await one[Symbol.asyncDispose]();
    }
  };
  try {
    await kube.installCrds(CRDS);
    const files = [
      ...RBAC,
      ...(cluster.nodesEnroll ? ENROLLMENT_RBAC : []),
      ...(cluster.mcs ? MCS_RBAC : []),
      ...further,
    ];
    const paths = files.map((file) =>
      projectPath(`clustermesh-apiserver/kubernetes/manifests/${file}`),
    );
    await kube.kubectl(['apply', ...paths.flatMap((path) => ['-f', path])]);
    const { kubeconfig } = await kube.addUser('clustermesh-apiserver', {
      namespace: KUBERNETES_NAMESPACE,
    });
    const kubectl: Kubectl = (args, given) => kube.kubectl(args, given);
    return {
      name: cluster.name,
      kube,
      manifests: createApiManifests(kubectl, kube),
      kubectl,
      kubeconfig,
      async writeTokens() {
        if (!cluster.nodesEnroll) return;
        for (const node of cluster.nodes) {
          const pod = {
            namespace: KUBERNETES_NAMESPACE,
            account: AGENT_ACCOUNT,
            name: `agent-${node.name}`,
            node: node.name,
          };
          const uid = await makeTokenPod(kube, pod);
          const token = await requestToken(kube, pod, { uid, lifeSeconds: TOKEN_LIFE_SECONDS });
          await writePrivateFile(tokenFile(node), token);
        }
      },
      async reachFromNode() {
        const { hostname, port } = new URL(kube.endpoint.url);
        const path = join(cluster.folder, 'kubernetes.sock');
        opened.push(await connectSockets({ path }, { host: hostname, port: Number(port) }));
        const relay = startProcess([process.execPath, RELAY_MAIN, `127.0.0.1:${port}`, path], {
          netns: cluster.first.namespace,
          cgroup: join(cluster.first.cgroup, 'system'),
          log: join(cluster.folder, 'kubernetes-relay.log'),
        });
        opened.push(relay);
        await waitFor(
          `the relay to the API server of ${cluster.name}`,
          () => {
            if (relay.output().includes('ready')) return true;
            if (!relay.isRunning()) throw new LabError('command', `it ended: ${relay.output()}`);
            return false;
          },
          { signal },
        );
      },
      [Symbol.asyncDispose]: dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}
