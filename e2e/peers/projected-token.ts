/** Tokens of service accounts as a kubelet projects them into pods: from the TokenRequest API, bound to the pod. */
import type { KubeCluster } from './kube-cluster.ts';

/** Whom tokens are for that nodes enrol by. */
const AUDIENCE = 'isthmus-registry';
/** The least that an API server gives. */
const DEFAULT_LIFE_SECONDS = 600;

/** A pod that somebody wants a token for. */
export interface TokenPod {
  readonly namespace: string;
  readonly account: string;
  readonly name: string;
  /** Node that it runs on; none: it waits to be scheduled. */
  readonly node?: string | undefined;
}

type Cluster = Pick<KubeCluster, 'ask'>;

/** Makes a pod with its namespace and service account; who is there already is taken. Resolves to its uid. */
export async function makeTokenPod(cluster: Cluster, pod: TokenPod): Promise<string> {
  const { namespace, account, name, node } = pod;
  const inNamespace = `/api/v1/namespaces/${namespace}`;
  const taken = { also: [409] };
  const body = { metadata: { name: namespace } };
  await cluster.ask('POST', '/api/v1/namespaces', { body, ...taken });
  await cluster.ask('POST', `${inNamespace}/serviceaccounts`, {
    body: { metadata: { name: account } },
    ...taken,
  });
  await cluster.ask('POST', `${inNamespace}/pods`, {
    body: {
      metadata: { name },
      spec: {
        serviceAccountName: account,
        automountServiceAccountToken: false,
        containers: [{ name: 'agent', image: 'none' }],
        ...(node === undefined ? {} : { nodeName: node }),
      },
    },
    ...taken,
  });
  const made = await cluster.ask('GET', `${inNamespace}/pods/${name}`);
  const { metadata } = made as { metadata: { uid: string } };
  return metadata.uid;
}

/** A token of a service account. `uid`: of the pod it is bound to; none: it is bound to nothing. Default life: 600 s. */
export async function requestToken(
  cluster: Cluster,
  pod: TokenPod,
  options: {
    readonly uid?: string;
    readonly audience?: string;
    readonly lifeSeconds?: number;
  } = {},
): Promise<string> {
  const { namespace, account, name } = pod;
  const { uid, audience = AUDIENCE, lifeSeconds = DEFAULT_LIFE_SECONDS } = options;
  const bound = { kind: 'Pod', apiVersion: 'v1', name, uid };
  const answer = await cluster.ask(
    'POST',
    `/api/v1/namespaces/${namespace}/serviceaccounts/${account}/token`,
    {
      body: {
        spec: {
          audiences: [audience],
          expirationSeconds: lifeSeconds,
          ...(uid === undefined ? {} : { boundObjectRef: bound }),
        },
      },
    },
  );
  const { status } = answer as { status: { token: string } };
  return status.token;
}
