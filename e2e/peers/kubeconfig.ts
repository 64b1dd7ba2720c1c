/** Kubeconfig files for the tests' users. */
import { writePrivateFile } from '../../pki/layout.ts';

/** Where an API server is to be reached: itself, or a proxy in front of it. */
export interface KubeEndpoint {
  /** `https://host:port`. */
  readonly url: string;
  /** PEM file of the authority that signed its certificate. */
  readonly caFile: string;
}

/** How a user proves who it is: by files, which may be replaced later. */
export type KubeCredential =
  | { readonly kind: 'token'; readonly tokenFile: string }
  | { readonly kind: 'certificate'; readonly certFile: string; readonly keyFile: string };

/** Writes a kubeconfig with one context, `test`; JSON is YAML. Replaces what is there. */
export async function writeKubeconfig(
  path: string,
  endpoint: KubeEndpoint,
  credential: KubeCredential,
): Promise<string> {
  const user =
    credential.kind === 'token'
      ? { tokenFile: credential.tokenFile }
      : { 'client-certificate': credential.certFile, 'client-key': credential.keyFile };
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'test',
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
    clusters: [
      {
        name: 'test',
        cluster: { server: endpoint.url, 'certificate-authority': endpoint.caFile },
      },
    ],
    users: [{ name: 'test', user }],
  };
  await writePrivateFile(path, JSON.stringify(config, null, 2));
  return path;
}

/** A kubeconfig with a context for each cluster, of its name, as its administrator; to be written as JSON, which is YAML. */
export function contextsOf(
  clusters: readonly {
    readonly name: string;
    readonly endpoint: KubeEndpoint;
    readonly adminToken: string;
  }[],
): object {
  return {
    apiVersion: 'v1',
    kind: 'Config',
    contexts: clusters.map(({ name }) => ({ name, context: { cluster: name, user: name } })),
    clusters: clusters.map(({ name, endpoint }) => ({
      name,
      cluster: { server: endpoint.url, 'certificate-authority': endpoint.caFile },
    })),
    users: clusters.map(({ name, adminToken }) => ({ name, user: { token: adminToken } })),
  };
}
